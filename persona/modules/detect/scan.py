"""Everybody in a photograph, found one after the other, and which of them is meant."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray

from persona.errors import UserError
from persona.modules.detect.boxes import Box, landmarks, paste, resized_crop, tiles
from persona.modules.nearest import grown

SCAN_PX = 1024
MAX_PEOPLE = 4
PERSON_RULES = ("auto", "largest", "left", "right", "center")
_TILES = (1.0, 0.5, 0.25)
"""Tile sizes of the scan, as fractions of the image; smaller ones only while nobody is found."""
_RIM = 0.01
"""Rim around an erased person that is erased too, as a share of the longer side."""
_HALO = 0.04
"""Rim around a person (share of the box's longer side) where a network sees him again."""
_MIN_NEW = 0.5
"""Share of a mask that must lie outside earlier people and their halo, to be somebody else."""
_FILL_PX = 128
"""Longer side at which a hole is filled."""
_RING = 0.05
"""Width of the ring whose grain fills a hole, as a share of the longer side."""


@dataclass(frozen=True)
class Person:
    """A person in the scanned image."""

    box: Box
    mask: Float[ndarray, "h w"]
    """Person probability, of the whole image."""
    visibility: float
    """Mean visibility [0, 1] of the landmarks."""

    @property
    def seen(self) -> Bool[ndarray, "h w"]:
        """Pixels that are rather this person than not."""
        return self.mask > 0.5

    @property
    def area(self) -> int:
        """Mask area in pixels."""
        return int(self.seen.sum())

    @property
    def middle(self) -> tuple[float, float]:
        """Centre of the box (x, y)."""
        x, y, w, h = self.box
        return x + w / 2, y + h / 2


def scan(solutions: ModuleType, pixels: UInt8[ndarray, "h w 3"], confidence: float) -> list[Person]:
    """Everybody at the coarsest tile size that shows somebody, from left to right.

    Args:
        solutions: ``mediapipe.solutions``.
        pixels: The photograph.
        confidence: Least detection confidence [0, 1].
    """
    with solutions.pose.Pose(
        static_image_mode=True,
        model_complexity=1,
        enable_segmentation=True,
        min_detection_confidence=confidence,
    ) as pose:
        height, width = pixels.shape[:2]
        for fraction in _TILES:
            people: list[Person] = []
            for box in tiles(height, width, fraction):
                people += _people_in(pose, pixels, box, people)
            if people:
                return sorted(people, key=lambda person: person.middle[0])
    return []


def _people_in(
    pose, pixels: UInt8[ndarray, "h w 3"], box: Box, known: list[Person]
) -> list[Person]:
    """New people in one tile: find the strongest, paint it out, look again.

    What is found where somebody was found before is the hole that painting left, or a rim of that
    person: it is painted over and not counted.
    """
    tile, scale = resized_crop(pixels, box, SCAN_PX)
    people: list[Person] = []
    for _ in range(MAX_PEOPLE):
        found = pose.process(tile)
        if found.pose_landmarks is None or found.segmentation_mask is None:
            break
        points = landmarks(found.pose_landmarks, tile.shape[:2])
        mask = np.asarray(found.segmentation_mask, np.float32)
        visibility = float(points[:, 2].mean())
        if visibility < 0.4 or (mask > 0.5).mean() < 1e-3:
            break
        # Landmarks extend beyond the tile where it cuts the person; the mask does not.
        low, high = points[:, :2].amin(0).numpy(), points[:, :2].amax(0).numpy()
        rows, columns = np.nonzero(mask > 0.5)
        low = np.minimum(low, (columns.min(), rows.min()))
        high = np.maximum(high, (columns.max() + 1, rows.max() + 1))
        low = np.maximum(low / scale + box[:2], 0).round().astype(int)
        high = np.minimum(high / scale + box[:2], pixels.shape[1::-1]).round().astype(int)
        person_box = (*low.tolist(), *(high - low).tolist())
        person = Person(person_box, paste(mask, box, pixels.shape[:2]), visibility)
        if is_new(person, [*known, *people]):
            people.append(person)
        tile = erase(tile, mask > 0.5)
    return people


def is_new(person: Person, known: list[Person]) -> bool:
    """Whether enough of the mask is not on or right beside people found before."""
    if not known:
        return True
    scale = min(1.0, 256 / max(person.mask.shape))
    taken = np.zeros(_reduced(person.mask, scale).shape, bool)
    for other in known:
        small = _reduced(other.mask, scale) > 0.5
        taken |= grown(small, _HALO * max(other.box[2:]) * scale)
    seen = _reduced(person.mask, scale) > 0.5
    return bool((seen & ~taken).sum() > _MIN_NEW * seen.sum())


def choose(people: list[Person], rule: str | int, source: str) -> int:
    """Index of the person that is meant.

    Args:
        people: From left to right.
        rule: ``auto`` weighs size, nearness to the middle of the picture and clearness together;
            a number counts from the left, from 1.
        source: Name of the photograph for messages.

    Raises:
        UserError: There is no such person.
    """
    if isinstance(rule, int):
        if not 1 <= rule <= len(people):
            raise UserError(
                f"{source}: detector.person={rule}, but {len(people)} "
                f"{'person is' if len(people) == 1 else 'people are'} found; "
                f"give 1 to {len(people)}, counted from the left"
            )
        return rule - 1
    if rule in ("left", "right"):
        return 0 if rule == "left" else len(people) - 1
    height, width = people[0].mask.shape
    off = [
        np.hypot(2 * p.middle[0] / width - 1, (2 * p.middle[1] / height - 1) / 2) for p in people
    ]
    if rule == "center":
        return int(np.argmin(off))
    scores = np.array([p.area for p in people], float)
    if rule == "auto":
        scores *= [p.visibility / (1 + o) for p, o in zip(people, off, strict=True)]
    return int(scores.argmax())


def paint_out(
    pixels: UInt8[ndarray, "h w 3"], chosen: Person, others: list[Person]
) -> UInt8[ndarray, "h w 3"]:
    """Removes other people, except where a pixel more likely shows the chosen one."""
    hole = np.zeros(pixels.shape[:2], bool)
    spared = grown(chosen.seen, _RIM * max(pixels.shape))
    for other in others:
        theirs = other.seen & (other.mask > chosen.mask)
        hole |= theirs | (grown(theirs, _RIM * max(pixels.shape)) & ~spared)
    return erase(pixels, hole & ~chosen.seen, rim=0.0) if hole.any() else pixels


def erase(
    pixels: UInt8[ndarray, "h w 3"], hole: Bool[ndarray, "h w"], rim: float = _RIM
) -> UInt8[ndarray, "h w 3"]:
    """Fills a hole and a rim (share of the longer side) from around it.

    The colours run in smoothly and carry the grain of what lies outside: a hole of one colour
    keeps the person's outline, which a network takes for a person.
    """
    hole = grown(hole, rim * max(hole.shape))
    if hole.all():
        return np.full_like(pixels, 128)
    scale = min(1.0, _FILL_PX / max(hole.shape))
    # Pixels that average in some of the hole are filled too.
    small_hole = _reduced(hole.astype(np.float32), scale) > 0
    small = cv2.inpaint(_reduced(pixels, scale), small_hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    smooth = cv2.resize(small, hole.shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.int16)
    near = grown(hole, _RING * max(hole.shape)) & ~hole
    grain = (pixels - smooth)[near if near.any() else ~hole]
    pick = np.random.default_rng(0).integers(0, len(grain), int(hole.sum()))
    out = pixels.copy()
    out[hole] = (smooth[hole] + grain[pick]).clip(0, 255).astype(np.uint8)
    return out


def _reduced(pixels: ndarray, scale: float) -> ndarray:
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
