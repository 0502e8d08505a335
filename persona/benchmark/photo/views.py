"""Renders a fitted person from other sides and in other poses, laid over the truth's pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from scipy.optimize import minimize
from torch import Tensor

from persona.benchmark.photo.truth import TrueView
from persona.data.layout import Textures
from persona.data.preprocess.maps import body_maps
from persona.data.preprocess.textured_person import TexturedPerson, nearest_texel
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect.boxes import mask_bounds
from persona.systems.fit import Fit
from persona.types import BodyIdentity, BodyPose, Camera

SUPERSAMPLE = 2
_COARSE = 2
"""Silhouettes are aligned at half the size."""


class Picture(NamedTuple):
    """A render over white."""

    image: UInt8[ndarray, "h w 3"]
    mask: Bool[ndarray, "h w"]
    parts: UInt8[ndarray, "h w"] | None = None
    """Classes of the texture; an avatar has none."""
    seen: Bool[ndarray, "h w"] | None = None
    """Where the texture was seen in the photo."""

    def columns(self, part: slice) -> Picture:
        """Some of the columns."""
        parts, seen = (None if v is None else v[:, part] for v in (self.parts, self.seen))
        return Picture(self.image[:, part], self.mask[:, part], parts, seen)


Painter = Callable[[BodyPose, Camera], Picture]


class Place(NamedTuple):
    """A similarity of the picture plane: pixel * scale + (x, y)."""

    scale: float
    x: float
    y: float

    def camera(self, camera: Camera, height: int, width: int) -> Camera:
        """The camera whose picture is placed so."""
        shift = torch.tensor([self.x, self.y])
        return Camera(
            camera.cam_from_world, camera.focal_px * self.scale,
            camera.center_px * self.scale + shift, height, width,
        )  # fmt: skip


def texture_painter(body: SmplxBody, identity: BodyIdentity, textures: Textures) -> Painter:
    """Paints the filled texture on the posed body."""
    person = TexturedPerson(body, identity, textures)

    @torch.no_grad()
    def paint(pose: BodyPose, camera: Camera) -> Picture:
        image, mask, uv, fine = person.painted(pose, camera, SUPERSAMPLE)
        # One of the rays a pixel says what is there.
        own = uv[::SUPERSAMPLE, ::SUPERSAMPLE]
        covered = fine[::SUPERSAMPLE, ::SUPERSAMPLE]
        seen = nearest_texel(textures.mask.astype(np.uint8), own).astype(bool)
        return Picture(image, mask, nearest_texel(person.classes, own) * covered, seen & covered)

    return paint


def avatar_painter(system: Fit) -> Painter:
    """Paints a trained avatar, by its own renderer."""

    @torch.no_grad()
    def paint(pose: BodyPose, camera: Camera) -> Picture:
        state = matrix_pose(system.body, pose.to(system.device))
        colour, alpha = system.render(state, camera.to(system.device))
        image = (colour + 1 - alpha).clamp(0, 1) * 255
        pixels = image.round().byte().permute(1, 2, 0).cpu().numpy()
        return Picture(pixels, (alpha[0] > 0.5).cpu().numpy())

    return paint


def turned(pose: BodyPose, turn: Float[Tensor, "3 3"]) -> BodyPose:
    """The pose turned about its pelvis: SMPL-X leaves the root joint where it is."""
    root = turn @ matrix_from_axis_angle(pose.root)
    return replace(pose, root=axis_angle_from_matrix(root))


def paint_views(
    painter: Painter,
    pose: BodyPose,
    camera: Camera,
    views: list[TrueView],
    outlined: Painter | None = None,
) -> dict[str, Picture]:
    """The fitted pose from every side of the truth.

    Scale and place come from the silhouettes of the photo's own view, once; a shift to the side is
    granted to each view, since the true axis of the turn is not the fit's.

    Args:
        painter: Painter of the asset.
        pose: Fitted.
        camera: Fitted.
        views: Views of one size; one has azimuth 0.
        outlined: Paints the silhouettes that say where the asset is; None is the asset itself. What
            is compared must lie in the same place: an asset that is a pixel fatter all round would
            be shrunk, and its face moved by more than that.
    """
    outlined = outlined or painter
    front = next(view for view in views if view.azimuth == 0)
    height, width = front.mask.shape
    place = best_place(outlined(pose, camera).mask, front.mask)
    # A frame to each side, so that a person who is off the middle can be moved in.
    wide = place._replace(x=place.x + width).camera(camera, height, 3 * width)
    pictures = {}
    for view in views:
        assert view.turn is not None  # Known for every picture in views/
        seen = turned(pose, view.turn), wide
        picture = painter(*seen)
        outline = picture if outlined is painter else outlined(*seen)
        start = width - best_shift(outline.mask, view.mask)
        pictures[view.name] = picture.columns(slice(start, start + width))
    return pictures


def paint_poses(
    painter: Painter, poses: list[TrueView], outlined: Painter | None = None
) -> dict[str, Picture]:
    """The person in the truth's other poses, scale and place from each one's silhouette.

    Args:
        painter: Painter of the asset.
        poses: Of one size.
        outlined: See ``paint_views``.
    """
    outlined, pictures = outlined or painter, {}
    for view in poses:
        if view.pose is not None and view.camera is not None:
            place = best_place(outlined(view.pose, view.camera).mask, view.mask)
            pictures[view.name] = painter(view.pose, place.camera(view.camera, *view.mask.shape))
    return pictures


def best_place(mask: Bool[ndarray, "h w"], target: Bool[ndarray, "h2 w2"]) -> Place:
    """The similarity that lays one silhouette over another with the greatest IoU."""
    if not mask.any():
        return Place(1.0, 0.0, 0.0)
    small = cv2.resize(
        target.astype(np.float32), None, fx=1 / _COARSE, fy=1 / _COARSE,
        interpolation=cv2.INTER_AREA,
    )  # fmt: skip
    size, layer = small.shape[::-1], mask.astype(np.float32)

    def lost(values: Float[ndarray, "3"]) -> float:
        scale, x, y = np.exp(values[0]), *(values[1:] * 100)
        # Pixel centres lie at +0.5 here and at whole numbers in OpenCV.
        half = 0.5 * scale - 0.5
        matrix = np.array([[scale, 0, x + half], [0, scale, y + half]], np.float64)
        moved = cv2.warpAffine(layer, matrix, size)
        both = np.minimum(moved, small).sum()
        # Pixels that have left the frame count as well.
        return 1 - both / (layer.sum() * scale**2 + small.sum() - both)

    (top, bottom, left, right), (t, b, l, r) = mask_bounds(layer > 0.5), mask_bounds(small > 0.5)  # noqa: E741
    starts = []
    for scale in ((b - t) / (bottom - top), (r - l) / (right - left)):
        x, y = (l + r - scale * (left + right)) / 2, (t + b - scale * (top + bottom)) / 2
        starts.append(np.array([np.log(scale), x / 100, y / 100]))
    found = minimize(
        lost, min(starts, key=lost), method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-6},
    )  # fmt: skip
    scale, (x, y) = float(np.exp(found.x[0])), found.x[1:] * 100
    return Place(_COARSE * scale, _COARSE * float(x), _COARSE * float(y))


def best_shift(wide: Bool[ndarray, "h w3"], target: Bool[ndarray, "h w"]) -> int:
    """Pixels to the right that give a render, a frame wider on each side, the greatest IoU."""
    width = target.shape[1]
    shifts = range(1 - width, width)
    total = wide.sum()

    def overlap(shift: int) -> float:
        both = (wide[:, width - shift : 2 * width - shift] & target).sum()
        return both / max(1, total + target.sum() - both)

    # Every fourth, then every one around the best.
    rough = max(shifts[::4], key=overlap)
    return max(range(max(rough - 4, 1 - width), min(rough + 5, width)), key=overlap)


def render_normals(vertices: Float[Tensor, "p 3"], body: SmplxBody, camera: Camera) -> Picture:
    """The bare shape, shaded by its normals."""
    maps = body_maps(vertices, body.faces, camera)
    image = ((maps.normal + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return Picture(np.where(maps.mask[..., None], image, np.uint8(255)), maps.mask)
