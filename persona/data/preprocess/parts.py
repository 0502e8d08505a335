"""Part classes (Goliath-28) of a photograph from the fitted body and colours.

A stand-in for a segmentation network: the fitted body says which limb a pixel shows, and colour
whether it is skin, hair or cloth. Lips, teeth, socks and single garments are not told apart.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody

_HEAD, _NECK = "Face_Neck", "Neck"
_JOINT_PART = {
    _HEAD: (15, 22, 23, 24), _NECK: (12,), "Torso": (0, 3, 6, 9, 13, 14),
    "Left_Upper_Arm": (16,), "Right_Upper_Arm": (17,),
    "Left_Lower_Arm": (18,), "Right_Lower_Arm": (19,),
    "Left_Hand": (20, *range(25, 40)), "Right_Hand": (21, *range(40, 55)),
    "Left_Upper_Leg": (1,), "Right_Upper_Leg": (2,),
    "Left_Lower_Leg": (4,), "Right_Lower_Leg": (5,),
    "Left_Foot": (7, 10), "Right_Foot": (8, 11),
}  # fmt: skip
PARTS = tuple(_JOINT_PART)
"""Limbs of the body, as ``limb_of_vertices`` counts them."""
_DRESSED = {
    "Upper_Clothing": (_NECK, "Torso", "Left_Upper_Arm", "Right_Upper_Arm", "Left_Lower_Arm",
                       "Right_Lower_Arm"),
    "Lower_Clothing": ("Left_Upper_Leg", "Right_Upper_Leg", "Left_Lower_Leg", "Right_Lower_Leg"),
    "Left_Shoe": ("Left_Foot",), "Right_Shoe": ("Right_Foot",),
}  # fmt: skip
_CLEAR_SHARE = 0.7
"""Share of a limb's pixels that settles whether it is bare."""
_NEAR = 14.0
"""Lab distance below which two colours are of one kind."""


def limb_of_vertices(body: SmplxBody) -> Int[Tensor, "p"]:
    """Index in ``PARTS`` of the limb each vertex follows."""
    table = torch.zeros(body.weights.shape[1], dtype=torch.long)
    for index, joints in enumerate(_JOINT_PART.values()):
        table[list(joints)] = index
    return table[body.weights.argmax(-1)]


def skin_mask(
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    keypoints: Float[Tensor, "133 3"],
) -> Bool[ndarray, "h w"]:
    """Pixels of the person that have the colour of the face; none where no face is seen."""
    face = _face_hull(mask.shape, keypoints)
    lab = _lab(image)
    inner = ndimage.binary_erosion(face & mask, iterations=2)
    if inner.sum() < 20:
        return np.zeros_like(mask)
    tone = np.median(lab[inner], 0)
    # Chroma tells skin from cloth; brightness changes with the light. Pale skin lies close to grey
    # and gets a narrower band.
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
    nearest = ndimage.distance_transform_edt(limbs < 0, return_distances=False, return_indices=True)
    limbs = limbs[tuple(nearest)]
    skin = skin_mask(image, mask, keypoints)
    face = _face_hull(mask.shape, keypoints) & mask
    classes = np.zeros(mask.shape, np.uint8)
    for index, part in enumerate(PARTS):
        here = mask & (limbs == index)
        if part == _HEAD:
            classes[here] = PART_INDEX["Hair"]
            classes[here & (skin | face)] = PART_INDEX[_HEAD]
            continue
        bare = _HEAD if part == _NECK else part
        classes[here] = PART_INDEX[bare]
        for cloth, covered in _DRESSED.items():
            if part in covered:
                classes[here & ~skin] = PART_INDEX[cloth]
    classes[face] = PART_INDEX[_HEAD]
    _split_clothing(classes, image, limbs)
    _spread_hair(classes, image, mask, limbs, face)
    return _majority(classes, mask)


def is_bare(classes: UInt8[ndarray, "*n"]) -> Bool[ndarray, "*n"]:
    """Where the classes are those of bare skin."""
    covered = ("Background", "Hair", *_DRESSED)
    return ~np.isin(classes, [PART_INDEX[name] for name in covered])


def strays(skin: Bool[ndarray, "h w"], limbs: Int[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Pixels of arms and hands that show cloth on a bare limb, or skin on a covered one.

    They are the colour of what lies beside the limb, seen through a small misalignment.
    """
    out = np.zeros(limbs.shape, bool)
    for index, part in enumerate(PARTS):
        here = limbs == index
        if _one_colour(part) and here.any() and skin.any():
            share = skin[here].mean()
            if max(share, 1 - share) > _CLEAR_SHARE:
                out |= here & (skin != (share > 0.5))
    return out


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


def bare_vertices(
    skin: Bool[ndarray, "p"],
    visible: Bool[Tensor, "p"],
    canonical: Float[Tensor, "p 3"],
    limbs: Int[Tensor, "p"],
) -> Bool[Tensor, "p"]:
    """Vertices of bare skin; hidden ones follow the nearest seen one, front and back alike.

    Args:
        skin: Whether the pixel at each vertex shows skin.
        visible: Vertices seen inside the image.
        canonical: Canonical positions.
        limbs: Limb of each vertex; an arm that is clearly bare or covered is so throughout.
    """
    bare = torch.from_numpy(skin) & visible
    for index, part in enumerate(PARTS):
        here = (limbs == index) & visible
        if _one_colour(part) and here.any():
            share = float(bare[here].float().mean())
            if max(share, 1 - share) > _CLEAR_SHARE:
                bare[here] = share > 0.5
    flat = (canonical * torch.tensor([1, 1, 0.25])).numpy()
    _, nearest = cKDTree(flat[visible.numpy()]).query(flat[~visible.numpy()])
    bare[~visible] = bare[visible][torch.from_numpy(nearest)]
    return bare


def _one_colour(part: str) -> bool:
    """Limbs that are mostly all bare or all covered."""
    return "Arm" in part or "Hand" in part


def beside_arms(limbs: Int[ndarray, "h w"], radius_px: int) -> Bool[ndarray, "h w"]:
    """Pixels of trunk and legs next to a forearm or hand, which may show its colour."""
    lower = [i for i, name in enumerate(PARTS) if "Lower_Arm" in name or "Hand" in name]
    arms = [i for i, name in enumerate(PARTS) if _one_colour(name)]
    near = ndimage.binary_dilation(np.isin(limbs, lower), iterations=radius_px)
    return near & ~np.isin(limbs, arms)


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
    classes[candidates & np.isin(labels, joined[joined > 0]) & below] = PART_INDEX["Hair"]


def _face_hull(size: tuple[int, int], keypoints: Float[Tensor, "133 3"]) -> Bool[ndarray, "h w"]:
    """Inside of the face's contour and brows."""
    points = keypoints[wholebody.FACE]
    hull = np.zeros(size, np.uint8)
    if (points[:, 2] > 0.3).all():
        outline = cv2.convexHull(points[:, :2].numpy().round().astype(np.int32))
        cv2.fillConvexPoly(hull, outline, 1)
    return hull > 0


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
