"""Textures of several photographs: the best view wins, light is evened, strangers are told."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.progress import Progress

from persona.data.preprocess import photo
from persona.data.preprocess.fit import NOTHING, BodyFit, PhotoFit, photo_camera
from persona.data.preprocess.fit_starts import FACING_CAMERA
from persona.data.preprocess.fit_state import rest_body_pose
from persona.data.preprocess.fit_together import (
    LIMBS,
    believable_heads,
    fit_together,
    head_turn,
    median_stance,
    moved_joints,
    tie,
)
from persona.data.preprocess.several import (
    Sight,
    agreed_parts,
    shared_identity,
    sharpness,
)
from persona.data.preprocess.unwrap import Sums
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.detect import Detection
from persona.modules.render.mesh import rasterize
from persona.types import BodyPose


def sums(colour, weight):
    """Of texels with a weight and a colour each."""
    weight = torch.as_tensor(weight, dtype=torch.float32)
    colour = torch.as_tensor(colour, dtype=torch.float32)
    out = Sums.empty(len(weight))
    out.weight.add_(weight)
    out.colour.add_(colour * weight[:, None])
    return out


def test_the_sharper_photograph_is_sharper():
    grain = np.random.default_rng(0).uniform(0, 255, (80, 60, 3)).astype(np.uint8)
    grain = cv2.GaussianBlur(grain, (0, 0), 1)
    mask = np.zeros((80, 60), bool)
    mask[10:70, 10:50] = True
    assert sharpness(grain, mask) > 2 * sharpness(cv2.GaussianBlur(grain, (0, 0), 3), mask)
    assert sharpness(grain, mask & False) > 0


def test_one_shape_nearer_to_the_better_fit(body):
    pose = BodyPose.zero(body.num_expression)
    identity = body.zero_identity()
    tall = replace(identity, betas=identity.betas + 1)
    found = shared_identity([BodyFit(identity, pose, 4.0, 0.015), BodyFit(tall, pose, 1.0, 0.0)])
    torch.testing.assert_close(found.betas, torch.full_like(identity.betas, 0.8))


def test_the_part_of_a_texel_is_what_most_see_well():
    """Hair that one misfit photograph lays over a face is outvoted."""
    face, hair = 2, 1

    def seen(part, weight):
        out = sums(np.full((1, 3), 0.5), [weight])
        out.parts[0, part] = weight
        return out

    photos = [seen(face, 0.6), seen(hair, 0.9), seen(face, 0.8)]
    assert agreed_parts(photos, [1.0, 1.0, 1.0]).item() == face
    assert agreed_parts(photos[:2], [1.0, 1.0]).item() == hair
    assert agreed_parts(photos[:2], [2.0, 1.0]).item() == face


def test_a_limb_that_was_moved_is_let_go_where_it_was():
    errors = [torch.full((133,), 0.01), torch.full((133,), 0.02)]
    errors[1][[7, 9]] = torch.tensor([0.1, 0.3])
    errors[0][[13, 15]] = torch.nan
    moved = moved_joints(errors)
    assert moved.nonzero().tolist() == [[1, joint] for joint in sorted(LIMBS["left arm"][0])]


def test_tied_joints_have_one_gradient_and_free_ones_their_own():
    stances = [torch.nn.Parameter(torch.zeros(1, 21, 3)) for _ in range(3)]
    for stance, slope in zip(stances, (1.0, 2.0, 6.0), strict=True):
        stance.grad = torch.full((1, 21, 3), slope)
    free = torch.zeros(3, 21, dtype=torch.bool)
    free[2, 4] = True
    tie(stances, free)
    slopes = torch.stack([stance.grad[0, :, 0] for stance in stances])
    assert slopes[:, 3].tolist() == [3, 3, 3] and slopes[:, 4].tolist() == [1.5, 1.5, 6]


def test_one_odd_photograph_hardly_moves_the_stance():
    stances = torch.zeros(3, 21, 3)
    stances[2] = 1.0
    assert float(median_stance(stances).abs().max()) < 0.1


def test_a_head_turned_backwards_is_that_of_the_other_photograph(body):
    pose = BodyPose.zero(body.num_expression)
    stance = pose.body.clone()
    stance[11, 1], stance[14, 1] = 0.9, 0.8
    looking = replace(pose, body=stance.clone())
    stance[14, 1] = -0.2
    straight = replace(pose, body=stance.clone())
    assert float(head_turn(looking)) == pytest.approx(1.7, abs=1e-4)
    fits = [BodyFit(body.zero_identity(), p, 1.0, 0.01) for p in (straight, looking)]
    (first, second), doubted = believable_heads(fits)
    assert first is fits[0] and doubted == [1]
    torch.testing.assert_close(second.pose.body, straight.body)


@pytest.mark.slow
def test_photographs_fitted_together_agree_on_stance_and_shape(body):
    """A lean towards the camera, which one from the side shows, reaches the front's fit."""
    camera, zero = photo_camera(320, 240), body.zero_identity()
    true = BodyPose.zero(body.num_expression)
    true.body[:] = rest_body_pose()
    true.body[[2, 5], 0] = 0.25
    fitter, sights, fits = PhotoFit(), [], []
    for yaw in (0.0, 1.57):
        turn = FACING_CAMERA @ matrix_from_axis_angle(torch.tensor([0.0, yaw, 0.0]))
        root, trans = axis_angle_from_matrix(turn), torch.tensor([0.0, 0.2, 4.5])
        vertices, joints = body(zero, replace(true, root=root, trans=trans))
        points = body.keypoints(vertices, joints)
        keypoints = torch.cat((camera.project(points), torch.ones(133, 1)), -1)
        mask = rasterize(vertices, body.faces, camera).mask.float()
        detection = Detection(mask, keypoints, torch.zeros(133, 4))
        image = np.zeros((320, 240, 3), np.uint8)
        sights.append(Sight(Path("a.png"), image, detection, camera, None))
        upright = true.body.clone()
        upright[[2, 5], 0] = 0.25 if yaw else 0.0
        start = fitter.problem(body, detection, camera, None).starts[0].name
        pose = replace(true, root=root, trans=trans, body=upright)
        fits.append(BodyFit(zero, pose, 1.0, 0.01, start))
    front, side = fit_together(fitter, body, sights, fits)
    assert float(fits[0].pose.body[[2, 5], 0].sum()) == 0
    assert float(front.pose.body[[2, 5], 0].sum()) > 0.15, "0.5 is true"
    torch.testing.assert_close(front.identity.betas, side.identity.betas)
    spines = torch.stack([fit.pose.body[[2, 5], 0] for fit in (front, side)])
    assert float((spines[0] - spines[1]).abs().max()) < 0.15, "0.25 before"


@pytest.mark.parametrize("faults", [(), ("the joints lie 30 % of the person's size off",)])
def test_a_fit_that_fails_together_leaves_each_by_itself(body, monkeypatch, caplog, faults):
    """No accepted photograph is refused because the others pull at it; the user is told."""
    pose = BodyPose.zero(body.num_expression)
    alone = BodyFit(body.zero_identity(), pose, 2.0, 0.01)
    together = [replace(alone, start="together"), replace(alone, start="together", faults=faults)]
    monkeypatch.setattr(photo, "fit_together", lambda *arguments: together)

    class Fitter:
        steps = 1

        def __call__(self, *arguments, **options):
            return alone

    preprocessor = photo.PhotoPreprocessor.__new__(photo.PhotoPreprocessor)
    preprocessor.fit, preprocessor.body = Fitter(), body
    image, seen = np.zeros((8, 8, 3), np.uint8), [torch.ones(8, 8), torch.zeros(133, 3)]
    detection, camera = Detection(*seen, torch.zeros(133, 4)), photo_camera(8, 8)
    sights = [Sight(Path(name), image, detection, camera, None) for name in ("a.jpg", "b.jpg")]
    with Progress() as progress:
        found = preprocessor._fit(sights, progress, Path("me"), NOTHING)
    assert [fit.start for fit in found] == ([""] * 2 if faults else ["together"] * 2)
    assert ("b.jpg would not fit any more" in caplog.text) == bool(faults)
