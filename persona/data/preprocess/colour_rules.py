"""Part classes (Goliath-28) of a photograph from the fitted body and colours.

A stand-in for a segmentation network: the fitted body says which limb a pixel shows, and colour
whether it is skin, hair or cloth. Lips, teeth, socks and single garments are not distinguished.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.data.preprocess.parts import DRESSED, PARTS
from persona.modules.detect import Annotator, wholebody
from persona.modules.nearest import nearest_marked

_HEAD, _NECK = "Face_Neck", "Neck"
_NEAR = 14.0
"""Lab distance below which two colours are of one kind."""


class ColourRuleAnnotator(Annotator):
    """Parts from the fitted body and colours: the face's colour is skin."""

    provides = frozenset({"parts"})
    needs_prior = True

    def __call__(
        self,
        image: UInt8[ndarray, "h w 3"],
        alpha: Float32[ndarray, "h w"],
        keypoints: Float[Tensor, "133 3"],
        prior: Int[ndarray, "h w"] | None = None,
    ) -> dict[str, ndarray]:
        """See ``Annotator``."""
        assert prior is not None  # It ``needs_prior``.
        return {"parts": classify(image, alpha > 0.5, prior, keypoints)}


def skin_mask(
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    keypoints: Float[Tensor, "133 3"],
) -> Bool[ndarray, "h w"]:
    """Pixels of the person that have the colour of the face; none where no face is seen."""
    face = wholebody.face_hull(mask.shape, keypoints)
    lab = _lab(image)
    inner = ndimage.binary_erosion(face & mask, iterations=2)
    if inner.sum() < 20:
        return np.zeros_like(mask)
    tone = np.median(lab[inner], 0)
    # Chroma separates skin from cloth, since brightness changes with the light. Pale skin lies
    # close to grey and gets a narrower band.
    band = np.clip(0.6 * np.hypot(*tone[1:]), 4.0, 14.0)
    chroma = np.hypot(lab[..., 1] - tone[1], lab[..., 2] - tone[2])
    skin = mask & (chroma < band) & (np.abs(lab[..., 0] - tone[0]) < 35)
    return _smooth(skin)


def classify(
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    limbs: Int[ndarray, "h w"],
    keypoints: Float[Tensor, "133 3"],
) -> UInt8[ndarray, "h w"]:
    """Goliath class of each pixel.

    Args:
        image: The photograph.
        mask: The person.
        limbs: Index in ``PARTS`` where the fitted body is seen, -1 elsewhere.
        keypoints: COCO-WholeBody keypoints in pixels of ``image``.
    """
    limbs = limbs[nearest_marked(limbs >= 0)]
    skin = skin_mask(image, mask, keypoints)
    face = wholebody.face_hull(mask.shape, keypoints) & mask
    classes = np.zeros(mask.shape, np.uint8)
    for index, part in enumerate(PARTS):
        here = mask & (limbs == index)
        if part == _HEAD:
            classes[here] = PART_INDEX["Hair"]
            classes[here & (skin | face)] = PART_INDEX[_HEAD]
            continue
        bare = _HEAD if part == _NECK else part
        classes[here] = PART_INDEX[bare]
        for cloth, covered in DRESSED.items():
            if part in covered:
                classes[here & ~skin] = PART_INDEX[cloth]
    classes[face] = PART_INDEX[_HEAD]
    _split_clothing(classes, image, limbs)
    _spread_hair(classes, image, mask, limbs, face)
    return _majority(classes, mask)


def _split_clothing(
    classes: UInt8[ndarray, "h w"], image: UInt8[ndarray, "h w 3"], limbs: Int[ndarray, "h w"]
) -> None:
    """Finds the hem between upper and lower clothing around the hips by their colours."""
    upper, lower = (PART_INDEX[name] for name in ("Upper_Clothing", "Lower_Clothing"))
    legs = [PARTS.index(f"{side}_Upper_Leg") for side in ("Left", "Right")]
    around = np.isin(limbs, [PARTS.index("Torso"), *legs])
    lab = _lab(image)
    if min((classes == upper).sum(), (classes == lower).sum()) < 50:
        return
    tones = [np.median(lab[classes == k], 0) for k in (upper, lower)]
    if np.linalg.norm(tones[0] - tones[1]) < 1.5 * _NEAR:
        return
    here = around & np.isin(classes, (upper, lower))
    distance = [np.linalg.norm(lab[here] - tone, axis=-1) for tone in tones]
    classes[here] = np.where(distance[0] < distance[1], upper, lower)


def _spread_hair(
    classes: UInt8[ndarray, "h w"],
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    limbs: Int[ndarray, "h w"],
    face: Bool[ndarray, "h w"],
) -> None:
    """Follows hair from the head down over neck and shoulders by its colour."""
    hair = classes == PART_INDEX["Hair"]
    if hair.sum() < 20:
        return
    lab = _lab(image)
    tone = np.median(lab[hair], 0)
    alike = np.linalg.norm((lab - tone) * (0.7, 1, 1), axis=-1) < _NEAR
    reach = [PARTS.index(name) for name in (_HEAD, _NECK, "Torso")]
    reach += [PARTS.index(f"{side}_Upper_Arm") for side in ("Left", "Right")]
    candidates = mask & alike & np.isin(limbs, reach) & ~face
    labels, _ = ndimage.label(candidates | hair)
    joined = np.unique(labels[hair & candidates])
    rows = np.nonzero(hair)[0]
    low = rows.max() + 1.5 * (rows.max() - rows.min())
    below = np.arange(mask.shape[0])[:, None] < low
    spread = candidates & np.isin(labels, joined[joined > 0]) & below
    # A region larger than the hair that it is connected to is a garment of the same colour.
    if (spread & ~hair).sum() <= hair.sum():
        classes[spread] = PART_INDEX["Hair"]


def _lab(image: UInt8[ndarray, "h w 3"]) -> Float[ndarray, "h w 3"]:
    """CIE Lab of a slightly blurred image (L in [0, 100])."""
    smooth = cv2.GaussianBlur(image, (0, 0), max(0.8, image.shape[0] / 600))
    return cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)


def _smooth(mask: Bool[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    size = 2 * max(1, round(mask.shape[0] / 300)) + 1
    return cv2.medianBlur(mask.astype(np.uint8), size) > 0


def _majority(classes: UInt8[ndarray, "h w"], mask: Bool[ndarray, "h w"]) -> UInt8[ndarray, "h w"]:
    """Removes specks: each pixel takes the class most frequent around it, within the person."""
    sigma = max(1.0, classes.shape[0] / 300)
    labels = np.unique(classes[mask])
    votes = [cv2.GaussianBlur((classes == k).astype(np.float32), (0, 0), sigma) for k in labels]
    return np.where(mask, labels[np.argmax(votes, 0)], 0).astype(np.uint8)
