"""How a camera turns from frame to frame, by the still background behind the person."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from torch import Tensor

from persona.modules.detect.boxes import Box, pad
from persona.types import Camera

_LONGEST_PX = 480
_POINTS, _MIN_POINTS = 300, 24
_STILL_PX = 0.35
"""Median flow since the reference frame below which the camera has not turned."""
_AROUND = 0.08
"""Rim of the person's box that is left out, as a share of its longer side."""
_RANSAC_PX = 1.5
_AGREE = 0.6
"""Share of the corners that must move as one plane does; the grain of a dark picture does not."""


class TurnReader:
    """Follows corners of the background from a reference frame, and turns their rays.

    A hand-held camera mostly turns, and distant objects show only its rotation; its translation is
    not estimated. If the background has too few corners, or moves in another way, the camera counts
    as still.

    Args:
        camera: Camera of the frames.
    """

    def __init__(self, camera: Camera) -> None:
        scale = min(1.0, _LONGEST_PX / max(camera.height, camera.width))
        height, width = round(camera.height * scale), round(camera.width * scale)
        self.camera, self.scale = camera.resize(height, width), scale
        self.reference: UInt8[ndarray, "h w"] | None = None
        self.first: Float32[ndarray, "n 1 2"] = np.zeros((0, 1, 2), np.float32)
        self.last = self.first
        self.turn = torch.eye(3)
        """The latest frame's camera from the reference's."""

    def __call__(self, frame: UInt8[ndarray, "h w 3"], box: Box | None) -> Float[Tensor, "3 3"]:
        """The frame's camera from the one before it.

        Args:
            frame: The next one.
            box: Where the person is.
        """
        size = (self.camera.width, self.camera.height)
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        grey = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (0, 0), 1.2)
        before, found = self.turn, None
        if self.reference is not None and len(self.first) >= _MIN_POINTS:
            found = self._followed(grey)
        if found is None:
            step = torch.eye(3)
            self._restart(grey, box)
        else:
            self.turn, step = found, found @ before.T
            if len(self.first) < _POINTS // 3:
                self._restart(grey, box)
        return step

    def _restart(self, grey: UInt8[ndarray, "h w"], box: Box | None) -> None:
        """Makes a frame the reference."""
        mask = np.full(grey.shape, 255, np.uint8)
        if box is not None:
            left, top, width, height = (round(v * self.scale) for v in box)
            x, y, w, h = pad((left, top, width, height), _AROUND, *grey.shape)
            mask[y : y + h, x : x + w] = 0
        corners = cv2.goodFeaturesToTrack(grey, _POINTS, 0.01, 6, mask=mask)
        self.reference, self.turn = grey, torch.eye(3)
        self.first = np.zeros((0, 1, 2), np.float32) if corners is None else corners
        self.last = self.first

    def _followed(self, grey: UInt8[ndarray, "h w"]) -> Float[Tensor, "3 3"] | None:
        """The turn since the reference frame; None where too few corners are followed."""
        assert self.reference is not None  # Made with the first frame.
        flags = cv2.OPTFLOW_USE_INITIAL_FLOW
        moved, good, _ = cv2.calcOpticalFlowPyrLK(
            self.reference, grey, self.first, self.last.copy(), winSize=(17, 17), flags=flags
        )
        kept = good[:, 0] > 0
        if kept.sum() < _MIN_POINTS:
            return None
        _, inside = cv2.findHomography(self.first[kept], moved[kept], cv2.RANSAC, _RANSAC_PX)
        if inside is None or inside.sum() < max(_MIN_POINTS, _AGREE * kept.sum()):
            return None
        kept[kept] = inside[:, 0] > 0
        self.first, self.last = self.first[kept], moved[kept]
        flow = np.linalg.norm(self.last - self.first, axis=-1)
        if np.median(flow) < _STILL_PX:
            return torch.eye(3)
        return rotation_between(self._rays(self.first), self._rays(self.last))

    def _rays(self, pixels: Float32[ndarray, "n 1 2"]) -> Float[Tensor, "n 3"]:
        """Unit rays of OpenCV's pixels, whose centres lie at whole numbers."""
        flat = (torch.from_numpy(pixels[:, 0]) + 0.5 - self.camera.center_px) / self.camera.focal_px
        return torch.nn.functional.normalize(
            torch.cat((flat, torch.ones(len(flat), 1)), -1), dim=-1
        )


def rotation_between(a: Float[Tensor, "n 3"], b: Float[Tensor, "n 3"]) -> Float[Tensor, "3 3"]:
    """Rotation that brings rays ``a`` closest to ``b`` (Kabsch 1976)."""
    u, _, v = torch.linalg.svd(b.T @ a)
    flip = torch.diag(torch.tensor([1.0, 1.0, float(torch.linalg.det(u @ v).sign())]))
    return u @ flip @ v
