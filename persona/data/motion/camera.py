"""From the world of motions to a camera."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.motion import rotate_world
from persona.types import BodyPose, Camera

CAMERA_FROM_WORLD = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
"""A camera on the +z axis that looks at a person who faces +z: y up becomes y down, and the
person's left stays at the right of the picture. It is its own inverse."""


def place_in_camera(
    pose: BodyPose, rest_root: Float[Tensor, "3"], shift_m: Float[Tensor, "3"] | None = None
) -> BodyPose:
    """World pose to OpenCV camera coordinates, then moved by ``shift_m`` (camera axes).

    rest_root: the body's rest root joint, metres, of the identity that will be posed.
    """
    placed = rotate_world(pose, CAMERA_FROM_WORLD, rest_root)
    if shift_m is None:
        return placed
    return replace(placed, trans=placed.trans + shift_m.to(placed.trans))


def place_in_world(pose: BodyPose, rest_root: Float[Tensor, "3"]) -> BodyPose:
    """Inverse of ``place_in_camera`` without a shift: the camera's position becomes the origin."""
    return rotate_world(pose, CAMERA_FROM_WORLD, rest_root)


def fit_camera(
    points: Float[Tensor, "*b p 3"],
    height: int,
    width: int,
    focal_px: float | int | None = None,
    margin: float = 0.08,
) -> tuple[Camera, Float[Tensor, "3"]]:
    """A camera and the shift that puts all points in view.

    Args:
        points: What must be seen, in camera axes (as ``place_in_camera`` without shift gives
            vertices or joints), metres, any number of frames.
        height: Height of the picture, pixels.
        width: Width of the picture, pixels.
        focal_px: Focal length; None takes twice the picture's longer side (about 28 degrees).
        margin: Empty border as a share of the picture, on each side.

    Returns:
        The camera (identity extrinsics) and the translation, camera axes, to add to the points.
    """
    focal_px = focal_px or 2.0 * max(height, width)
    flat = points.reshape(-1, 3)
    half = torch.tensor([width, height]).to(flat) * (0.5 - margin) / focal_px
    # A point is in view when |x + dx| <= half * (z + dz): for either axis, the planes through the
    # camera centre bound dx - half * dz and dx + half * dz.
    low = (flat[:, :2] + half * flat[:, 2:]).amin(0)
    high = (flat[:, :2] - half * flat[:, 2:]).amax(0)
    depth = ((high - low) / (2 * half)).max()
    shift = torch.cat([-(high + low) / 2, depth[None]])
    center = torch.tensor([width / 2, height / 2])
    camera = Camera.identity(torch.full((2,), float(focal_px)), center, height, width)
    return camera, shift
