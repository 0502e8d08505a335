"""A photograph and controls for tests of generators; the person has random keypoints."""

import numpy as np
import torch

from persona.modules.diffusion.base import KEYPOINTS, Controls, Reference
from persona.types import BodyPose, Camera

FRAMES, SIZE = 3, 64
POINTS = np.random.default_rng(0).uniform(8, 56, (133, 2))


def scene(shift=0.0, colour=120):
    """Keypoints shift by ``shift`` pixels per frame; the body is an inclined rectangle."""
    points = np.concatenate((POINTS, np.ones((133, 1))), 1).astype(np.float32)
    clip = np.stack([points + np.float32([shift * i, 0, 0]) for i in range(FRAMES)])
    image = np.full((SIZE, SIZE, 3), colour, np.uint8)
    reference = Reference(image, np.ones((SIZE, SIZE), np.float32), points)
    camera = Camera.identity(torch.full((2,), 100.0), torch.full((2,), SIZE / 2), SIZE, SIZE)
    zero = BodyPose.zero(10)
    poses = BodyPose(**{k: v.expand(FRAMES, *v.shape) for k, v in vars(zero).items()})
    depth = np.zeros((FRAMES, SIZE, SIZE), np.float32)
    depth[:, 8:56, 16:48] = np.linspace(2, 3, 32, dtype=np.float32)
    normal = np.zeros((*depth.shape, 3), np.float32)
    normal[depth > 0] = 0, 0.6, 0.8
    maps = {
        KEYPOINTS: clip,
        "depth": depth,
        "normal": normal,
        "bones": (depth > 0).astype(np.uint8) * 4,
        "colour": np.full((FRAMES, SIZE, SIZE, 3), colour, np.uint8),
    }
    return reference, Controls(poses, camera, maps)
