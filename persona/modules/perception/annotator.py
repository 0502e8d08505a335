"""The perception network behind the ``Annotator`` interface."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from persona.modules.detect import wholebody
from persona.modules.detect.annotator import JOINTS, Annotator
from persona.modules.detect.matting import guided_filter
from persona.modules.perception.network import MIRRORED_JOINTS, NUM_PARTS, Percepts
from persona.modules.perception.prompt import detector_prompt
from persona.modules.perception.weights import load_net

_HEIGHT, _STRIDE = 512, 32
_JOINT_HEIGHT = 256
"""Joints are read where the network has seen most people: of half the size."""
_FACE = 2
"""``Face_Neck`` in the palette."""
_PAIRS = ((4, 13), (5, 14), (6, 15), (7, 16), (8, 17), (9, 18), (10, 19), (11, 20))
"""Left and right classes of the palette, to mirror them."""


class PerceptionAnnotator(Annotator):
    """Matte, parts, place on the body, normals, depth, joints by the network; needs no fitted body.

    The crop is read as it is and in a mirror, and the mean is taken.

    Args:
        weights: A file that ``python train.py +exp=perception`` wrote; None is the shipped one.
    """

    provides = frozenset({"alpha", "parts", "surface", "normal", "depth", JOINTS})
    needs_prior = False

    def __init__(self, weights: str | Path | None = None):
        # Convolutions on a CPU take a third less time with channels side by side.
        self.net = load_net(weights).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Shaped[Tensor, "133 3"],
        prior: Int[ndarray, "h w"] | None = None,
    ) -> dict[str, ndarray]:
        """See ``Annotator``."""
        height, width = alpha.shape
        percepts = self._read(image, alpha, keypoints, _HEIGHT)
        matte = _enlarged(percepts.alpha.sigmoid()[0, 0], (height, width))
        radius = max(2, round(0.004 * height))
        matte = guided_filter(image, matte, radius).astype(np.float32)
        person = matte > 0.5
        surface = _enlarged(percepts.surface[0], (height, width))
        normal = _enlarged(F.normalize(percepts.normal[0], dim=0), (height, width))
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True).clip(1e-6)
        depth = _enlarged(percepts.depth[0, 0], (height, width))
        return {
            "alpha": matte,
            "parts": _parts(percepts.parts[0], person, keypoints),
            "surface": np.where(person[..., None], surface, np.nan).astype(np.float32),
            "normal": np.where(person[..., None], normal, 0).astype(np.float32),
            "depth": np.where(person, depth, 0).astype(np.float32),
            JOINTS: self.read_joints(image, alpha, keypoints),
        }

    @torch.no_grad()
    def read_joints(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Shaped[Tensor, "133 3"],
    ) -> Float32[ndarray, "22 4"]:
        """Only ``JOINTS``, in a fraction of the time."""
        joints = self._read(image, alpha, keypoints, _JOINT_HEIGHT).joints[0]
        return torch.cat((joints[:, :3], joints[:, 3:].exp()), -1).numpy()

    def _read(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Shaped[Tensor, "133 3"],
        read_height: int,
    ) -> Percepts:
        """The network's outputs for the crop, read at a height of ``read_height`` pixels."""
        height, width = alpha.shape
        read_width = max(_STRIDE, round(read_height * width / height / _STRIDE) * _STRIDE)
        small = read_height, read_width
        scale = torch.tensor([read_width / width, read_height / height])
        pixels = torch.from_numpy(_resized(image, small)).permute(2, 0, 1)[None].float() / 255
        prompt = detector_prompt(
            torch.from_numpy(_resized(alpha, small))[None].float(),
            (keypoints[:, :2] * scale)[None].float(),
            keypoints[None, :, 2] > wholebody.MIN_SCORE,
        )
        return self._both_ways(pixels, prompt)

    def _both_ways(self, image: Tensor, prompt: Tensor) -> Percepts:
        """Mean of what is read of the crop and of its mirror image."""
        channels = [0, 1, 3, 2, 5, 4, 7, 6]
        there = self.net(image, prompt)
        back = self.net(image.flip(3), prompt[:, channels].flip(3))
        swap = list(range(NUM_PARTS))
        for left, right in _PAIRS:
            swap[left], swap[right] = right, left
        sign = torch.tensor([-1.0, 1, 1])[:, None, None]
        joints = back.joints[:, list(MIRRORED_JOINTS)] * torch.tensor([-1.0, 1, 1, 1])
        joints[..., 0] += 1
        return there._replace(
            alpha=(there.alpha + back.alpha.flip(3)) / 2,
            parts=(there.parts + back.parts[:, swap].flip(3)) / 2,
            surface=(there.surface + back.surface.flip(3) * sign) / 2,
            normal=(there.normal + back.normal.flip(3) * sign) / 2,
            depth=(there.depth + back.depth.flip(3)) / 2,
            joints=(there.joints + joints) / 2,
        )


def _parts(
    logits: Float32[Tensor, "28 h2 w2"], person: Bool[ndarray, "h w"], keypoints: Tensor
) -> UInt8[ndarray, "h w"]:
    """Classes of the person's pixels; where a detector outlined the face, it is face."""
    best = np.full(person.shape, -np.inf, np.float32)
    parts = np.zeros(person.shape, np.uint8)
    # The matte decides what is background.
    for index in range(1, NUM_PARTS):
        value = _enlarged(logits[index], person.shape)
        better = value > best
        best[better], parts[better] = value[better], index
    parts[wholebody.face_hull(person.shape, keypoints)] = _FACE
    return np.where(person, parts, 0).astype(np.uint8)


def _resized(image: ndarray, size: tuple[int, int]) -> ndarray:
    method = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method)


def _enlarged(values: Tensor, size: tuple[int, int]) -> Float32[ndarray, "h w *c"]:
    """A map at another size, channels last."""
    array = values.permute(1, 2, 0).numpy() if values.dim() == 3 else values.numpy()
    return cv2.resize(np.ascontiguousarray(array), size[::-1], interpolation=cv2.INTER_LINEAR)
