"""The errors of a video model: identity drift, blur, flicker, misalignment, wrong poses."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Float32
from scipy.ndimage import gaussian_filter1d

from persona.data.synthetic.config import SyntheticConfig
from persona.data.synthetic.studio import Look, Shot
from persona.types import NUM_JOINTS, BodyPose

MEMORY_FRAMES = 5.0
"""Standard deviation of the window over which errors are correlated."""
FLOW_CELLS = (5, 4)
FLOW_STEP = 0.004
"""Typical warp at strength 1, in image heights (1 pixel of 256)."""
BLUR_STEP = 0.0025
"""Standard deviation of the blur at strength 1, in image heights."""
TINT_STEP = 0.025
"""Relative error of each colour channel at strength 1."""
POSE_STEP = 0.025
"""Radians of pose error at strength 1."""
TRANS_STEP_M = 0.004


def _wander(rng: np.random.Generator, frames: int, *shape: int) -> np.ndarray:
    """Smooth noise of unit variance over time, (frames, *shape)."""
    white = rng.normal(size=(frames, *shape))
    scale = np.sqrt(2 * np.sqrt(np.pi) * MEMORY_FRAMES)
    return gaussian_filter1d(white, MEMORY_FRAMES, axis=0, mode="wrap") * scale


class VideoErrors:
    """The errors of one clip, drawn once; each vanishes where its strength is 0."""

    def __init__(self, config: SyntheticConfig, frames: int, rng: np.random.Generator):
        """``frames``: length of the clip."""
        self.config = config
        rise = np.linspace(0.35, 0.75, frames)
        self._drift = np.clip(config.drift * (rise + 0.12 * _wander(rng, frames)), 0, 1)
        self._tint = 1 + config.drift * TINT_STEP * _wander(rng, frames, 3)
        self._blur = config.blur * BLUR_STEP * np.clip(1 + 0.4 * _wander(rng, frames), 0.2, 2)
        self._flicker = 1 + config.flicker * 0.035 * rng.normal(size=frames)
        self._flow = config.misalignment * FLOW_STEP * _wander(rng, frames, *FLOW_CELLS, 2)
        self._turn = config.pose_noise * POSE_STEP * _wander(rng, frames, NUM_JOINTS, 3)
        self._shift = config.pose_noise * TRANS_STEP_M * _wander(rng, frames, 3)

    def look(self, frame: int, true: Look, drifted: Look) -> Look:
        """How the person looks in a frame."""
        share = float(self._drift[frame])
        return true.blend(drifted, share) if share > 0 else true

    def pose(self, frame: int, pose: BodyPose) -> BodyPose:
        """The stored pose, with errors, of a rendered one; hands and face stay true."""
        joints = pose.joints.clone()
        joints[:22] += torch.from_numpy(self._turn[frame, :22]).float()
        trans = pose.trans + torch.from_numpy(self._shift[frame]).float()
        return BodyPose.from_joints(joints, pose.expression, trans)

    def warp(self, frame: int, shot: Shot) -> Shot:
        """The shot moved and stretched by a few pixels, with all its maps."""
        if not self._flow[frame].any():
            return shot
        height, width = shot.coverage.shape
        flow = (self._flow[frame] * height).astype(np.float32)
        flow = cv2.resize(flow, (width, height), interpolation=cv2.INTER_CUBIC)
        rows, columns = np.indices((height, width), np.float32)
        place = (columns + flow[..., 0], rows + flow[..., 1])

        def moved(values: np.ndarray, how: int) -> np.ndarray:
            return cv2.remap(values, *place, how)

        smooth = {
            k: moved(getattr(shot, k), cv2.INTER_LINEAR) for k in ("image", "albedo", "coverage")
        }
        sharp = {k: moved(getattr(shot, k), cv2.INTER_NEAREST) for k in ("depth", "normal")}
        part = moved(shot.part.astype(np.uint8), cv2.INTER_NEAREST).astype(np.int64)
        return replace(shot, **smooth, **sharp, part=part)

    def develop(
        self, frame: int, image: Float32[np.ndarray, "h w 3"]
    ) -> Float32[np.ndarray, "h w 3"]:
        """Blurs, tints and flickers a finished frame."""
        sigma = float(self._blur[frame]) * image.shape[0]
        if sigma > 0:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        gain = self._flicker[frame] * self._tint[frame]
        return np.clip(image * gain.astype(np.float32), 0, 1)
