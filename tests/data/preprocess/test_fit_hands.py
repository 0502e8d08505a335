"""The fit places hands and arms where the picture shows them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from persona.data.palette import PART_INDEX
from persona.data.preprocess.annotate import view_body
from persona.data.preprocess.canvas import Canvas
from persona.data.preprocess.fit import photo_camera
from persona.data.preprocess.fit_hands import (
    HandBeforeTerm,
    HandPlaceTerm,
    hand_middle,
    seen_middle,
)
from persona.data.preprocess.fit_joints import with_agreed_limbs
from persona.data.preprocess.fit_terms import CropSpace
from persona.data.preprocess.parts import PARTS, limb_of_vertices
from persona.modules.body.joints import LEFT_HAND, RIGHT_HAND
from persona.modules.detect import Detection, wholebody
from persona.modules.detect.annotator import JOINTS
from persona.modules.detect.offsets import OFFSETS
from persona.types import BodyPose

HEIGHT, WIDTH = 640, 480
HALF = torch.tensor([WIDTH / 2, HEIGHT / 2])


@pytest.fixture
def camera():
    return photo_camera(HEIGHT, WIDTH)


def crop_of(camera, parts, keypoints, joints, spread_m=0.02):
    """The photo at half its size, with given parts and joints."""
    small = camera.crop(torch.tensor([0.0, 0.0, WIDTH, HEIGHT]), HEIGHT // 2, WIDTH // 2)
    image = np.zeros((HEIGHT // 2, WIDTH // 2, 3), np.uint8)
    points = keypoints * torch.tensor([0.5, 0.5, 1.0])
    read = torch.cat((joints / (2 * HALF), torch.zeros(22, 1), torch.full((22, 1), spread_m)), -1)
    maps = {JOINTS: read.numpy(), "parts": parts}
    return Canvas(image, (parts > 0).astype(np.float32), small, points, image, maps)


def detection_of(keypoints):
    return Detection(torch.zeros(HEIGHT, WIDTH), keypoints, torch.zeros(133, 4))


def spread_keypoints():
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(133, 2, generator=generator) * 2 * HALF
    return torch.cat((places, torch.ones(133, 1)), -1)


def test_a_hand_is_drawn_to_the_pixels_that_show_it(camera):
    parts = np.full((HEIGHT // 2, WIDTH // 2), PART_INDEX["Torso"], np.uint8)
    parts[100:120, 60:80] = PART_INDEX["Left_Hand"]  # Its middle in the photo is (140, 220).
    parts[5:8, 5:8] = PART_INDEX["Right_Hand"]  # A speck.
    keypoints = spread_keypoints()
    keypoints[wholebody.LEFT_WRIST, :2] = torch.tensor([150.0, 240.0])
    space = CropSpace(keypoints)
    far = torch.full((22, 2), 5.0)
    term = HandPlaceTerm(crop_of(camera, parts, keypoints, far), camera, space)
    joints = torch.zeros(2, 55, 3)
    joints[..., 2] = 4.0
    ray = (torch.tensor([140.0, 220.0]) - camera.center_px) / camera.focal_px
    joints[:, LEFT_HAND, :2] = 4 * ray
    joints[1, LEFT_HAND, 0] += 0.2
    here, off = term(joints)
    expected = 0.2 * camera.focal_px[0] / 4 * space.scale
    assert here < 0.01
    torch.testing.assert_close(off, expected - 0.04, atol=0.01, rtol=0)


def test_the_middle_of_a_hand_is_that_of_its_pixels(body):
    """Of a body in its resting pose, from in front: the mean of a hand's joints lies beyond it."""
    pose = BodyPose.zero(body.num_expression)
    pose = replace(pose, root=torch.tensor([torch.pi, 0, 0]), trans=torch.tensor([0.0, 0, 5]))
    camera = photo_camera(2 * HEIGHT, 2 * WIDTH)
    identity, limbs = body.zero_identity(), limb_of_vertices(body)
    view = view_body(body, limbs, identity, pose, camera)
    joints = body(identity, pose)[1]
    for side, hand in (("Left_Hand", LEFT_HAND), ("Right_Hand", RIGHT_HAND)):
        seen = seen_middle((view.limbs + 1).astype(np.uint8), 1 + PARTS.index(side))
        middle, mean = (
            camera.project(place)[0]
            for place in (hand_middle(joints[None, list(hand)]), joints[list(hand)].mean(0)[None])
        )
        assert (middle - seen).norm() < 0.5 * (mean - seen).norm()


def test_a_hand_far_from_its_wrist_is_not_believed(camera):
    parts = np.full((HEIGHT // 2, WIDTH // 2), PART_INDEX["Torso"], np.uint8)
    parts[100:120, 60:80] = PART_INDEX["Left_Hand"]
    keypoints = spread_keypoints()
    keypoints[wholebody.LEFT_WRIST, :2] = torch.tensor([400.0, 600.0])
    far = torch.full((22, 2), 5.0)
    seen = crop_of(camera, parts, keypoints, far)
    joints = torch.randn(2, 55, 3, generator=torch.Generator().manual_seed(0)) + 5
    assert HandPlaceTerm(seen, camera, CropSpace(keypoints))(joints).tolist() == [0, 0]


def test_an_arm_put_on_the_other_one_is_taken_from_where_it_is_read(camera):
    keypoints = spread_keypoints()
    read = torch.rand(22, 2, generator=torch.Generator().manual_seed(1)) * 2 * HALF
    for point, joint in ((7, 18), (9, 20), (8, 19), (10, 21), (13, 4), (15, 7), (14, 5), (16, 8)):
        read[joint] = keypoints[point, :2] + 5
    read[18], read[20] = torch.tensor([300.0, 200]), torch.tensor([350.0, 300])
    keypoints[[7, 9], :2] = torch.tensor([[100.0, 200], [80, 300]])
    read[4] += 200  # One wrong knee is not a wrong limb.
    parts = np.zeros((HEIGHT // 2, WIDTH // 2), np.uint8)
    found = detection_of(keypoints)
    mended = with_agreed_limbs(found, crop_of(camera, parts, keypoints, read), camera)
    torch.testing.assert_close(mended.keypoints[[7, 9], :2], read[[18, 20]], atol=1e-3, rtol=0)
    assert (mended.keypoints[wholebody.LEFT_HAND, 2] == 0).all()
    others = [i for i in range(91) if i not in (7, 9)] + list(range(112, 133))
    assert torch.equal(mended.keypoints[others], keypoints[others])
    placed = replace(found, offsets=OFFSETS["mediapipe"])
    offsets = with_agreed_limbs(placed, crop_of(camera, parts, keypoints, read), camera).offsets
    # The replaced elbow has no offset of the detector any more; other points keep theirs.
    assert offsets[:, 0].tolist() == [p for p in OFFSETS["mediapipe"][:, 0].tolist() if p != 7]
    unsure = crop_of(camera, parts, keypoints, read, spread_m=0.3)
    assert with_agreed_limbs(found, unsure, camera) is found


def test_a_hand_that_is_seen_lies_before_what_it_covers(camera):
    parts = np.full((HEIGHT // 2, WIDTH // 2), PART_INDEX["Torso"], np.uint8)
    parts[150:170, 110:130] = PART_INDEX["Left_Hand"]  # In the middle of the photo.
    keypoints = spread_keypoints()
    keypoints[wholebody.LEFT_WRIST, :2] = HALF
    seen = crop_of(camera, parts, keypoints, torch.full((22, 2), 5.0))
    place = HandPlaceTerm(seen, camera, CropSpace(keypoints))
    chest, back, arm, aside = [0.0, 0, 4.0], [0.0, 0, 4.2], [0.0, 0, 3.0], [0.5, 0, 2.0]
    vertices = torch.tensor([[chest, back, arm, aside]]).repeat(2, 1, 1)
    term = HandBeforeTerm(place, torch.tensor([True, True, False, True]))
    joints = torch.zeros(2, 55, 3)
    joints[:, LEFT_HAND, 2] = torch.tensor([[4.1], [3.9]])
    torch.testing.assert_close(term(vertices, joints), torch.tensor([0.13, 0.0]))
    assert term(vertices + torch.tensor([1.0, 0, 0]), joints).tolist() == [0, 0], (
        "beside the body there is no penalty"
    )
