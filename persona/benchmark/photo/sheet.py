"""Pictures of one scored person, and of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from persona.benchmark.photo.fitted import FittedPerson
from persona.benchmark.photo.truth import TruePerson, TrueView
from persona.benchmark.photo.views import Picture, Place, render_normals
from persona.commands.pictures import label, labelled
from persona.data.palette import colours_from_classes

Image = UInt8[ndarray, "_ _ 3"]
TILE = (320, 240)
"""Height and width, pixels."""
STRIP_TILE = (160, 120)
STRIP_VIEWS = ("000", "090", "180")
STRIPS_BESIDE = 3
_RED, _GREEN, _GREY = (220, 30, 30), (20, 170, 60), 128


def fit_size(image: Image, height: int, width: int) -> Image:
    """Shrinks a picture into a tile, on white."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    tile = np.full((height, width, 3), 255, np.uint8)
    y, x = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    tile[y : y + small.shape[0], x : x + small.shape[1]] = small
    return tile


def person_sheet(
    true: TruePerson,
    fitted: FittedPerson,
    views: Sequence[TrueView],
    assets: Mapping[str, Mapping[str, Picture]],
    verdict: str,
) -> Image:
    """What was found in the photo, above the truth's pictures and each asset's renders.

    Args:
        true: The person.
        fitted: What was made of the photo.
        views: Views of the truth, also in other poses.
        assets: Pictures by asset and view.
        verdict: Stands on top.
    """
    first = {
        "photo": true.image,
        "mask: red too much, green missing": mask_picture(true, fitted),
        "fitted body": overlay(true, fitted),
        "parts found": parts_picture(true, fitted),
    }
    if true.parts is not None:
        first["true parts"] = _coloured(true.parts)
    tiles = np.hstack([fit_size(image, *TILE) for image in first.values()])
    heads = np.hstack([label(name, TILE[1]) for name in first])
    rows = {"truth": [v.image for v in views]}
    for asset, pictures in assets.items():
        rows[asset] = [pictures[v.name].image if v.name in pictures else _blank() for v in views]
        if any(p.parts is not None for p in pictures.values()):
            rows[f"{asset}, parts"] = [_parts_of(pictures.get(view.name)) for view in views]
    grid = np.vstack([
        np.hstack([fit_size(image, *TILE) for image in images]) for images in rows.values()
    ])  # fmt: skip
    below = labelled(grid, tuple(rows), tuple(v.name for v in views))
    top = np.vstack([heads, tiles])
    width = max(below.shape[1], top.shape[1])
    return np.vstack([label(verdict, width), _padded(top, width), _padded(below, width)])


def mask_picture(true: TruePerson, fitted: FittedPerson) -> Image:
    """The photo, greyed where nobody is; what is wrongly in the mask red, what is missing green."""
    height, width = true.mask.shape
    found = fitted.onto(fitted.mask, height, width, true.image.shape[0])
    image = cv2.resize(true.image, (width, height), interpolation=cv2.INTER_AREA)
    image = np.where((found | true.mask)[..., None], image, (image // 3 + _GREY).astype(np.uint8))
    image[found & ~true.mask], image[true.mask & ~found] = _RED, _GREEN
    return image


def overlay(true: TruePerson, fitted: FittedPerson) -> Image:
    """The fitted, dressed body's normals over the photo."""
    height, width = true.mask.shape
    coarse = height / true.image.shape[0]
    x, y = fitted.placement.shift * coarse
    place = Place(fitted.placement.scale * coarse, float(x), float(y))
    camera = place.camera(fitted.camera, height, width)
    picture = render_normals(fitted.vertices, fitted.body, camera)
    photo = cv2.resize(true.image, (width, height), interpolation=cv2.INTER_AREA)
    mixed = (0.4 * photo + 0.6 * picture.image).round().astype(np.uint8)
    return np.where(picture.mask[..., None], mixed, photo)


def parts_picture(true: TruePerson, fitted: FittedPerson) -> Image:
    """The found classes in the photo's frame."""
    height, width = true.mask.shape
    return _coloured(fitted.onto(fitted.parts, height, width, true.image.shape[0]))


def strip(
    true: TruePerson,
    fitted: FittedPerson | None,
    views: Sequence[TrueView],
    pictures: Mapping[str, Picture],
    failed: bool,
) -> Image:
    """One line for the overview: photo, fit, and three sides of truth and texture in turn."""
    tiles = [true.image]
    if fitted is not None:
        tiles.append(overlay(true, fitted))
    for view in views:
        if view.name in STRIP_VIEWS and view.name in pictures:
            tiles += [view.image, pictures[view.name].image]
    tiles += [_blank()] * (2 + 2 * len(STRIP_VIEWS) - len(tiles))
    line = np.hstack([fit_size(tile, *STRIP_TILE) for tile in tiles])
    name = label(true.name + (" (gross failure)" if failed else ""), line.shape[1])
    if failed:
        name = np.where(name > 128, np.array([255, 190, 190], np.uint8), name)
    return np.vstack([name, line])


def overview(strips: Sequence[Image]) -> Image:
    """All strips, some beside each other."""
    lines = [strips[i : i + STRIPS_BESIDE] for i in range(0, len(strips), STRIPS_BESIDE)]
    width = max(sum(s.shape[1] for s in line) for line in lines)
    return np.vstack([_padded(np.hstack(line), width) for line in lines])


def _coloured(parts: UInt8[ndarray, "h w"]) -> Image:
    return np.where(parts[..., None] > 0, colours_from_classes(parts), np.uint8(255))


def _parts_of(picture: Picture | None) -> Image:
    return _blank() if picture is None or picture.parts is None else _coloured(picture.parts)


def _blank() -> Image:
    return np.full((4, 3, 3), 255, np.uint8)


def _padded(image: Image, width: int) -> Image:
    spare = width - image.shape[1]
    return np.pad(image, ((0, 0), (0, spare), (0, 0)), constant_values=255)
