"""Skin with a painted face, in the body's own uv texture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from persona.data.preprocess.unwrap import UvMesh, sample_image, texels_of
from persona.data.synthetic.paint import smooth_noise
from persona.modules.body.topology import vertex_normals

# COCO-WholeBody indices of the 68-point face (contour 23-39 left out).
RIGHT_BROW, LEFT_BROW = slice(40, 45), slice(45, 50)
RIGHT_EYE, LEFT_EYE = slice(59, 65), slice(65, 71)
NOSTRILS, OUTER_LIPS, INNER_LIPS = slice(54, 59), slice(71, 83), slice(83, 91)
LEFT_EYE_JOINT, RIGHT_EYE_JOINT = 23, 24
PIXELS_PER_M = 3200.0
DECAL_SIDE = 800
SHIFT_BITS = 4


@dataclass(frozen=True)
class Makeup:
    """How the face is painted; lengths in metres, colours RGB in [0, 1]."""

    skin: np.ndarray
    hair: np.ndarray
    lips: np.ndarray
    iris: np.ndarray
    brow_width: float
    """0 leaves brows out."""
    brow_lift: float = 0.0
    eye_shift: float = 0.0
    """Iris displacement to the person's left."""
    blush: float = 0.35

    def drifted(self) -> Makeup:
        """The same person with a video model's identity drift."""
        return replace(
            self,
            skin=np.clip(self.skin * np.array([1.06, 0.97, 0.9]), 0, 1),
            hair=np.clip(self.hair * 0.7 + 0.08, 0, 1),
            lips=np.clip(self.lips * np.array([0.85, 1.15, 1.1]), 0, 1),
            iris=self.iris[::-1].copy(),
            brow_width=self.brow_width * 1.6,
            brow_lift=self.brow_lift + 0.004,
            blush=0.6,
        )


class _Decal:
    """A frontal picture of the face to draw on, in metres of the rest pose."""

    def __init__(self, centre: np.ndarray, base: np.ndarray):
        self.centre = centre
        self.image = np.broadcast_to(base.astype(np.float32), (DECAL_SIDE, DECAL_SIDE, 3)).copy()

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Rest positions to fractional pixels (x right, y down)."""
        offset = (points[..., :2] - self.centre[:2]) * np.array([1, -1]) * PIXELS_PER_M
        return offset + DECAL_SIDE / 2

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        return (self.pixels(points) * 2**SHIFT_BITS).round().astype(np.int32)

    def layer(self, ink: np.ndarray, alpha: np.ndarray, soft_m: float) -> None:
        """Blends a colour in through a mask that is first softened."""
        alpha = cv2.GaussianBlur(alpha, (0, 0), soft_m * PIXELS_PER_M)[..., None]
        self.image = self.image * (1 - alpha) + np.asarray(ink, np.float32) * alpha

    def polygon(self, points: np.ndarray, ink, soft_m: float, strength: float = 1.0) -> None:
        """Fills a polygon."""
        alpha = np.zeros(self.image.shape[:2], np.float32)
        cv2.fillPoly(alpha, [self._fixed(points)], strength, cv2.LINE_AA, SHIFT_BITS)
        self.layer(ink, alpha, soft_m)

    def line(self, points: np.ndarray, ink, width_m: float, soft_m: float, closed=False) -> None:
        """Draws a polyline."""
        alpha = np.zeros(self.image.shape[:2], np.float32)
        width = max(1, round(width_m * PIXELS_PER_M))
        cv2.polylines(alpha, [self._fixed(points)], closed, 1.0, width, cv2.LINE_AA, SHIFT_BITS)
        self.layer(ink, alpha, soft_m)

    def disc(self, point: np.ndarray, radius_m: float, ink, soft_m: float, strength=1.0) -> None:
        """Fills a circle."""
        alpha = np.zeros(self.image.shape[:2], np.float32)
        radius = int(radius_m * PIXELS_PER_M * 2**SHIFT_BITS)
        centre = tuple(int(v) for v in self._fixed(point))
        cv2.circle(alpha, centre, radius, strength, -1, cv2.LINE_AA, SHIFT_BITS)
        self.layer(ink, alpha, soft_m)

    def sample(self, points: Tensor) -> Tensor:
        """Colours at rest positions (k, 3)."""
        pixels = torch.from_numpy(self.pixels(points.numpy())).float()
        return sample_image(
            torch.from_numpy(self.image).float(), pixels.clamp(0.5, DECAL_SIDE - 0.5)
        )


def _skin_decal(keypoints: np.ndarray, makeup: Makeup) -> _Decal:
    """Brows, eyelids, nostrils, lips and cheeks."""
    decal = _Decal(keypoints[40:91].mean(0), makeup.skin)
    eyes = [keypoints[RIGHT_EYE], keypoints[LEFT_EYE]]
    shade = makeup.skin * np.array([0.72, 0.6, 0.55])
    for eye in eyes:
        cheek = eye.mean(0) + np.array([0.006 * np.sign(eye[:, 0].mean()), -0.04, 0])
        decal.disc(cheek, 0.016, makeup.skin * np.array([1.0, 0.72, 0.7]), 0.008, makeup.blush)
        decal.polygon(eye + (eye - eye.mean(0)) * 0.5, shade, 0.003, 0.6)
        decal.line(eye[:4] + (eye[:4] - eye.mean(0)) * 0.12, makeup.hair * 0.3, 0.0018, 0.0004)
        decal.line(eye[[3, 4, 5, 0]], shade * 0.6, 0.0008, 0.0004)
    for brow in (keypoints[RIGHT_BROW], keypoints[LEFT_BROW]) if makeup.brow_width else ():
        lifted = brow + np.array([0, makeup.brow_lift, 0])
        decal.line(lifted, makeup.hair * 0.8, makeup.brow_width, 0.0007)
    for nostril in keypoints[NOSTRILS][[1, 3]]:
        decal.disc(nostril, 0.0028, shade * 0.5, 0.0012, 0.8)
    outer = keypoints[OUTER_LIPS]
    decal.polygon(outer, makeup.lips, 0.0008, 0.85)
    decal.line(keypoints[INNER_LIPS][[0, 1, 2, 3, 4]], makeup.lips * 0.35, 0.001, 0.0005)
    mid = outer.mean(0) + np.array([0, -0.016, 0])
    decal.disc(mid, 0.007, shade, 0.005, 0.25)
    return decal


def _eye_decal(keypoints: np.ndarray, joints: np.ndarray, makeup: Makeup) -> _Decal:
    """Sclera, iris, pupil and a glint for both eyeballs."""
    decal = _Decal(keypoints[40:91].mean(0), np.array([0.93, 0.91, 0.89]))
    for joint in (LEFT_EYE_JOINT, RIGHT_EYE_JOINT):
        at = joints[joint] + np.array([makeup.eye_shift, 0, 0])
        decal.disc(at, 0.0062, makeup.iris * 0.45, 0.0003)
        decal.disc(at, 0.0054, makeup.iris, 0.0005)
        decal.disc(at, 0.0026, np.array([0.03, 0.03, 0.04]), 0.0003)
        decal.disc(at + np.array([0.0018, 0.002, 0]), 0.001, np.ones(3), 0.0002)
    return decal


@dataclass(frozen=True)
class Head:
    """Properties of the body that the painter needs, in its rest pose (metres, y up, facing +z)."""

    keypoints: np.ndarray
    """(133, 3)."""
    joints: np.ndarray
    """(55, 3)."""
    face: Tensor
    """Weight of the head, jaw and eye joints per vertex (p,)."""
    eye: Tensor
    """Weight of the eye joints per vertex (p,)."""


def paint_skin(
    mesh: UvMesh, head: Head, makeup: Makeup, size: int, rng: np.random.Generator
) -> Float32[np.ndarray, "t t 3"]:
    """Albedo of skin and eyes over the body's whole uv texture."""
    texels = texels_of(mesh, size)
    colours = torch.from_numpy(makeup.skin).float().expand(len(texels.index), 3).clone()
    head_share = texels.features(head.face)
    place = torch.nonzero(head_share > 0.5)[:, 0]
    rest = texels[place].features(mesh.rest)
    facing = texels[place].features(vertex_normals(mesh.rest, mesh.faces)[:, 2])
    painted = _skin_decal(head.keypoints, makeup).sample(rest)
    eyes = _eye_decal(head.keypoints, head.joints, makeup).sample(rest)
    share = ((facing - 0.05) / 0.3).clamp(0, 1) * ((head_share[place] - 0.5) / 0.3).clamp(0, 1)
    painted = torch.lerp(colours[place], painted, share[:, None])
    is_eye = texels[place].features(head.eye) > 0.5
    colours[place] = torch.where(is_eye[:, None], eyes, painted)
    noise = torch.from_numpy(smooth_noise(rng, size, size // 200)).flatten()
    colours *= (1 + 0.02 * noise[texels.index])[:, None]
    image = np.broadcast_to(makeup.skin.astype(np.float32), (size * size, 3)).copy()
    image[texels.index] = colours.numpy()
    return np.clip(image.reshape(size, size, 3), 0, 1)
