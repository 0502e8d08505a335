"""Faces are upright in ArcFace's crop; boxes of a clip's faces."""

import numpy as np
import torch

from persona.modules.diffusion.controls.face import aligned_face, face_boxes, network_face

# ArcFace's places of right eye, left eye, nose and corners of the mouth.
WANTED = np.array([[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]])
COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [0, 250, 250]])


def photo(angle: float, scale: float):
    """Image and keypoints: coloured squares at a face's five points, turned and enlarged."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = (WANTED - 56) @ turn.T + [150, 140]
    image = np.zeros((300, 300, 3), np.uint8)
    for (x, y), colour in zip(places.round().astype(int), COLOURS, strict=True):
        image[y - 8 : y + 9, x - 8 : x + 9] = colour
    keypoints = np.zeros((133, 3), np.float32)
    keypoints[:, 2] = 1
    groups = (range(36, 42), range(42, 48), [30], [48], [54])
    for group, place in zip(groups, places, strict=True):
        keypoints[[23 + i for i in group], :2] = place
    return image, keypoints


def test_a_turned_face_stands_upright():
    for angle, scale in ((0, 1), (0.6, 1.7), (-2.5, 0.8)):
        face = aligned_face(*photo(angle, scale))
        assert face.shape == (112, 112, 3)
        for (x, y), colour in zip(WANTED.round().astype(int), COLOURS, strict=True):
            assert np.abs(face[y, x].astype(int) - colour).max() < 30


def test_a_face_that_is_not_seen_is_none():
    image, keypoints = photo(0, 1)
    keypoints[23 + 40, 2] = 0
    assert aligned_face(image, keypoints) is None


def test_the_networks_face_has_swapped_colours():
    face = np.zeros((112, 112, 3), np.uint8)
    face[..., 0] = 255
    pixel = network_face(face)[0, :, 5, 5]
    assert torch.equal(pixel, torch.tensor([-1.0, -1.0, 1.0]))


def test_boxes_hold_the_face_and_end_at_the_picture():
    keypoints = np.ones((3, 133, 3), np.float32)
    keypoints[:, 23:91, 0] = np.linspace(20, 40, 68)
    keypoints[:, 23:91, 1] = np.linspace(-5, 45, 68)
    keypoints[1, 30, 2] = 0
    keypoints[2, 23:91, :2] = 30
    boxes = face_boxes(keypoints, (48, 64))
    assert boxes.tolist() == [[0, 47, 18, 42], [-1] * 4, [-1] * 4]
