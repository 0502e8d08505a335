"""Scores of renders against the truth's pictures, by side of the person and by region."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.benchmark.photo.fit_scores import iou
from persona.benchmark.photo.truth import TrueView
from persona.benchmark.photo.views import Picture
from persona.data.palette import CLOTH, PART_INDEX
from persona.modules.detect.boxes import mask_bounds

GROUPS = {"front": (0, 45, 315), "side": (90, 270), "back": (135, 180, 225)}
"""Azimuths, degrees from the photo's view."""
UNSEEN = ("side", "back")
REGIONS = {
    "face": ("Face_Neck", "Lower_Lip", "Upper_Lip", "Lower_Teeth", "Upper_Teeth", "Tongue"),
    "hands": ("Left_Hand", "Right_Hand"),
    "hair": ("Hair",),
    "cloth": CLOTH,
}
ARMS = (
    "Left_Hand", "Right_Hand", "Left_Lower_Arm", "Right_Lower_Arm", "Left_Upper_Arm",
    "Right_Upper_Arm",
)  # fmt: skip
LEAST_REGION = 0.002
"""Smallest share of the person's pixels that a region needs to be scored."""
LEAST_HAND = 0.0015
HAND_REACH = 0.008
"""A hand within this distance still counts as covering the true one; share of the picture's
height."""
MOST_PSNR = 60.0

Lpips = Callable[[list[UInt8[ndarray, "h w 3"]], list[UInt8[ndarray, "h w 3"]]], list[float]]


def region(parts: UInt8[ndarray, "h w"] | None, names: tuple[str, ...]) -> Bool[ndarray, "h w"]:
    """Pixels of some parts, in a picture with part classes."""
    assert parts is not None
    return np.isin(parts, [PART_INDEX[name] for name in names])


def psnr(
    a: UInt8[ndarray, "h w 3"], b: UInt8[ndarray, "h w 3"], where: Bool[ndarray, "h w"]
) -> float | None:
    """PSNR of some pixels, in dB; ``MOST_PSNR`` where they are equal, None where there are none."""
    if not where.any():
        return None
    error = np.square(a[where].astype(np.float64) - b[where]).mean() / 255**2
    return float(-10 * np.log10(max(error, 10 ** (-MOST_PSNR / 10))))


def view_scores(picture: Picture, view: TrueView) -> dict[str, float]:
    """Numbers of one picture: ``psnr``, ``union_psnr``, ``iou``, and by region where it is known.

    ``psnr`` looks inside both silhouettes; ``union_psnr`` inside either, both on white.
    """
    both, either = picture.mask & view.mask, picture.mask | view.mask
    values = {
        "psnr": psnr(picture.image, view.image, both),
        "union_psnr": psnr(picture.image, view.image, either),
        "iou": iou(picture.mask, view.mask),
    }
    if picture.seen is not None:
        values["seen_psnr"] = psnr(picture.image, view.image, both & picture.seen)
        values["made_up_psnr"] = psnr(picture.image, view.image, both & ~picture.seen)
    if view.parts is None:
        return _known(values)
    overlaps = []
    for name, members in REGIONS.items():
        there = region(view.parts, members)
        if there.sum() < LEAST_REGION * view.mask.sum():
            continue
        values[f"{name}_psnr"] = psnr(picture.image, view.image, there & both)
        if picture.parts is not None:
            overlaps.append(iou(region(picture.parts, members), there))
            values[f"{name}_iou"] = overlaps[-1]
    if overlaps:
        values["regions_iou"] = float(np.mean(overlaps))
    return _known(values)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}


def asset_scores(
    pictures: Mapping[str, Picture], views: list[TrueView], lpips: Lpips | None
) -> dict[str, float]:
    """Means by group: ``front_psnr``, ``unseen_lpips``, ``poses_iou``, ``all_face_psnr`` and so on.

    Args:
        pictures: By the view's name; views without one are left out.
        views: The truth, from all sides and in other poses.
        lpips: None leaves LPIPS out.
    """
    views = [view for view in views if view.name in pictures]
    rows = {view.name: view_scores(pictures[view.name], view) for view in views}
    if lpips is not None and views:
        box = common_box([view.mask for view in views])
        shown = [pictures[view.name].image[box] for view in views]
        found = lpips(shown, [view.image[box] for view in views])
        for view, value in zip(views, found, strict=True):
            rows[view.name]["lpips"] = value
    members = {name: [v.name for v in views if v.azimuth in GROUPS[name]] for name in GROUPS}
    members["unseen"] = [name for group in UNSEEN for name in members[group]]
    members["all"] = [view.name for view in views if view.azimuth is not None]
    members["poses"] = [view.name for view in views if view.azimuth is None]
    scores = {}
    for group, names in members.items():
        for key in dict.fromkeys(key for name in names for key in rows[name]):
            values = [rows[name][key] for name in names if key in rows[name]]
            scores[f"{group}_{key}"] = float(np.mean(values))
    return scores


def common_box(masks: list[Bool[ndarray, "h w"]]) -> tuple[slice, slice]:
    """The box of all silhouettes, with a rim: LPIPS is not diluted by white around them."""
    union = np.logical_or.reduce(masks)
    top, bottom, left, right = mask_bounds(union)
    rim = round(0.03 * union.shape[0])
    return slice(max(0, top - rim), bottom + rim), slice(max(0, left - rim), right + rim)


def lpips_by(network: torch.nn.Module) -> Lpips:
    """LPIPS of lists of pictures of one size."""

    @torch.no_grad()
    def distances(
        shown: list[UInt8[ndarray, "h w 3"]], truth: list[UInt8[ndarray, "h w 3"]]
    ) -> list[float]:
        images, targets = (
            torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2).float() / 255
            for side in (shown, truth)
        )
        return network(images, targets).tolist()

    return distances


def face_psnr(picture: Picture, view: TrueView) -> float | None:
    """Inside both silhouettes, in the true face; None where the face is not to be seen."""
    there = region(view.parts, REGIONS["face"])
    if there.sum() < LEAST_REGION * view.mask.sum():
        return None
    return psnr(picture.image, view.image, there & picture.mask) or 0.0


def face_cover(picture: Picture, view: TrueView) -> float:
    """Share of the true face where the render has a part of the face."""
    there = region(view.parts, REGIONS["face"])
    return float(region(picture.parts, REGIONS["face"])[there].mean())


def hand_covers(picture: Picture, view: TrueView) -> dict[str, float]:
    """Per true hand in sight, the share of it near which the render has an arm's or hand's skin."""
    radius = max(1, round(HAND_REACH * view.mask.shape[0]))
    skin = region(picture.parts, ARMS) & picture.mask
    near = ndimage.distance_transform_edt(~skin) <= radius if skin.any() else skin
    covers = {}
    for name in REGIONS["hands"]:
        there = region(view.parts, (name,))
        if there.sum() >= LEAST_HAND * view.mask.sum():
            covers[name] = float(near[there].mean())
    return covers
