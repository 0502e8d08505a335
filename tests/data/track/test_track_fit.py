"""The fit of a clip to a known motion: joints, jitter, gaps, gaze, camera turns, files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.data.motion.amass import motion_from_amass, write_amass
from persona.data.motion.bvh import read_bvh
from persona.data.motion.bvh_writer import write_bvh
from persona.data.motion.camera import fit_camera, place_in_camera
from persona.data.motion.load import load_motion
from persona.data.motion.retarget import retarget
from persona.data.motion.settle import settle
from persona.data.motion.target import TargetSkeleton
from persona.data.preprocess.fit_joints import exchanged
from persona.data.preprocess.fit_state import resting_keypoints
from persona.data.track.camera_turn import TurnReader
from persona.data.track.clip_fit import ClipFit, ClipProblem, chained
from persona.data.track.clip_start import read_mirrored, with_steady_sides
from persona.data.track.clip_state import ClipState
from persona.data.track.clip_terms import sliding, smoothness, standing
from persona.data.track.gaze import gaze
from persona.data.track.sightings import Sightings, nothing
from persona.data.track.windows import LEAD, TAIL, bridged, windows
from persona.data.track.world import turned, upward, world_from_camera
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.detect import wholebody
from persona.modules.detect.offsets import OFFSETS, as_detected
from persona.types import Camera

FPS, COUNT = 15.0, 10
BODY = OFFSETS["body"]


@pytest.fixture(scope="module")
def walk(body):
    """Poses of a walk in front of a camera, joints, camera, and a perfect detector's findings."""
    motion = load_motion("walk", body, fps=FPS)[:COUNT]
    rest = body.shape(body.zero_identity())[1]
    pose = place_in_camera(motion.pose, rest[0])
    vertices, joints = body(body.zero_identity(), pose)
    camera, shift = fit_camera(joints, 480, 360)
    pose = replace(pose, trans=pose.trans + shift)
    vertices, joints = vertices + shift, joints + shift
    points = body.keypoints(vertices, joints)
    scores = torch.ones(COUNT, 133, 1)
    scores[:, 23:91] = 0  # No points of faces.
    guess = points - (points[:, [11]] + points[:, [12]]) / 2
    read = torch.zeros(COUNT, 22, 4)
    read[..., :2], read[..., 2] = camera.project(joints)[:, :22], joints[:, :22, 2]
    read[..., 2] -= joints[:, :1, 2]
    read[..., 3] = 0.02
    sightings = Sightings(
        torch.cat((camera.project(points), scores), -1), torch.cat((guess, scores), -1), read,
        torch.eye(3).repeat(COUNT, 1, 1),
    )  # fmt: skip
    return pose, joints, camera, sightings


def fitted(body, camera, sightings, steps=(40, 120), **options):
    """Joints and state of a fit of the mean person."""
    fit = ClipFit(body, camera, FPS, iterations=steps, offsets=BODY, **options)
    state = fit(sightings, body.zero_identity())
    with torch.no_grad():
        return body(body.zero_identity(), state.pose())[1], state


def root_relative_mm(found, true):
    return 1e3 * float(((found - found[:, :1]) - (true - true[:, :1]))[:, :22].norm(dim=-1).mean())


def acceleration(joints):
    return float((joints[2:] - 2 * joints[1:-1] + joints[:-2]).norm(dim=-1).mean())


@pytest.fixture(scope="module")
def noisy(walk):
    """Findings with errors of 3 pixels, and two frames without the person."""
    sightings = walk[3]
    keypoints = sightings.keypoints.clone()
    generator = torch.Generator().manual_seed(0)
    keypoints[..., :2] += 3 * torch.randn(COUNT, 133, 2, generator=generator)
    seen = replace(sightings, keypoints=keypoints)
    gone = nothing()
    rows = {k: v.clone() for k, v in vars(seen).items()}
    for name, values in vars(gone).items():
        rows[name][4:6] = values
    return Sightings(**rows)


@pytest.mark.slow
def test_the_clip_is_smoother_and_nearer_than_its_frames(body, walk, noisy):
    """Mean errors in mm; frames 4 and 5, without findings, are interpolated to 6 cm."""
    _, true, camera, _ = walk
    together, state = fitted(body, camera, noisy)
    apart, _ = fitted(body, camera, noisy, alone=True)
    assert root_relative_mm(together, true) < 45
    assert root_relative_mm(together, true) < 0.9 * root_relative_mm(apart, true)
    assert acceleration(together) < 0.5 * acceleration(apart)
    assert root_relative_mm(together[4:6], true[4:6]) < 60
    assert state.root.shape == (COUNT, 6) and not state.betas.requires_grad


def test_windows_hold_on_to_what_is_settled(body, walk):
    _, _, camera, sightings = walk
    _, state = fitted(body, camera, sightings, (4, 6))
    kept = {name: values[:3] + 0.01 for name, values in state.frames(slice(0, 3)).items()}
    fit = ClipFit(body, camera, FPS, iterations=(4, 6), offsets=BODY)
    again = fit(sightings, body.zero_identity(), kept)
    for name in ("root", "trans", "body", "hands"):
        torch.testing.assert_close(getattr(again, name).detach()[:3], kept[name])


def test_read_places_count_by_their_doubt_and_behind_an_obstacle_not_at_all(body, walk):
    _, true, camera, sightings = walk
    keypoints, joints = sightings.keypoints.clone(), sightings.joints.clone()
    keypoints[2, 15, 2] = 0.1  # An ankle behind something, which is read elsewhere.
    joints[2, [7, 10], :2] += 200
    joints[3, 4, 3] = 0.2
    joints[5:, :, 3] = torch.inf
    joints[5:, :, :2] = torch.nan
    seen = replace(sightings, keypoints=keypoints, joints=joints)
    place = ClipFit(body, camera, FPS, offsets=BODY)._data(seen)[0].place
    assert place.weight[2, [7, 10]].tolist() == [0, 0] and place.weight[2].sum() == 20
    assert float(place.weight[3, 4]) == pytest.approx(0.25)
    assert float(place(true).max()) < 1e-4, "nothing pulls at the truth"
    elsewhere = true.clone()
    elsewhere[2, [7, 10]] += 1.0
    elsewhere[5:] += 1.0
    torch.testing.assert_close(place(elsewhere), place(true))
    elsewhere[2, 8] += 0.1
    assert float(place(elsewhere)[2]) > 0.01


def test_a_detector_that_puts_its_points_elsewhere_is_no_error_of_the_pose(body, walk):
    pose, _, camera, sightings = walk
    vertices, joints = body(body.zero_identity(), pose)
    points = as_detected(body.keypoints(vertices, joints), OFFSETS["mediapipe"])
    keypoints = torch.cat((camera.project(points), sightings.keypoints[..., 2:]), -1)
    keypoints[:, 91:, 2] = 0  # Fingers are not compared.
    seen = replace(sightings, keypoints=keypoints)
    lost = []
    for name in ("mediapipe", "body"):
        fit = ClipFit(body, camera, FPS, offsets=OFFSETS[name])
        root = matrix_from_axis_angle(pose.root)
        state = ClipState(body, root, pose.trans, body.zero_identity())
        state.body.data[:] = pose.body
        problem = ClipProblem(body, fit._data(seen)[0], camera, FPS, fit.weights, fit.offsets)
        lost.append(float(problem.placement(state).detach()))
    assert lost[0] < 0.1 * lost[1]
    with pytest.raises(TypeError, match="offsets"):
        ClipFit(body, camera, FPS)


@pytest.mark.parametrize("count", [1, 5, 96, 97, 111, 112, 113, 500])
def test_windows_settle_every_frame_once(count):
    settled, before = [], 0
    for start, end, until in windows(count):
        fresh = 0 if start == 0 else start + LEAD
        assert fresh == before and end <= count and until <= end
        assert until == count or end - until == TAIL
        settled += range(fresh, until)
        before = until
    assert settled == list(range(count))


def taken_for_back(sightings, frames):
    """A detector's points in which a front is a back; it finds the face apart."""
    keypoints, points_m = sightings.keypoints.clone(), sightings.points_m.clone()
    order = list(wholebody.flip_order())
    for i in frames:
        for points in (keypoints, points_m):
            face = points[i, 23:91].clone()
            points[i] = points[i, order]
            points[i, 23:91] = face
        points_m[i, :, 2] *= -1
    return keypoints, points_m


def test_sides_that_a_detector_exchanges_in_some_frames_are_put_right(walk):
    """Also in frames that were not read, by those beside them; a face keeps its points."""
    sightings = walk[3]
    joints = sightings.joints.clone()
    keypoints, points_m = taken_for_back(sightings, (2, 3, 7))
    joints[1::2, :, 3] = torch.inf
    joints[1::2, :, :2] = torch.nan
    wrong = replace(sightings, keypoints=keypoints, points_m=points_m, joints=joints)
    right = with_steady_sides(wrong, 400.0)
    torch.testing.assert_close(right.keypoints, sightings.keypoints)
    torch.testing.assert_close(right.points_m, sightings.points_m)
    # Cut off by the picture: in every frame some joint was not read.
    joints[::2, 20] = torch.tensor([torch.nan, torch.nan, torch.nan, torch.inf])
    cut = with_steady_sides(replace(sightings, keypoints=keypoints, joints=joints), 400.0)
    torch.testing.assert_close(cut.keypoints, sightings.keypoints)
    joints[:, :, 3] = torch.inf
    unread = with_steady_sides(replace(sightings, keypoints=keypoints, joints=joints), 400.0)
    torch.testing.assert_close(unread.keypoints, keypoints)


@pytest.mark.parametrize("alone, tied", [(False, True), (True, True), (False, False)])
def test_frames_that_stand_alone_are_judged_by_their_own_reading(
    body, walk, monkeypatch, alone, tied
):
    _, _, camera, sightings = walk
    joints = sightings.joints.clone()
    joints[1::2, :, 3] = torch.inf
    keypoints, points_m = taken_for_back(sightings, (2, 3))
    wrong = replace(sightings, keypoints=keypoints, points_m=points_m, joints=joints)
    fit = ClipFit(body, camera, FPS, alone=alone, iterations=(0, 0), offsets=BODY)
    given = []
    monkeypatch.setattr(fit, "_data", lambda seen: given.append(seen) or ClipFit._data(fit, seen))
    fit(wrong, body.zero_identity(), tied=tied)
    torch.testing.assert_close(given[0].keypoints[2], sightings.keypoints[2])
    expected = sightings.keypoints if tied and not alone else keypoints
    torch.testing.assert_close(given[0].keypoints[3], expected[3])


def test_a_front_that_was_taken_for_a_back_is_exchanged_once(body, walk):
    """By its reading or one beside it; the turns of the body then find nothing more to exchange.

    Where the reading is what is mirrored, both find so, and the detector's own points are left.
    """
    _, _, camera, sightings = walk
    joints = sightings.joints.clone()
    joints[1::2, :, 3] = torch.inf
    keypoints, points_m = taken_for_back(sightings, (3, 6))
    wrong = replace(sightings, keypoints=keypoints, points_m=points_m, joints=joints)
    fit = ClipFit(body, camera, FPS, offsets=BODY)
    data, roots = fit._data(with_steady_sides(wrong, 400.0))
    torch.testing.assert_close(data.target / data.scale, sightings.keypoints[..., :2])
    true, expected = fit._data(replace(sightings, joints=joints))
    torch.testing.assert_close(data.guess, true.guess)
    torch.testing.assert_close(roots, expected)
    left = [1, 4, 7, 10, 13, 16, 18, 20]
    right = [2, 5, 8, 11, 14, 17, 19, 21]
    joints[4, left + right] = joints[4, right + left]
    joints[4, :, 2] *= -1
    data, _ = fit._data(with_steady_sides(replace(sightings, joints=joints), 400.0))
    torch.testing.assert_close(data.target / data.scale, sightings.keypoints[..., :2])
    torch.testing.assert_close(data.guess[4], true.guess[4])


def test_mirrored_frames_are_set_right(body, walk):
    """A person turns; in three frames the detector's guess is mirrored."""
    resting = resting_keypoints(body)
    yaw = torch.linspace(0, 3, 12)
    turn = matrix_from_axis_angle(torch.stack((yaw * 0, yaw, yaw * 0), -1))
    points = resting @ turn.mT
    guess = torch.cat((points, torch.ones(12, 133, 1)), -1)
    wrong = guess.clone()
    for i in (3, 4, 9):
        wrong[i] = exchanged(guess[i])
    flips, roots = read_mirrored(wrong, resting)
    assert flips.nonzero()[:, 0].tolist() == [3, 4, 9]
    torch.testing.assert_close(roots, turn, atol=1e-3, rtol=0)


def test_terms_know_still_feet_and_jitter():
    joints = torch.zeros(9, 55, 3)
    joints[:, (7, 10), 0] = 0.05 * torch.arange(9.0)[:, None]  # The left foot slides.
    up = torch.tensor([0.0, -1.0, 0.0])
    stands = standing(joints, up, 10)
    assert (stands[:, :2] < 0.2).all() and (stands[:, 2:] > 0.9).all()
    assert float(sliding(joints, torch.ones(8, 4), 10)) == pytest.approx(0.25, abs=0.01)
    assert float(smoothness(joints, 10)) == pytest.approx(0, abs=1e-6), "steady motion is no jitter"
    joints[4] += 0.1
    assert float(smoothness(joints, 10)) > 0.05


@pytest.mark.parametrize("axis, cost", [(0, 0.1), (1, 1.0), (2, 1.0)])
def test_a_jaw_is_held_as_a_photographs_is_and_more_from_moving_aside(body, walk, axis, cost):
    """Lips of a small face are noise: it opened by 16 degrees, and moved aside."""
    _, _, camera, sightings = walk
    fit = ClipFit(body, camera, FPS, offsets=BODY)
    state = ClipState(body, torch.eye(3)[None], torch.zeros(1, 3))
    problem = ClipProblem(
        body, fit._data(sightings[:1])[0], camera, FPS, fit.weights, fit.offsets
    )  # fmt: skip
    shut = problem._priors(state)
    state.jaw.data[0, axis] = 0.1
    moved = (problem._priors(state) - shut) / fit.weights.face
    assert float(moved.detach()) == pytest.approx(cost, rel=1e-3)


def test_eyes_follow_the_pupils():
    """Pupils off the middle by 0.1 of the eye's width are turned by 14 degrees.

    In a small face, where pixels are uncertain, the turn is shrunk.
    """
    points = torch.zeros(5, 133, 3)
    points[..., 2] = 1
    for corner, x in ((59, 10.0), (62, 20.0), (65, 30.0), (68, 40.0)):
        points[:, corner, 0] = x
    points[:, 1, 0], points[:, 2, 0] = 36.0, 16.0
    points[:, (1, 2), 1] = 0.5
    true = torch.tensor([0.1253, 0.2527, 0.0])
    near = points * torch.tensor([40.0, 40.0, 1.0])
    torch.testing.assert_close(gaze(near, FPS)[0], true, atol=1e-3, rtol=0)
    # Eyes 10 px wide: noise of 0.175 rad, about the 0.17 rad by which eyes usually turn.
    torch.testing.assert_close(gaze(points, FPS)[0], true * 0.4855, atol=1e-3, rtol=0)
    points[:, 23:91, 2] = 0
    assert not gaze(points, FPS).any()


def test_a_turning_camera_is_read_off_the_background():
    """The turn is exact to 0.1 degrees, and zero for a still camera that sees sensor noise."""
    import cv2

    rng = np.random.default_rng(0)
    wall = cv2.GaussianBlur(rng.uniform(0, 255, (600, 800, 3)).astype(np.float32), (0, 0), 3)
    wall = ((wall - wall.mean()) * 8 + 128).clip(0, 255).astype(np.uint8)
    camera = Camera.identity(torch.tensor([400.0] * 2), torch.tensor([160.0, 120.0]), 240, 320)
    inner, outer = np.diag([400.0, 400.0, 1]), np.diag([400.0, 400.0, 1])
    inner[:2, 2], outer[:2, 2] = (160, 120), (400, 300)
    reader, steps, true = TurnReader(camera), [], []
    for i in range(5):
        angle = torch.tensor([0.0, 0.02 * i, 0.005 * i])
        turn = matrix_from_axis_angle(angle)
        move = inner @ turn.numpy() @ np.linalg.inv(outer)
        frame = cv2.warpPerspective(wall, move, (320, 240))
        steps.append(reader(frame, (130, 40, 60, 180)))
        true.append(turn)
    error = chained(torch.stack(steps)) @ torch.stack(true).mT
    angles = ((error.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1).arccos().rad2deg()
    assert angles.max() < 0.1
    still = TurnReader(camera)
    for _ in range(4):
        grain = rng.normal(20, 4, (240, 320, 3)).clip(0, 255).astype(np.uint8)
        torch.testing.assert_close(still(grain, None), torch.eye(3))


def test_up_is_where_people_stand_to(body):
    """With a camera that looks down by 20 degrees, the error is below 4 degrees."""
    pose = load_motion("turntable", body, fps=FPS)[:12].pose
    rest = body.shape(body.zero_identity())[1][0]
    tilt = matrix_from_axis_angle(torch.tensor([0.35, 0.0, 0.0]))
    seen = turned(place_in_camera(pose, rest), tilt.expand(12, 3, 3), rest)
    joints = body(body.zero_identity(), seen)[1]
    up = upward(joints)
    assert float(torch.rad2deg((up @ (tilt @ torch.tensor([0.0, -1.0, 0.0]))).arccos())) < 4
    world = world_from_camera(up)
    torch.testing.assert_close(world @ up, torch.tensor([0.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(world @ world.T, torch.eye(3), atol=1e-5, rtol=0)


def test_gaps_are_told():
    assert bridged(torch.tensor([1, 0, 0, 1, 1, 0, 1]).bool()) == [(1, 2), (5, 5)]


def test_written_motions_are_read_again(body, tmp_path):
    """AMASS files to float precision; BVH files to 0.2 mm in joints and 1 degree in bones."""
    motion = load_motion("dance", body, fps=FPS)[:6]
    target = TargetSkeleton.from_body(body)
    motion = settle(motion, target)
    write_amass(tmp_path / "m.npz", motion, target, torch.zeros(body.num_betas), "neutral")
    with np.load(tmp_path / "m.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert arrays["poses"].shape == (6, 165) and str(arrays["surface_model_type"]) == "smplx"
    again = motion_from_amass(tmp_path / "m.npz", arrays, target)
    torch.testing.assert_close(again.pose.trans, motion.pose.trans, atol=1e-5, rtol=0)
    turns = matrix_from_axis_angle(again.pose.joints), matrix_from_axis_angle(motion.pose.joints)
    torch.testing.assert_close(*turns, atol=1e-4, rtol=0)
    torch.testing.assert_close(again.pose.expression, motion.pose.expression)
    write_bvh(tmp_path / "m.bvh", motion, target)
    clip = read_bvh(tmp_path / "m.bvh")
    assert clip.fps == pytest.approx(FPS)
    joints = body(body.zero_identity(), motion.pose)[1]
    rows = [clip.names.index(name) for name in ("left_wrist", "right_ankle", "head")]
    np.testing.assert_allclose(
        clip.positions[:, rows].numpy() / 100, joints[:, [20, 8, 15]].numpy(), atol=2e-4
    )
    driven = retarget(clip, target, FPS, None)
    assert driven.retarget_error_deg is None or driven.retarget_error_deg < 1
