"""The photo path's result, mapped back onto the photo."""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from numpy import ndarray
from scipy import ndimage
from scipy.optimize import minimize_scalar
from torch import Tensor

from persona.data.layout import CAPTURED, Textures
from persona.data.palette import classes_from_colours
from persona.data.preprocess.fit import photo_camera
from persona.data.subject import Subject
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyIdentity, BodyPose, Camera

_MOST_DIFFERENT = 25.0
"""Mean difference of crop and photo, of 255, above which the crop is not of this photo."""
_CLEARLY = 1.2
_RIM = 0.01
"""Width of the rim of the mask that is not compared, of the frame's height."""
_SAMPLES = 4000
_SCALES = np.geomspace(0.05, 4.0, 160)
"""Heights of the crop tried, in heights of the photo."""


@dataclass(frozen=True)
class Placement:
    """Where the captured frame lies in the photo: photo px = scale * frame px + shift."""

    scale: float
    shift: Float[ndarray, "2"]
    difference: float
    """Mean absolute colour difference inside the captured mask, of 255."""

    def photo(self, points: Float[ndarray, "n 2"]) -> Float[ndarray, "n 2"]:
        """Pixels of the captured frame to pixels of the photo."""
        return self.scale * points + self.shift


@dataclass(frozen=True)
class FittedPerson:
    """A subject's captured frame, and its body."""

    body: SmplxBody
    identity: BodyIdentity
    pose: BodyPose
    vertices: Float[Tensor, "p 3"]
    joints: Float[Tensor, "55 3"]
    """Metres in the camera's frame."""
    camera: Camera
    """Camera of the captured frame."""
    mask: Bool[ndarray, "h w"]
    parts: UInt8[ndarray, "h w"]
    textures: Textures
    num_found: int
    """People found in the photo."""
    placement: Placement

    def onto(
        self, values: Shaped[ndarray, "h w"], height: int, width: int, photo_height: int
    ) -> Shaped[ndarray, "{height} {width}"]:
        """A map of the captured frame (bool or classes) on a grid of the photo, 0 beyond it.

        Args:
            values: Values of the captured frame.
            height: Height of the grid.
            width: Width of the grid.
            photo_height: Height of the photo.
        """
        coarse = height / photo_height
        scale, shift = self.placement.scale * coarse, self.placement.shift * coarse
        # Pixel centres lie at +0.5 here and at whole numbers in OpenCV.
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float64)
        matrix[:, 2] += 0.5 * scale - 0.5
        if values.dtype != bool:
            return cv2.warpAffine(values, matrix, (width, height), flags=cv2.INTER_NEAREST)
        return cv2.warpAffine(values.astype(np.float32), matrix, (width, height)) > 0.5


def read_fitted(
    subject: Subject,
    body: SmplxBody,
    photo: UInt8[ndarray, "h0 w0 3"],
    focal_px: float | None = None,
) -> FittedPerson:
    """Reads a subject folder.

    Args:
        subject: The folder.
        body: That was fitted.
        photo: That it was made of.
        focal_px: Taken for the photo's focal length; None is the fit's default.

    Raises:
        UserError: the folder is damaged, of another body, or not made of this photo.
    """
    number = subject.frame_ids(CAPTURED)[0]
    frame, identity = subject.frame(CAPTURED, number), subject.identity(body)
    pose = subject.pose(CAPTURED, number, body.num_expression)
    with torch.no_grad():
        vertices, joints = body(identity, pose)
    placement = find_placement(photo, frame.image, frame.mask, frame.camera, focal_px)
    if placement.difference > _MOST_DIFFERENT:
        raise UserError(
            f"{subject.root}: its captured frame is not of this photo (colours differ by "
            f"{placement.difference:.0f} of 255); check the pattern"
        )
    provenance = subject.info.provenance if subject.info else ""
    return FittedPerson(
        body, identity, pose, vertices, joints, frame.camera, frame.mask,
        classes_from_colours(frame.seg) * frame.mask, subject.textures(CAPTURED),
        num_found(provenance), placement,
    )  # fmt: skip


def num_found(provenance: str) -> int:
    """People found, from the detector's warnings that the subject keeps."""
    found = re.search(r"(\d+) (?:people|persons)", provenance)
    return int(found[1]) if found else 1


def find_placement(
    photo: UInt8[ndarray, "h0 w0 3"],
    frame: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    camera: Camera,
    focal_px: float | None = None,
) -> Placement:
    """Finds the captured frame in the photo by its colours.

    The principal point is taken to lie in the photo's middle, so that one scale is sought. What
    the fit takes for the focal length by default is tried first, and kept if nothing is clearly
    better: a person of one colour would fit anywhere.
    """
    center_px = camera.center_px.numpy()
    # The rim has white or the background in it, by the frame's smoothing.
    inner = ndimage.binary_erosion(mask, iterations=max(1, round(_RIM * frame.shape[0])))
    rows, columns = np.nonzero(inner if inner.any() else mask)
    chosen = np.random.default_rng(0).permutation(len(rows))[:_SAMPLES]
    rows, columns = rows[chosen], columns[chosen]
    points = np.stack([columns, rows], 1) + 0.5 - center_px
    middle = np.array([photo.shape[1], photo.shape[0]]) / 2
    colours = frame[rows, columns].astype(np.float32)

    def difference(scale: float, source: ndarray) -> float:
        column, row = (points * scale + middle - 0.5).astype(np.float32).T[:, None]
        there = cv2.remap(source, column, row, cv2.INTER_LINEAR, borderValue=(255,) * 3)[0]
        return float(np.abs(there - colours).mean())

    def refined(scale: float) -> tuple[float, float]:
        """The best difference around a scale, and where it is."""
        # A pixel of the frame is the mean of so many of the photo's.
        source = cv2.GaussianBlur(photo.astype(np.float32), (0, 0), max(0.3, scale / 2))
        found = minimize_scalar(
            difference, bounds=(scale / step, scale * step), args=(source,), method="bounded",
            options={"xatol": 1e-4 * scale},
        )  # fmt: skip
        return float(found.fun), float(found.x)

    step = _SCALES[1] / _SCALES[0]
    height, width = photo.shape[:2]
    assumed = float((photo_camera(height, width, focal_px).focal_px / camera.focal_px).mean())
    first = refined(assumed)
    soft = cv2.GaussianBlur(photo.astype(np.float32), (0, 0), 0.01 * photo.shape[0])
    scales = _SCALES * photo.shape[0] / frame.shape[0]
    rough = np.array([difference(scale, soft) for scale in scales])
    value, scale = min(refined(scales[index]) for index in np.argsort(rough)[:5])
    if first[0] < _CLEARLY * value + 1:
        value, scale = first
    return Placement(scale, middle - scale * center_px, value)
