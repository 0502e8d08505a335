"""The head equals the smplx package's blend skinning; its files and errors."""

import pickle
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from persona.errors import UserError
from persona.modules.avatar.pose_table import PoseTable
from persona.modules.body.head_body import JAW, LEFT_EYE, NECK, PACKAGED, RIGHT_EYE, HeadBody
from persona.types import BodyPose

VERTICES = 30


@pytest.fixture(scope="module")
def head():
    return HeadBody()


def flame_arrays(seed=0):
    """Random arrays with FLAME's shapes."""
    rng = np.random.default_rng(seed)
    weights = rng.random((VERTICES, 5))
    regressor = rng.random((5, VERTICES)) * (rng.random((5, VERTICES)) < 0.3) + 1e-3
    return {
        "v_template": rng.normal(size=(VERTICES, 3)),
        "f": rng.integers(0, VERTICES, (50, 3)).astype(np.uint32),
        "shapedirs": rng.normal(size=(VERTICES, 3, 400)) * 0.01,
        "posedirs": rng.normal(size=(VERTICES, 3, 36)) * 0.01,
        "weights": weights / weights.sum(1, keepdims=True),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.int64),
    }


@pytest.fixture
def licensed(tmp_path):
    """Random arrays as an .npz file."""
    path = tmp_path / "flame.npz"
    np.savez(path, **flame_arrays())
    return path


def random_pose(body, count, scale=0.4):
    generator = torch.Generator().manual_seed(count)
    joints = torch.zeros(count, 55, 3)
    joints[:, [0, 12, 22, 23, 24]] = scale * torch.randn(count, 5, 3, generator=generator)
    expression = torch.randn(count, body.num_expression, generator=generator)
    return BodyPose.from_joints(joints, expression, torch.randn(count, 3, generator=generator))


def test_agrees_with_the_smplx_package(licensed):
    smplx = pytest.importorskip("smplx", reason="non-commercial licence: only in persona[oracle]")
    body, arrays = HeadBody(licensed), flame_arrays()
    pose = random_pose(body, 3)
    betas = torch.randn(300, generator=torch.Generator().manual_seed(7))
    vertices, joints = body(replace(body.zero_identity(), betas=betas), pose)
    tensors = {k: torch.from_numpy(v).float() for k, v in arrays.items() if k not in ("f",)}
    expected = smplx.lbs.lbs(
        torch.cat([betas.expand(3, -1), pose.expression], 1), body.full_pose(pose).flatten(1),
        tensors["v_template"], tensors["shapedirs"], tensors["posedirs"].reshape(-1, 36).T,
        tensors["J_regressor"], torch.tensor([-1, 0, 1, 1, 1]), tensors["weights"],
    )  # fmt: skip
    trans = pose.trans[:, None]
    torch.testing.assert_close(vertices, expected[0] + trans, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(joints, expected[1] + trans, rtol=1e-5, atol=1e-5)


def test_pose_correctives_of_one_joint(licensed):
    """Turned by a known angle, a joint's nine features are that rotation minus one."""
    body = HeadBody(licensed)
    rotations = torch.eye(3).repeat(5, 1, 1)
    rotations[JAW] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    dirs = torch.from_numpy(flame_arrays()["posedirs"]).float()
    feature = torch.tensor([0, 0, 0, 0, -1.0, -1, 0, 1, -1])
    torch.testing.assert_close(body.pose_blend(rotations), dirs[..., 9:18] @ feature)


@pytest.fixture
def chumpy(monkeypatch):
    """A stand-in for the class that pickles of chumpy's arrays name."""
    module, package = types.ModuleType("chumpy.ch"), types.ModuleType("chumpy")

    class Ch:
        def __init__(self, x):
            self.x = x

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    module.Ch = Ch
    monkeypatch.setitem(sys.modules, "chumpy", package)
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    return Ch


@pytest.mark.parametrize("protocol", [0, 2])
def test_the_licensed_pickle_is_read_without_its_packages(tmp_path, chumpy, licensed, protocol):
    arrays = flame_arrays()
    content = arrays | {
        "shapedirs": chumpy(arrays["shapedirs"]), "bs_style": "lbs",
        "J_regressor": sparse.csc_matrix(arrays["J_regressor"]),
    }  # fmt: skip
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    body, same = HeadBody(path), HeadBody(licensed)
    for name, values in same.named_buffers():
        assert torch.equal(body.get_buffer(name), values), name


class Hostile:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"v_template": Hostile()}), "wants to run builtins.print"),
        (pickle.dumps({"v_template": np.zeros((4, 3))}), "it has no f"),
        (b"not a pickle", "not a whole dictionary"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, content, said, capsys):
    path = tmp_path / "flame.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        HeadBody(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not capsys.readouterr().out


def test_a_whole_body_is_no_head():
    from persona.modules.body.smplx_body import PACKAGED as WHOLE

    with pytest.raises(UserError, match="not a FLAME file"):
        HeadBody(WHOLE)


def test_no_file_says_where_to_get_one(tmp_path):
    with pytest.raises(UserError, match=r"flame\.is\.tue\.mpg\.de"):
        HeadBody(tmp_path / "generic_model.pkl")


def test_too_many_coefficients_are_refused(licensed):
    with pytest.raises(UserError, match="400 betas asked for, the file has 300"):
        HeadBody(licensed, num_betas=400)


# The packaged head -------------------------------------------------------------------------------


def test_the_packaged_head_is_small_and_named(head):
    assert PACKAGED.stat().st_size < 5e6
    assert head.name == "head" and head.num_joints == 5
    assert head.num_expression == 52 and head.expression_names[head.num_expression - 1]
    assert len(head.shape_names) == head.num_betas > 60
    assert {n.split(":")[0] for n in head.shape_names} >= {"nose", "mouth", "eye", "brow", "ear"}
    assert torch.allclose(head.weights.sum(1), torch.ones(head.num_vertices), atol=1e-5)
    assert int(head.uv_faces.max()) < len(head.uv) and len(head.uv_faces) == len(head.faces)
    assert set(head.regions) == {"nose", "mouth", "eye", "brow", "ear"}


def test_eyes_turn_about_their_middle_whatever_the_shape(head):
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        betas = torch.randn(head.num_betas, generator=generator) * 0.5
        rest, joints = head.shape(replace(head.zero_identity(), betas=betas))
        for joint in (LEFT_EYE, RIGHT_EYE):
            ball = rest[head.weights[:, joint] > 0.5]
            middle = (ball.amax(0) + ball.amin(0)) / 2
            assert (joints[joint] - middle).norm() < 0.004


def test_the_jaw_opens_and_the_skull_stays(head):
    pose = BodyPose.zero(head.num_expression)
    open_ = replace(pose, jaw=torch.tensor([0.3, 0.0, 0.0]))
    still, moved = (head(head.zero_identity(), p)[0] for p in (pose, open_))
    torch.testing.assert_close(still, head.template, atol=1e-6, rtol=0)
    chin = head.weights[:, JAW] > 0.9
    assert (moved - still)[chin, 1].mean() < -0.005
    skull = head.weights[:, NECK] > 0.9999
    assert (moved - still)[skull].abs().max() < 1e-4


def test_a_nose_changes_without_the_rest(head):
    identity = head.zero_identity()
    mine = torch.tensor([name.startswith("nose:") for name in head.shape_names])
    rest, _ = head.shape(replace(identity, betas=0.5 * mine))
    moved = (rest - head.template).norm(dim=1)
    tip = head.template[:, 2].argmax()
    assert moved[tip] > 0.003
    assert moved[(head.template - head.template[tip]).norm(dim=1) > 0.09].max() < 0.02 * moved.max()


def test_landmarks_lie_where_the_face_has_them(head):
    points = head.landmarks(head.template)
    assert points.shape == (68, 3)
    right, left = points[36:42].mean(0), points[42:48].mean(0)
    _, joints = head.shape(head.zero_identity())
    assert (left - joints[LEFT_EYE]).norm() < 0.025 and left[0] > 0 > right[0]
    assert points[8, 1] < points[57, 1] < points[33, 1] < left[1]  # Chin, lip, nose, eye.


def test_a_whole_bodys_neck_and_skull_turn_the_head(head):
    """A head pose that is given by both joints is their product."""
    pose = BodyPose.zero(head.num_expression)
    body = pose.body.clone()
    body[11, 1], body[14, 1] = 0.2, 0.3
    turned = head.full_pose(replace(pose, body=body))
    torch.testing.assert_close(turned[NECK], torch.tensor([0.0, 0.5, 0.0]))


def test_a_table_of_poses_gives_them_back(head):
    poses = random_pose(head, 4)
    found = PoseTable.from_poses(head, poses).poses(head)
    torch.testing.assert_close(found.joints, poses.joints, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.trans, poses.trans)
