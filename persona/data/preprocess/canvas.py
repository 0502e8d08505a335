"""The person's crop of a photograph, and the face's crop of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from persona.modules.detect import Detection, wholebody
from persona.modules.detect.annotator import JOINTS
from persona.modules.detect.boxes import mask_bounds
from persona.types import Camera

PATCH_PX = 256
_PATCH_MIN_SCORE = 0.2
PADDING = 0.06
"""Empty border around the person, as a share of the crop's longer side."""


@dataclass(frozen=True)
class Canvas:
    """A crop of the photograph around the person, on its own pixel grid."""

    image: UInt8[ndarray, "h w 3"]
    alpha: Float32[ndarray, "h w"]
    """Soft person mask [0, 1]."""
    camera: Camera
    keypoints: Float[Tensor, "133 3"]
    """Pixels of the canvas."""
    source: UInt8[ndarray, "h2 w2 3"]
    """The same crop at the photograph's resolution, on white."""
    maps: Mapping[str, ndarray] = field(default_factory=dict)
    """An annotator's maps of it (``persona.modules.detect.annotator.MAPS``)."""

    @property
    def parts(self) -> UInt8[ndarray, "h w"]:
        """Part class of each pixel."""
        return self.maps["parts"]

    def with_maps(self, maps: Mapping[str, ndarray]) -> Canvas:
        """The canvas with the maps of a finer or coarser one of the same box.

        A refined matte replaces the detector's, and pixels outside of it have no part.
        """
        size = self.alpha.shape
        maps = {name: resize_map(name, values, size) for name, values in maps.items()}
        alpha = maps.get("alpha", self.alpha)
        if "parts" in maps:
            maps["parts"] = np.where(alpha > 0.5, maps["parts"], 0).astype(np.uint8)
        return replace(self, alpha=alpha, maps=maps)

    @property
    def mask(self) -> Bool[ndarray, "h w"]:
        """The person."""
        return self.alpha > 0.5

    @property
    def on_white(self) -> UInt8[ndarray, "h w 3"]:
        """The person on white."""
        return _on_white(self.image, self.alpha)


def person_canvas(
    image: UInt8[ndarray, "h0 w0 3"],
    detection: Detection,
    camera: Camera,
    height: int,
    width: int,
) -> Canvas:
    """Crops the person, centred, to the given size; beyond the photograph it is white."""
    x, y, w, h = box = person_box(detection.mask.numpy() > 0.5, width / height)
    pixels = _crop(image, box, 255)
    alpha = _crop(detection.mask.numpy(), box, 0)
    method = cv2.INTER_AREA if h > height else cv2.INTER_CUBIC
    scale = torch.tensor([width / w, height / h])
    keypoints = detection.keypoints.clone()
    keypoints[:, :2] = (keypoints[:, :2] - torch.tensor([float(x), float(y)])) * scale
    return Canvas(
        cv2.resize(pixels, (width, height), interpolation=method),
        cv2.resize(alpha, (width, height), interpolation=method).clip(0, 1),
        camera.crop(torch.tensor([float(v) for v in box]), height, width),
        keypoints,
        _on_white(pixels, alpha),
    )


def person_box(mask: Bool[ndarray, "h w"], aspect: float) -> tuple[int, int, int, int]:
    """Box (x, y, w, h) of width / height ``aspect`` around the mask, possibly beyond the image."""
    top, bottom, left, right = mask_bounds(mask)
    rim = PADDING * max(bottom - top, right - left)
    height = max(bottom - top + 2 * rim, (right - left + 2 * rim) / aspect)
    w, h = round(height * aspect), round(height)
    return round((left + right - w) / 2), round((top + bottom - h) / 2), w, h


def largest_piece(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """The mask's largest connected area; an empty mask as it is."""
    places, count = ndimage.label(mask)
    return places == 1 + np.bincount(places.ravel())[1:].argmax() if count else mask


def face_patch(
    canvas: Canvas,
) -> tuple[UInt8[ndarray, "q q 3"] | None, Float32[ndarray, "4"] | None]:
    """The face at 256 x 256 (Lanczos) and its box in the canvas, None when no face is seen."""
    found = canvas.keypoints[wholebody.FACE]
    face = found[found[:, 2] > _PATCH_MIN_SCORE, :2].numpy()
    if len(face) < 2:
        return None, None
    x, y, side, _ = face_box(face).tolist()
    ratio = canvas.source.shape[0] / canvas.image.shape[0]
    pixels = max(2, round(side * ratio))
    corner = round(x * ratio), round(y * ratio)
    crop = _crop(canvas.source, (*corner, pixels, pixels), 255)
    patch = cv2.resize(crop, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_LANCZOS4)
    box = np.array([*corner, pixels, pixels], np.float32) / np.float32(ratio)
    return patch, box


def face_box(points: Float32[ndarray, "k 2"]) -> Float32[ndarray, "4"]:
    """Box (x, y, w, h) of a face patch, in the pixels of the face's keypoints.

    As in PERSONA: the keypoints' bounds times 1.2, moved up by a fifth of its height, made square
    and 1.25 times larger.
    """
    low, high = points.min(0), points.max(0)
    centre, size = (low + high) / 2, (high - low) * 1.2
    centre = centre - np.array([0, 0.2 * size[1]])
    side = size.max() * 1.25
    return np.array([*(centre - side / 2), side, side], np.float32)


def photo_px(pixels: Float[Tensor, "n 2"], crop: Camera, photo: Camera) -> Float[Tensor, "n 2"]:
    """Pixels of a crop as pixels of the photograph that it was cut from, by their cameras."""
    return (pixels - crop.center_px) / (crop.focal_px / photo.focal_px) + photo.center_px


def resize_map(name: str, values: ndarray, size: tuple[int, int]) -> ndarray:
    """A map of an annotator on another grid (height, width): labels by vote, points by choice."""
    if name == JOINTS or values.shape[:2] == size:
        return values
    if name == "parts":
        labels = np.unique(values)
        votes = [_resize((values == k).astype(np.float32), size) for k in labels]
        return labels[np.argmax(votes, 0)]
    if name in ("surface", "normal", "depth"):
        return cv2.resize(values, size[::-1], interpolation=cv2.INTER_NEAREST)
    return _resize(values, size)


def _resize(values: ndarray, size: tuple[int, int]) -> ndarray:
    method = cv2.INTER_AREA if values.shape[0] > size[0] else cv2.INTER_LINEAR
    return cv2.resize(values, size[::-1], interpolation=method)


def _crop(image: ndarray, box: tuple[int, int, int, int], fill: int) -> ndarray:
    """Cuts a box that may reach beyond the image."""
    x, y, w, h = box
    out = np.full((h, w, *image.shape[2:]), fill, image.dtype)
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, image.shape[1]), min(y + h, image.shape[0])
    if x1 > x0 and y1 > y0:
        out[y0 - y : y1 - y, x0 - x : x1 - x] = image[y0:y1, x0:x1]
    return out


def _on_white(
    image: UInt8[ndarray, "h w 3"], alpha: Float32[ndarray, "h w"]
) -> UInt8[ndarray, "h w 3"]:
    soft = alpha[..., None]
    return (image * soft + 255 * (1 - soft)).round().astype(np.uint8)
