"""``load_motion`` on AMASS, kimodo and ARKit files, and on folders of PERSONA and LHM."""

import json

import numpy as np
import pytest
import torch

from persona.data.motion.amass import PARTS
from persona.data.motion.camera import place_in_camera
from persona.data.motion.load import load_motion
from persona.data.motion.motion import combine
from persona.data.motion.soma import TREES
from persona.data.parameters import write_pose
from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.types import BodyPose

FRAMES = 5


def random_pose(num_expression, frames=FRAMES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    joints = 0.3 * torch.randn(frames, 55, 3, generator=generator)
    expression = torch.rand(frames, num_expression, generator=generator)
    return BodyPose.from_joints(joints, expression, torch.randn(frames, 3, generator=generator))


def amass_arrays(width, rate_key="mocap_framerate"):
    poses = 0.2 * np.random.default_rng(0).standard_normal((FRAMES, width))
    trans = np.zeros((FRAMES, 3))
    trans[:, 0] = np.arange(FRAMES)
    return {
        "poses": poses,
        "trans": trans,
        rate_key: np.array(60.0),
        "gender": np.array("neutral", dtype=object),
    }


@pytest.mark.parametrize(("width", "key"), [(156, "mocap_framerate"), (165, "mocap_frame_rate")])
def test_amass_is_turned_upright_and_its_hands_made_relative(tmp_path, body, width, key):
    arrays = amass_arrays(width, key)
    # A person who is upright in AMASS, where z is up: the root rotates y to z.
    arrays["poses"][:, :3] = [np.pi / 2, 0, 0]
    np.savez(tmp_path / "a.npz", **arrays)
    motion = load_motion(tmp_path / "a.npz", body, fps=None)
    assert motion.fps == 60 and motion.retarget_error_deg is None
    assert motion.pose.root.abs().max() < 1e-5
    body_part = torch.from_numpy(arrays["poses"][:, 3:66]).float().view(FRAMES, 21, 3)
    torch.testing.assert_close(motion.pose.body, body_part, atol=1e-5, rtol=0)
    hands = torch.from_numpy(arrays["poses"][:, -90:]).float().view(FRAMES, 30, 3)
    found = torch.cat([motion.pose.left_hand, motion.pose.right_hand], 1) + body.hands_mean
    torch.testing.assert_close(found, hands, atol=1e-5, rtol=0)
    steps = motion.pose.trans.diff(dim=0)
    torch.testing.assert_close(steps, torch.tensor([[1.0, 0, 0]]).expand(4, 3), atol=1e-4, rtol=0)
    vertices, _ = body(body.zero_identity(), motion.pose[2:3])
    assert vertices[..., 1].min().abs() < 0.05


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.update(mocap_framerate=np.array([60])),
        lambda a: a.update(mocap_framerate=np.array("60")),
        lambda a: a.update({key: a[key].astype(">f8") for key in ("poses", "trans")}),
        lambda a: a.update({key: a[key].astype("<f4") for key in ("poses", "trans")}),
    ],
)
def test_numbers_may_be_held_in_any_way(tmp_path, body, change):
    found, plain = (
        load_motion(damaged_npz(tmp_path, how), body, fps=None) for how in (change, lambda a: None)
    )
    assert found.fps == plain.fps == 60
    torch.testing.assert_close(found.pose.joints, plain.pose.joints, atol=1e-5, rtol=0)


def test_the_user_may_say_what_is_up(tmp_path, body):
    np.savez(tmp_path / "y_up.npz", **amass_arrays(165))
    motion = load_motion(tmp_path / "y_up.npz", body, fps=None, up="y")
    root = torch.from_numpy(amass_arrays(165)["poses"][:, :3]).float()
    # Only the heading may change, so the up axis of each frame is as given.
    found, given = (matrix_from_axis_angle(r)[:, 1] for r in (motion.pose.root, root))
    torch.testing.assert_close(found[:, 1], given[:, 1], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match="up=w is unknown: choose x, -x, y"):
        load_motion("walk", body, up="w")


def test_persona_folder_comes_back_in_camera_coordinates(tmp_path, body):
    pose = random_pose(body.num_expression, frames=11)
    for frame in range(11):
        write_pose(tmp_path / "smplx" / "params" / f"{frame}.json", pose[frame])
    motion = load_motion(tmp_path, body)
    assert len(motion) == 11 and motion.fps == 30
    _, joints = body.shape(body.zero_identity())
    back = place_in_camera(motion.pose, joints[0])
    for name in ("root", "trans", "body", "left_hand", "expression"):
        torch.testing.assert_close(getattr(back, name), getattr(pose, name), atol=1e-5, rtol=0)


def test_lhm_folder_has_the_same_pose_with_flat_hands_as_zero(tmp_path, body, caplog):
    """PERSONA's files rewritten as LHM's: flat hands are zero, LHM's keys, no expression."""
    pose = random_pose(body.num_expression, frames=3)
    for frame in range(3):
        path = tmp_path / "smplx_params" / f"{frame + 1:05d}.json"
        write_pose(path, pose[frame])
        values = json.loads(path.read_text())
        left, right = body.hands_mean.split(15)
        for key, mean in (("lhand_pose", left), ("rhand_pose", right)):
            values[key] = (torch.tensor(values[key]) + mean).tolist()
        del values["expr"]
        values |= {"betas": [0.0] * 10, "img_size_wh": [720, 1280], "pad_ratio": 0.2}
        path.write_text(json.dumps(values))
    motion = load_motion(tmp_path, body)
    back = place_in_camera(motion.pose, body.shape(body.zero_identity())[1][0])
    for name in ("root", "trans", "body", "left_hand", "right_hand", "jaw"):
        torch.testing.assert_close(getattr(back, name), getattr(pose, name), atol=1e-5, rtol=0)
    assert not motion.pose.expression.any() and not caplog.text


def test_foreign_expressions_are_left_out_with_a_warning(tmp_path, body, caplog):
    write_pose(tmp_path / "smplx_params" / "0.json", random_pose(10, frames=1)[0])
    motion = load_motion(tmp_path, body)
    assert motion.pose.expression.shape == (1, body.num_expression)
    assert not motion.pose.expression.any()
    assert "left out" in caplog.text


def arkit_file(tmp_path, names, frames=6):
    weights = np.random.default_rng(1).random((frames, len(names))).tolist()
    data = {
        "names": names,
        "frames": [{"weights": row, "time": i / 25} for i, row in enumerate(weights)],
    }
    path = tmp_path / "face.json"
    path.write_text(json.dumps(data))
    return path, torch.tensor(weights)


def test_arkit_units_are_found_by_name(tmp_path, body):
    names = ["jawOpen", "eyeBlinkLeft", "noSuchUnit"]
    path, weights = arkit_file(tmp_path, names)
    motion = load_motion(path, body, fps=None)
    assert motion.fps == pytest.approx(25)
    for column, name in enumerate(names[:2]):
        unit = body.expression_names.index(name)
        torch.testing.assert_close(motion.pose.expression[:, unit], weights[:, column])
    assert int(motion.pose.expression.any(0).sum()) == 2
    both = combine(load_motion("walk", body), motion)
    assert len(both) == 132 and both.pose.expression.any()


def test_arkit_times_in_milliseconds_are_said(tmp_path, body, caplog):
    path, _ = arkit_file(tmp_path, ["jawOpen"])
    data = json.loads(path.read_text())
    for frame in data["frames"]:
        frame["time"] *= 1000
    path.write_text(json.dumps(data))
    motion = load_motion(path, body)
    assert len(motion) == 7, "0.2 s at 30 frames per second, with both ends"
    assert "taken as milliseconds" in caplog.text


def test_arkit_needs_a_body_with_units(tmp_path, body, monkeypatch):
    path, _ = arkit_file(tmp_path, ["jawOpen"])
    monkeypatch.setattr(body, "expression_names", None)
    with pytest.raises(UserError, match="use body=anny"):
        load_motion(path, body)


def test_soma_trees_have_their_joints():
    assert sorted(TREES) == [30, 77]
    for count, tree in TREES.items():
        assert len(tree) == count
        seen = {""}
        for name, parent in tree.items():
            assert parent in seen
            seen.add(name)


@pytest.mark.parametrize(
    ("name", "frames", "limit_deg"),
    [
        ("01_01.bvh", 688, 7.5),
        ("jesse_dance.bvh", 302, 2.0),
        ("kimodo_soma_01.npz", 150, 5.0),
        ("kimodo_soma_05.npz", 300, 5.0),
        ("arkit_52x973.json", 973, None),
    ],
)
def test_shared_recordings(shared_data, body, name, frames, limit_deg):
    motion = load_motion(shared_data / "motion" / name, body)
    assert len(motion) == pytest.approx(frames, abs=1) and motion.fps == pytest.approx(30, abs=0.01)
    assert (motion.retarget_error_deg is None) == (limit_deg is None)
    assert limit_deg is None or motion.retarget_error_deg < limit_deg
    some = motion.pose[:: max(len(motion) // 8, 1)]
    vertices, joints = body(body.zero_identity(), some)
    assert vertices.isfinite().all()
    # Upright: the head is above the hips, and these are above the feet.
    assert (joints[:, 15, 1] > joints[:, 0, 1]).all()
    assert (joints[:, 0, 1] > joints[:, 7:9, 1].amin(-1)).all()


def test_poses_may_come_in_parts(tmp_path, body):
    arrays = amass_arrays(165)
    np.savez(tmp_path / "whole.npz", **arrays)
    poses = arrays.pop("poses")
    arrays |= dict(zip(PARTS, np.split(poses, [3, 66, 69, 75], 1), strict=True))
    np.savez(tmp_path / "parts.npz", **arrays)
    whole, parts = (load_motion(tmp_path / f"{n}.npz", body).pose for n in ("whole", "parts"))
    assert torch.equal(whole.joints, parts.joints) and torch.equal(whole.trans, parts.trans)


def damaged_npz(tmp_path, change, width=156):
    arrays = amass_arrays(width)
    change(arrays)
    np.savez(tmp_path / "bad.npz", **arrays)
    return tmp_path / "bad.npz"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("poses"), "lacks poses, or"),
        (lambda a: a.update(trans=a["trans"].astype(object)), "lacks trans, or holds it pickled"),
        (lambda a: a.update(poses=np.full((2, 156), 30.0), trans=np.zeros((2, 3))), "not degrees"),
        (lambda a: a.update(poses=a["poses"][:, :72]), "do not fit"),
        (lambda a: a["poses"].__setitem__((1, 2), np.nan), "NaN"),
        (lambda a: a["trans"].__setitem__((1, 2), np.inf), "NaN or infinity"),
        (lambda a: a.update(poses=np.zeros((0, 156)), trans=np.zeros((0, 3))), "no frames"),
        (lambda a: a.update(mocap_framerate=np.array("fast")), "mocap_framerate=fast"),
        (lambda a: a.update(mocap_framerate=np.inf), "mocap_framerate=inf"),
        (lambda a: a.update(mocap_framerate=[60.0, 60.0]), "mocap_framerate=.60. 60.."),
        (lambda a: a.update(mocap_framerate=1 / 60), "frames per second are meant"),
        (lambda a: a.update(global_rot_mats=np.zeros((2, 3))), "lacks posed_joints"),
    ],
)
def test_damaged_npz_is_named(tmp_path, body, change, message):
    path = damaged_npz(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        load_motion(path, body)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", "no archive", "not an npz"),
        ("a.mp4", "film", "not a motion file"),
        ("a.json", "[1, 2]", "not an ARKit recording"),
        ("a.json", '{"names": ["jawOpen"], "frames": []}', "or empty"),
        ("a.json", '{"names": ["jawOpen"], "frames": [{"weights": [NaN]}]}', "NaN"),
        ("a.json", '{"names": ["jawOpen"], "frames": [{"weights": [1, 2]}]}', "do not fit"),
        ("a.json", '{"names": ["jawOpen"], "frames": [{}]}', "missing or cut short"),
        ("a.json", '{"names": ["x"], "frames": [{"weights": [1]}]}', "none of its units"),
        ("a.json", '{"names": 5, "frames": [{"weights": [1]}]}', "not an ARKit recording"),
        ("a.json", '{"names": ["jawOpen"], "frames": 5}', "not an ARKit recording"),
        ("a.json", '{"names": ["jawOpen"], "frames": [5]}', "missing or cut short"),
        ("a.bvh", "HIERARCHY", "not a BVH"),
    ],
)
def test_wrong_kinds_are_named(tmp_path, body, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_motion(tmp_path / name, body)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_and_empty(tmp_path, body):
    with pytest.raises(UserError, match=r"no such motion.*turntable"):
        load_motion("moonwalk", body)
    with pytest.raises(UserError, match="give a motion folder"):
        load_motion(tmp_path, body)
    with pytest.raises(UserError, match="not positive"):
        load_motion("walk", body, fps=0)


def test_identity_sets_the_length_of_the_legs(body):
    identity = body.zero_identity()
    taller = identity.betas.clone()
    taller[0] = 2.0
    motion = load_motion(
        "walk", body, identity=type(identity)(taller, identity.face_offset, identity.joint_offset)
    )
    vertices, _ = body(
        type(identity)(taller, identity.face_offset, identity.joint_offset), motion.pose[:9:4]
    )
    assert vertices[..., 1].amin(-1).abs().max() < 0.03
