"""Splits by hand, both conventions of hand poses, and poses in a camera's frame."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_datasets import camera_of, camera_pose, person, pose_in_world

from persona.data.native.recording import (
    NativeFrame,
    fit_expression,
    front_frame,
    in_camera,
    neuman_split,
)
from persona.data.parameters import from_flat_hands
from persona.errors import UserError
from persona.types import BodyPose


@pytest.mark.parametrize(
    ("count", "held_out", "test"),
    [
        # step 5, offset 2
        (10, [2, 7], [2]),
        (11, [2, 7], [2]),  # num_val 2, step 5
        (14, [3, 10], [3]),  # num_val 2, step 7, offset 3
        (20, [2, 7, 12, 17], [2, 7]),
        (24, [3, 9, 15, 21], [3, 9]),  # num_val 4, step 6, offset 3
        (25, [2, 7, 12, 17, 22], [2, 7]),
    ],
)
def test_split_rule_by_hand(count, held_out, test):
    train, validation, tested = neuman_split(count)
    assert tested == test and validation == held_out[len(test) :]
    assert train == [n for n in range(count) if n not in held_out]


def test_split_rule_is_theirs_for_every_length():
    """The oracle is NeuMan's formula of the step, int(1 / num_val * count)."""
    for count in range(10, 400):
        train, validation, test = neuman_split(count)
        step = int(1 / (count // 5) * count)
        held_out = list(range(count))[step // 2 :: step]
        assert test + validation == held_out and len(test) == len(held_out) // 2
        assert sorted(train + validation + test) == list(range(count))


def test_split_of_too_few():
    with pytest.raises(ValueError, match="9 frames"):
        neuman_split(9)


def test_hands_of_both_conventions(body):
    """A flat hand is 0 in one convention and minus the mean in the other."""
    flat = BodyPose.zero(3)
    ours = from_flat_hands(flat, body.hands_mean)
    assert torch.equal(ours.left_hand, -body.hands_mean[:15])
    assert torch.equal(ours.right_hand, -body.hands_mean[15:])
    # Our body adds the mean hand, which gives straight fingers.
    assert torch.equal(body.full_pose(ours)[25:], torch.zeros(30, 3))
    mean = from_flat_hands(BodyPose.zero(3), -body.hands_mean)
    assert torch.equal(mean.joints[25:], body.hands_mean)
    pose = pose_in_world(body, 3)
    back = from_flat_hands(from_flat_hands(pose, -body.hands_mean), body.hands_mean)
    assert torch.allclose(back.joints, pose.joints, atol=1e-6)


def test_world_pose_in_a_camera_moves_every_vertex(body):
    """Posing in the camera's frame equals posing in the world, then moving to the camera."""
    identity, pose, camera = person(body), pose_in_world(body, 4), camera_of(3)
    root = body.shape(identity)[1][0]
    placed = in_camera(pose, camera.cam_from_world, root, root)
    world, _ = body(identity, pose)
    matrix = camera.cam_from_world
    seen, _ = body(identity, placed)
    assert torch.allclose(seen, world @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-5)
    by_hand = camera_pose(body, identity, pose, camera)
    assert np.allclose(placed.trans, by_hand[1], atol=1e-5)


def test_another_shape_keeps_its_root_in_place(body):
    pose, camera = pose_in_world(body, 1), camera_of(2)
    made_for, posed = person(body, 1), person(body, 2)
    roots = [body.shape(identity)[1][0] for identity in (made_for, posed)]
    assert not torch.allclose(*roots)
    placed = in_camera(pose, camera.cam_from_world, *roots)
    joint = body(posed, placed)[1][0]
    matrix = camera.cam_from_world
    assert torch.allclose(joint, matrix[:3, :3] @ body(made_for, pose)[1][0] + matrix[:3, 3],
                          atol=1e-5)  # fmt: skip


def test_expression_is_padded_but_never_cut():
    pose = BodyPose.zero(10)
    pose.expression[4] = 0.5
    longer = fit_expression(pose, 52, "p")
    assert longer.expression.shape == (52,) and longer.expression[4] == 0.5
    assert fit_expression(pose, 5, "p").expression.shape == (5,)
    with pytest.raises(UserError, match=r"^p: has 10 expression coefficients, the body 4; load"):
        fit_expression(pose, 4, "p")


def test_front_frame_is_the_one_that_faces_its_camera():
    def frame(label, yaw):
        pose = replace(BodyPose.zero(1), root=torch.tensor([0.0, yaw, 0.0]))
        return NativeFrame(label, "", camera_of(0), pose, lambda: np.ones((1, 1), bool))

    frames = [frame("away", 0.1), frame("side", 1.6), frame("front", 3.0), frame("less", 2.5)]
    assert front_frame(frames).label == "front"
    assert front_frame(frames[:2]).label == "side"
