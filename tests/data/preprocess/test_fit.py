"""The fit of a body to a photo, on bodies with known pose and shape."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.fit import Known, PhotoFit, photo_camera
from persona.data.preprocess.fit_body import SampledBody
from persona.data.preprocess.fit_joints import (
    JointDepthTerm,
    JointPlaceTerm,
    believed_joints,
    with_agreed_sides,
    with_read_joints,
)
from persona.data.preprocess.fit_starts import (
    FACING_CAMERA,
    is_standing,
    make_starts,
    upright_guess,
)
from persona.data.preprocess.fit_state import initial_state, rest_body_pose, resting_keypoints
from persona.data.preprocess.fit_terms import (
    CropSpace,
    SilhouetteTerm,
    outline_vertices,
)
from persona.errors import UserError
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Detection, wholebody
from persona.modules.detect.annotator import JOINTS
from persona.modules.detect.offsets import OFFSETS, as_detected
from persona.modules.render.mesh import rasterize
from persona.modules.threads import threads
from persona.types import BodyIdentity, BodyPose

HEIGHT, WIDTH = 640, 480


def known_person(body, yaw=0.3):
    """Identity, pose, camera, and the detection of a perfect detector."""
    generator = torch.Generator().manual_seed(3)
    zero = body.zero_identity()
    betas = torch.randn(body.num_betas, generator=generator)
    identity = BodyIdentity(betas, zero.face_offset, zero.joint_offset)
    pose = BodyPose.zero(body.num_expression)
    pose.body[:] = rest_body_pose()
    pose.body[15, 2] = -0.6  # An arm is half raised.
    pose.body[18, 1] = 1.2  # An elbow is bent.
    pose.body[0] = torch.tensor([-0.5, 0.0, 0.2])  # A leg is forward.
    pose.body[3, 0] = 0.6
    turn = FACING_CAMERA @ matrix_from_axis_angle(torch.tensor([0.0, yaw, 0.0]))
    pose.root[:] = axis_angle_from_matrix(turn)
    pose.trans[:] = torch.tensor([0.05, -0.1, 4.5])
    camera = photo_camera(HEIGHT, WIDTH)
    vertices, joints = body(identity, pose)
    points = body.keypoints(vertices, joints)
    mask = rasterize(vertices, body.faces, camera).mask.float()
    keypoints = torch.cat((camera.project(points), torch.ones(133, 1)), -1)
    centre = points[[wholebody.LEFT_HIP, wholebody.RIGHT_HIP]].mean(0)
    noise = 0.02 * torch.randn(133, 3, generator=generator)
    guess = torch.cat((points - centre + noise, torch.ones(133, 1)), -1)
    return identity, pose, camera, Detection(mask, keypoints, guess)


def test_sampled_body_is_the_full_body(body):
    identity, pose, _, _ = known_person(body)
    identity.joint_offset[5] = 0.01
    pose.expression[:3] = 0.5
    vertices, joints = body(identity, pose)
    sampled = SampledBody(body, samples=500)
    rotations = matrix_from_axis_angle(body.full_pose(pose))[None]
    betas, offset = identity.betas[None], identity.joint_offset[None]
    some, points, posed = sampled(betas, offset, rotations, pose.expression[None], pose.trans[None])
    torch.testing.assert_close(some[0], vertices[sampled.index], atol=1e-5, rtol=0)
    torch.testing.assert_close(points[0], body.keypoints(vertices, joints), atol=1e-5, rtol=0)
    torch.testing.assert_close(posed[0], joints, atol=1e-5, rtol=0)


def test_fit_recovers_a_known_pose(body):
    """Joints to 4 cm (mean, relative to the root), keypoints to 1 % of the crop, mask IoU 0.9."""
    identity, pose, camera, detection = known_person(body)
    steps = []
    fit = PhotoFit(iterations=(40, 120, 160))(body, detection, camera, steps.append)
    assert sum(steps) == 320
    _, truth = body(identity, pose)
    _, found = body(fit.identity, fit.pose)
    error = ((found - found[0]) - (truth - truth[0])).norm(dim=-1)[:22].mean()
    assert error < 0.04
    assert fit.residual < 0.01
    mask = rasterize(body(fit.identity, fit.pose)[0], body.faces, camera).mask
    seen = detection.mask > 0.5
    assert (mask & seen).sum() / (mask | seen).sum() > 0.9


def test_what_is_known_is_kept_and_the_place_is_fitted(body):
    identity, pose, camera, detection = known_person(body)
    fitter, used = PhotoFit(iterations=(20, 20, 40), lr=(0.1, 0.05, 0.02)), set()
    with threads(2):
        fit = fitter(
            body, detection, camera, lambda _: used.add(torch.get_num_threads()),
            known=Known(identity, pose),
        )  # fmt: skip
    assert used == {1}  # As ``few_threads``.
    torch.testing.assert_close(fit.identity.betas, identity.betas)
    torch.testing.assert_close(fit.pose.body, pose.body)
    torch.testing.assert_close(fit.pose.left_hand, pose.left_hand)
    turn = matrix_from_axis_angle(pose.root).T @ matrix_from_axis_angle(fit.pose.root)
    assert axis_angle_from_matrix(turn).norm() < 1e-3
    assert (fit.pose.trans - pose.trans).norm() < 0.05 < (pose.trans).norm()
    assert fit.residual < 0.005


@pytest.mark.parametrize("yaw", [pytest.param(0.0, marks=pytest.mark.slow), 2.5])
def test_fit_finds_the_turn_without_a_guess(body, yaw):
    _, pose, camera, detection = known_person(body, yaw)
    keypoints = detection.keypoints.clone()
    keypoints[wholebody.FACE, 2] = float(yaw < 1)  # From behind no face is seen.
    blind = Detection(detection.mask, keypoints, torch.zeros(133, 4))
    fit = PhotoFit(iterations=(60, 150, 100))(body, blind, camera)
    turn = matrix_from_axis_angle(pose.root).T @ matrix_from_axis_angle(fit.pose.root)
    assert axis_angle_from_matrix(turn).norm() < 0.6
    assert fit.residual < 0.015


def test_starts_read_the_guess_and_its_mirror_and_turns_without_one(body):
    _, pose, camera, detection = known_person(body)
    starts = make_starts(detection, resting_keypoints(body))
    assert starts[0].front and starts[0].cost == 0
    turned = [s for s in starts if not s.front]
    assert len(turned) == 1 and turned[0].cost > 0
    order = list(wholebody.flip_order())
    assert torch.equal(turned[0].keypoints, detection.keypoints[order])
    state = initial_state(body, starts, camera)
    assert (state.trans[0] - pose.trans).norm() < 0.4
    blind = Detection(detection.mask, detection.keypoints, torch.zeros(133, 4))
    assert len(make_starts(blind, resting_keypoints(body))) == 12


@pytest.mark.parametrize("facing", ["front", "back"])
def test_the_user_can_say_the_facing(body, facing):
    _, _, _, detection = known_person(body)
    starts = make_starts(detection, resting_keypoints(body), facing)
    assert starts and all(s.front == (facing == "front") for s in starts)
    with pytest.raises(UserError, match=r"fit\.facing=side: give one of auto, front, back"):
        PhotoFit(facing="side")


def mislabelled(detection, face):
    """Left and right are swapped and depth is mirrored, which explains the picture as well."""
    order = list(wholebody.flip_order())
    keypoints = detection.keypoints[order]
    keypoints[wholebody.FACE] = detection.keypoints[wholebody.FACE]
    keypoints[wholebody.FACE, 2] = face
    guess = detection.points_m[order] * torch.tensor([1.0, 1.0, -1.0, 1.0])
    return Detection(detection.mask, keypoints, guess)


def test_a_face_overrules_exchanged_sides(body):
    """Fitted as they are, swapped labels would turn the person back to front."""
    _, pose, camera, detection = known_person(body)
    fit = PhotoFit(iterations=(40, 100, 60))(body, mislabelled(detection, face=1.0), camera)
    turn = matrix_from_axis_angle(pose.root).T @ matrix_from_axis_angle(fit.pose.root)
    assert "turned" in fit.start
    assert axis_angle_from_matrix(turn).norm() < 0.5 and fit.faults == ()


@pytest.mark.slow
def test_no_face_does_not_turn_a_person(body):
    _, pose, camera, detection = known_person(body)
    keypoints = detection.keypoints.clone()
    keypoints[wholebody.FACE, 2] = 0
    faceless = Detection(detection.mask, keypoints, detection.points_m)
    fit = PhotoFit(iterations=(40, 100, 60))(body, faceless, camera)
    turn = matrix_from_axis_angle(pose.root).T @ matrix_from_axis_angle(fit.pose.root)
    assert axis_angle_from_matrix(turn).norm() < 0.5 and fit.faults == ()


def read_crop(body, detection, camera, joints, spread_m=0.02):
    """The whole photograph as a crop, with joints as an annotator estimates them."""
    pixels = camera.project(joints[:22]) / torch.tensor([WIDTH, HEIGHT])
    depth = joints[:22, 2:] - joints[:1, 2:]
    read = torch.cat((pixels, depth, torch.full((22, 1), spread_m)), -1)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    alpha = detection.mask.numpy()
    maps = {JOINTS: read.numpy()}
    return Canvas(image, alpha, camera, detection.keypoints, image, maps)


def test_exchanged_sides_are_put_right_and_a_profile_is_left(body):
    identity, pose, camera, detection = known_person(body)
    joints = body(identity, pose)[1]
    order = list(wholebody.flip_order())
    # Who takes a front for a back exchanges sides, and near and far.
    guess = detection.points_m[order] * torch.tensor([1.0, 1.0, -1.0, 1.0])
    flipped = Detection(detection.mask, detection.keypoints[order], guess)
    mended = with_agreed_sides(flipped, read_crop(body, flipped, camera, joints))
    others = [i for i in range(133) if i not in range(23, 91)]
    assert torch.equal(mended.keypoints[others], detection.keypoints[others])
    assert torch.equal(mended.points_m[others], detection.points_m[others])
    assert torch.equal(mended.keypoints[23:91], flipped.keypoints[23:91]), (
        "the face must not be swapped"
    )
    assert with_agreed_sides(detection, read_crop(body, detection, camera, joints)) is detection
    aside = joints.clone()
    aside[:, 0] = 0.05 * aside[:, 0]
    points = flipped.keypoints.clone()
    points[:, 0] = 0.05 * (points[:, 0] - WIDTH / 2) + WIDTH / 2
    profile = Detection(detection.mask, points, flipped.points_m)
    assert with_agreed_sides(profile, read_crop(body, profile, camera, aside)) is profile


def test_read_joints_become_the_guess_in_metres(body):
    identity, pose, camera, detection = known_person(body)
    joints = body(identity, pose)[1]
    seen = read_crop(body, detection, camera, joints)
    read = with_read_joints(detection, seen, body)
    elbow, wrist = (read.points_m[i, :3] for i in (wholebody.LEFT_ELBOW, wholebody.LEFT_WRIST))
    ours = torch.nn.functional.normalize(wrist - elbow, dim=0)
    true = torch.nn.functional.normalize(joints[20] - joints[18], dim=0)
    assert ours @ true > 0.99
    # To 15 %, as the scale comes from the mean body, which this one is not.
    assert 0.85 < (wrist - elbow).norm() / (joints[20] - joints[18]).norm() < 1.15
    assert read.points_m[wholebody.NOSE, 3] == 0 and read.keypoints is detection.keypoints
    unsure = with_read_joints(detection, read_crop(body, detection, camera, joints, 5.0), body)
    assert unsure.points_m[wholebody.LEFT_ELBOW, 3] > 0.3, (
        "0.3 is the least score that counts as a guess"
    )


def test_the_joints_term_is_the_mean_distance_in_depth(body):
    read = np.zeros((22, 4), np.float32)
    read[:, 3] = 0.05
    read[20] = (0.3, 0.4, 0.25, 0.1)
    term = JointDepthTerm(read)
    joints = torch.randn(2, 55, 3, generator=torch.Generator().manual_seed(0))
    joints[..., 2] = 4.0
    joints[1, 5, 2] = 4.5
    # Joint 20 is 0.25 m off at half weight, joint 5 of the second 0.5 m at full weight.
    expected = torch.tensor([0.125, 0.625]) / 22
    torch.testing.assert_close(term(joints), expected)


def test_detectors_see_a_short_lower_leg_and_the_rest_as_it_is():
    """Hip, knee, ankle and heel lie on a line; the detector's offsets do not move the wrist."""
    points = torch.zeros(1, 133, 3)
    for point, down_m in ((11, 0.0), (13, 0.4), (15, 0.8), (19, 0.9)):
        points[0, point, 1] = down_m
    points[0, 9] = torch.tensor([0.3, 0.2, 0.1])
    seen = as_detected(points, OFFSETS["mediapipe"])
    expected = torch.tensor([0.0, 0.42, 0.778, 0.9 - 0.065 * 0.5])
    torch.testing.assert_close(seen[0, [11, 13, 15, 19], 1], expected)
    assert torch.equal(seen[0, 9], points[0, 9]) and torch.equal(seen[0, 40:], points[0, 40:])
    assert torch.equal(as_detected(points, OFFSETS["body"]), points)


def test_points_are_expected_where_their_detector_puts_them(body):
    """The true pose explains each detector's points, but only with that detector's offsets."""
    identity, pose, camera, own = known_person(body)
    points = body.keypoints(*body(identity, pose))
    moved = camera.project(as_detected(points[None], OFFSETS["mediapipe"])[0])
    theirs = torch.cat((moved, torch.ones(133, 1)), -1)
    error = {}
    for name, keypoints in (("body", own.keypoints), ("mediapipe", theirs)):
        for believed, offsets in OFFSETS.items():
            detection = replace(own, keypoints=keypoints, offsets=offsets)
            problem = PhotoFit().problem(body, detection, camera, None)
            state = initial_state(body, problem.starts, camera)
            state.keep_shape(identity)
            state.keep_pose(pose)
            state.trans.data[:] = pose.trans
            error[name, believed] = problem.residual_px(state)
    assert max(error["body", "body"], error["mediapipe", "mediapipe"]) < 1e-3
    assert min(error["body", "mediapipe"], error["mediapipe", "body"]) > 0.3


def test_the_joints_place_is_the_mean_distance_in_the_picture(body):
    identity, pose, camera, detection = known_person(body)
    joints = body(identity, pose)[1]
    box = torch.tensor([100.0, 50.0, 300.0, 500.0])
    crop = read_crop(body, detection, camera, joints)
    small = camera.crop(box, 250, 150)  # Half of the photo's resolution.
    read = crop.maps[JOINTS].copy()
    read[:, :2] = small.project(joints[:22]) / torch.tensor([150, 250])
    read[[7, 10], 3] = np.inf
    seen = Canvas(crop.image, crop.alpha, small, crop.keypoints, crop.source, {JOINTS: read})
    space = CropSpace(detection.keypoints)
    term = JointPlaceTerm.of_crop(seen, camera, space)
    both = torch.stack((joints, joints))
    both[1, 20, 0] += 0.1
    both[1, 7] += 1.0  # Out of sight.
    expected = 0.1 * camera.focal_px[0] / joints[20, 2] * space.scale / 20
    torch.testing.assert_close(term(both), torch.stack((0 * expected, expected)), atol=1e-4, rtol=0)


def test_a_seated_person_starts_seated_and_in_place(body):
    identity, pose, camera, detection = known_person(body)
    pose.body[[0, 1]], pose.body[[3, 4]] = torch.tensor([[-1.5, 0, 0]]), torch.tensor([[1.5, 0, 0]])
    vertices, joints = body(identity, pose)
    points = body.keypoints(vertices, joints)
    keypoints = torch.cat((camera.project(points), torch.ones(133, 1)), -1)
    seated = Detection(detection.mask, keypoints, detection.points_m)
    fitter = PhotoFit()
    problem = fitter.problem(body, seated, camera, read_crop(body, seated, camera, joints))
    state = initial_state(body, problem.starts, camera)
    assert (state.trans[0] - pose.trans).norm() > 0.3, "in the rest pose it starts too far away"
    fitter._descend(40, 0.06, (state.root, state.body), problem.directions, state)
    problem.place(state)
    assert (state.body[0, [0, 1], 0] < -0.7).all() and (state.body[0, [3, 4], 0] > 0.7).all()
    assert (state.trans[0] - pose.trans).norm() < 0.25


def test_limbs_out_of_sight_are_not_believed(body):
    identity, pose, camera, detection = known_person(body)
    joints = body(identity, pose)[1]
    seen = read_crop(body, detection, camera, joints)
    keypoints = detection.keypoints.clone()
    keypoints[wholebody.LEFT_ANKLE, 2] = 0
    seen.maps[JOINTS][21, :2] = (0.4, 1.2)  # A hand below the picture.
    read = believed_joints(seen, keypoints, body).maps[JOINTS]
    assert np.isinf(read[[7, 10, 21], 3]).all() and np.isfinite(read[:, 3]).sum() == 19
    far = torch.full((1, 55, 3), 4.0)
    far[0, [7, 10, 21], 2] += 3.0
    near = torch.full((1, 55, 3), 4.0)
    term = JointDepthTerm(read)
    assert torch.equal(term(far), term(near))
    guess = with_read_joints(detection, believed_joints(seen, keypoints, body), body).points_m
    assert guess[wholebody.LEFT_ANKLE, 3] == 0 and guess[wholebody.RIGHT_ANKLE, 3] > 0.3


def test_who_stands_in_the_picture_is_drawn_upright(body):
    identity, pose, camera, detection = known_person(body)
    seen = read_crop(body, detection, camera, body(identity, pose)[1])
    bent = believed_joints(seen, detection.keypoints, body).maps[JOINTS]
    assert np.array_equal(bent, seen.maps[JOINTS]), "unchanged, as one leg is apart"
    points = detection.keypoints.clone()
    points[[13, 15], 0], points[[14, 16], 0] = points[11, 0], points[12, 0]
    rest = (body.joint_regressor @ body.template)[:22].numpy()
    read = seen.maps[JOINTS]
    read[:, 2], read[:, 3] = 4 - rest[:, 2], 0.05  # Straight, facing the camera.
    read[1, 2] = read[2, 2] = 4 - rest[[1, 2], 2].mean()
    straight = read[:, 2].copy()
    above = (read[0, 1] - read[:, 1]).clip(min=0)
    read[:, 2] += 0.04 * above / above[12]  # The trunk leans by 4 cm at the neck,
    read[[5, 8], 2] += (0.15, 0.4)  # and the right leg strides.
    leaning = read[:, 2].copy()
    out = believed_joints(seen, points, body).maps[JOINTS]
    assert abs(out[12, 2] - straight[12]) < 0.02, (
        "4 cm are within the annotator's error, so the lean is removed"
    )
    assert abs((out[7, 2] - out[1, 2]) - (straight[7] - straight[1])) < 0.03
    stride, was = (x[[5, 8, 11]] - x[2] for x in (out[:, 2], leaning))
    np.testing.assert_allclose(stride, was, atol=0.003)
    for shoulder, wrist in ((16, 20), (17, 21)):
        np.testing.assert_allclose(
            out[wrist, 2] - out[shoulder, 2], leaning[wrist] - leaning[shoulder], atol=1e-5
        )
    assert np.array_equal(out[:, [0, 1, 3]], read[:, [0, 1, 3]])
    tall_m = (rest[12, 1] - rest[0, 1]) / (read[0, 1] - read[12, 1])
    slope = 0.15 * tall_m * (read[:, 1] - read[0, 1])
    read[:, 2] = straight + slope  # As seen by a camera that looks down.
    leaning = read[:, 2].copy()
    out = believed_joints(seen, points, body).maps[JOINTS][:, 2]
    left = (out - straight) / slope.clip(min=1e-3)
    assert 0.5 < left[7] < 1 and abs(left[4] - left[7]) < 0.2, "the leg must lean as a whole"
    read[[4, 7], :2] = 1.2  # A leg outside the crop must not give NaN.
    assert np.isfinite(believed_joints(seen, points, body).maps[JOINTS][:, 2]).all()


def test_read_joints_set_a_leaning_guess_right(body):
    """The detector's guess leans by 17 degrees; the annotator's joints correct it."""
    identity, pose, camera, detection = known_person(body)
    leaning = detection.points_m.clone()
    leaning[:, 2] += 0.3 * leaning[:, 1]
    detection = Detection(detection.mask, detection.keypoints, leaning)
    truth = body(identity, pose)[1]
    seen = read_crop(body, detection, camera, truth)
    fit = PhotoFit(iterations=(40, 120, 160))(body, detection, camera, seen=seen)
    found = body(fit.identity, fit.pose)[1]
    off = ((found - found[0]) - (truth - truth[0]))[:22, 2].abs().mean()
    assert fit.start == "as read" and off < 0.02 and fit.faults == ()


def test_state_rotations_are_those_of_its_pose(body):
    _, _, camera, detection = known_person(body)
    state = initial_state(body, make_starts(detection, resting_keypoints(body)), camera)
    expected = matrix_from_axis_angle(body.full_pose(state.pose()))
    rotations = state.rotations(body.hands_mean)
    torch.testing.assert_close(rotations, expected, atol=1e-5, rtol=0)
    rotations.square().sum().backward()
    assert torch.isfinite(state.root.grad).all(), "gradients must be finite at half turns"


def test_named_expressions_stay_blend_weights(body):
    _, _, camera, detection = known_person(body)
    state = initial_state(body, make_starts(detection, resting_keypoints(body)), camera)
    state.expression.data.fill_(-0.5)
    state.project()
    assert (state.expression == 0).all()


def test_silhouette_is_zero_on_itself_and_grows_outside(body):
    identity, pose, camera, detection = known_person(body)
    vertices, _ = body(identity, pose)
    term = SilhouetteTerm(detection, CropSpace(detection.keypoints))
    pixels = camera.project(vertices)
    assert term.inside(pixels) < 0.005
    rim, normals = outline_vertices(vertices, body.faces, camera)
    match = term.match(pixels, normals, rim)
    on = term.outline(pixels, match, sigma=0.1)
    shifted = pixels + torch.tensor([30.0, 0.0])
    off = term.outline(shifted, term.match(shifted, normals, rim), sigma=0.1)
    assert term.inside(shifted) > 10 * term.inside(pixels)
    assert off > 5 * on


def test_silhouette_does_not_judge_outside_the_photo(body):
    _, _, _, detection = known_person(body)
    term = SilhouetteTerm(detection, CropSpace(detection.keypoints))
    assert term.inside(torch.tensor([[-50.0, 20.0], [WIDTH + 5.0, 3.0]])) == 0


def test_upright_guess_straightens_a_leaning_stander():
    _, _, _, detection = known_person(SmplxBody())
    guess = detection.points_m.clone()
    guess[:, 2] += 0.3 * guess[:, 1]  # All points lean along the line of sight.
    straight = upright_guess(guess)
    assert abs(float(straight[[5, 6], 2].mean())) < 1e-5
    assert (straight[[13, 15], 2] == straight[11, 2]).all()
    torch.testing.assert_close(straight[:, :2], guess[:, :2])


def test_standing_needs_straight_legs_in_view(body):
    _, _, _, detection = known_person(body)
    points = detection.keypoints
    assert not is_standing(points), "not standing: one leg is bent forwards and apart"
    straight = points.clone()
    straight[[13, 15], 0] = points[11, 0]
    straight[[14, 16], 0] = points[12, 0]
    assert is_standing(straight)
    straight[16, 2] = 0
    assert not is_standing(straight)
