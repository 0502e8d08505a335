"""Which frames of a video model still show the person in the pose that was asked for.

A frame is compared with the controls that it was made from, and with its own clip: a video model
that makes all clothes a little wider, or a whole clip warmer, loses no frames for that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from scipy import ndimage

from persona.modules.body.joints import LEFT_HAND, RIGHT_HAND
from persona.modules.diffusion.base import Controls

_HEIGHT = 384
"""Most rows of a picture that are compared."""
_LIMBS = {
    "head": (12, 15, 22, 23, 24),
    "torso": (0, 3, 6, 9, 13, 14),
    "left upper arm": (16,), "right upper arm": (17,),
    "left lower arm": (18, *LEFT_HAND), "right lower arm": (19, *RIGHT_HAND),
    "left thigh": (1,), "right thigh": (2,),
    "left shin": (4, 7, 10), "right shin": (5, 8, 11),
}  # fmt: skip
"""SMPL-X joints that move each limb."""
_LEAST_LIMB = 0.01
"""Share of the silhouette below which a limb is hidden."""
_LEAST_COLOURED, _LEAST_PIXELS = 0.02, 75
"""Share of the silhouette, and pixels, below which a limb shows too little of its colours."""
_NEIGHBOURS = 15
"""Frames that lightness is compared with: most of them must be right."""
_FAR = 0.03
"""In heights of the body: a person that reaches farther than this from it strays."""
_WIDER = 4 / 3
"""Loose clothes stray by more where the body turns to its side."""
_STILL = 1.0
"""Grey levels that a rendered body must change by to be called moving."""


class Gate(ABC):
    """Judges a clip's frames."""

    control_names: frozenset[str] = frozenset()
    """Controls that it compares frames with."""

    @abstractmethod
    def __call__(
        self,
        controls: Controls,
        frames: UInt8[ndarray, "n h w 3"],
        masks: Iterator[Bool[ndarray, "h w"]],
    ) -> list[str]:
        """What is wrong with each frame; empty for good frames.

        Args:
            controls: What the frames should show.
            frames: RGB.
            masks: The person in each, in order.
        """


class KeepAll(Gate):
    """As in the paper: all generated frames are trained on."""

    def __call__(
        self,
        controls: Controls,
        frames: UInt8[ndarray, "n h w 3"],
        masks: Iterator[Bool[ndarray, "h w"]],
    ) -> list[str]:
        """See ``Gate``."""
        return [""] * len(frames)


@dataclass(frozen=True, kw_only=True)
class AlignmentGate(Gate):
    """Drops frames that do not show the person or the pose.

    Attributes:
        overlap: Least overlap (IoU) of person and posed body.
        overlap_drop: How far below the clip's median it may be.
        stray: How much of the person may be far from the posed body, as a share of the person and
            above its neighbours' median; wide clothes get a third of theirs on top.
        limb: Least share of a limb that shows the person.
        limb_colour: How far a limb's colours may be from the photograph's (CIE Lab) above its
            neighbours' median: where an arm is elsewhere, what lies behind it shows.
        colour: Largest distance of the person's colours from the photograph's (CIE Lab, all limbs
            made lighter or darker by the same amount), averaged over limbs.
        colour_drop: How far above the clip's median it may be.
        flicker: Largest step of lightness (0 to 100) from neighbouring frames.
        sharpness: Least share of its neighbours' median detail.
        motion: Least share of the posed body's change from the frame before.
    """

    control_names = frozenset({"mask", "bones", "colour"})

    overlap: float = 0.5
    overlap_drop: float = 0.15
    stray: float = 0.02
    limb: float = 0.5
    limb_colour: float = 18.0
    colour: float = 25.0
    colour_drop: float = 10.0
    flicker: float = 6.0
    sharpness: float = 0.5
    motion: float = 0.25

    def __call__(
        self,
        controls: Controls,
        frames: UInt8[ndarray, "n h w 3"],
        masks: Iterator[Bool[ndarray, "h w"]],
    ) -> list[str]:
        """See ``Gate``."""
        looks = []
        for i, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
            control = {name: _shrunk(controls.maps[name][i]) for name in self.control_names}
            looks.append(_look(_shrunk(frame), _shrunk(mask), control))
        overlap, stray, colour, detail, light = (
            np.array([getattr(look, name) for look in looks])
            for name in ("overlap", "stray", "colour", "detail", "light")
        )
        # Causes come before their consequences.
        tests = (
            self._frozen(looks),
            self._blurs(detail),
            self._silhouettes(overlap),
            [self._limb(look) for look in looks],
            self._strays(stray),
            self._colours(colour),
            self._limb_colours(looks),
            self._flickers(light),
        )
        return [next(filter(None, reasons), "") for reasons in zip(*tests, strict=True)]

    def _silhouettes(self, overlap: Float[ndarray, "n"]) -> list[str]:
        least = max(self.overlap, float(np.median(overlap)) - self.overlap_drop)
        return [f"silhouette overlaps {v:.2f} < {least:.2f}" if v < least else "" for v in overlap]

    def _limb(self, look: _Look) -> str:
        name, share = min(look.limbs.items(), key=lambda item: item[1], default=("", 1.0))
        return f"limb {name} shows {share:.2f} < {self.limb:.2f}" if share < self.limb else ""

    def _strays(self, stray: Float[ndarray, "n"]) -> list[str]:
        most = _WIDER * _usual(stray) + self.stray
        return [
            f"limb strays, {v:.3f} > {limit:.3f}" if v > limit else ""
            for v, limit in zip(stray, most, strict=True)
        ]

    def _limb_colours(self, looks: Sequence[_Look]) -> list[str]:
        above = np.stack([
            values - _usual(values)
            for values in (
                np.array([look.colours.get(name, np.nan) for look in looks]) for name in _LIMBS
            )
        ])  # fmt: skip
        above = np.nan_to_num(above)
        names, reasons = list(_LIMBS), []
        for worst, most in zip(above.argmax(0), above.max(0), strict=True):
            said = f"limb {names[worst]} has another colour, {most:.0f} > {self.limb_colour:.0f}"
            reasons.append(said if most > self.limb_colour else "")
        return reasons

    def _colours(self, colour: Float[ndarray, "n"]) -> list[str]:
        most = min(self.colour, float(np.median(colour)) + self.colour_drop)
        return [f"colours are off by {v:.0f} > {most:.0f}" if v > most else "" for v in colour]

    def _flickers(self, light: Float[ndarray, "n"]) -> list[str]:
        steps = np.abs(light - _usual(light))
        most = self.flicker
        return [f"flicker of {v:.1f} > {most:.1f}" if v > most else "" for v in steps]

    def _blurs(self, detail: Float[ndarray, "n"]) -> list[str]:
        least = self.sharpness * _usual(detail)
        return [
            f"blurred, detail {v:.2f} < {limit:.2f}" if v < limit else ""
            for v, limit in zip(detail, least, strict=True)
        ]

    def _frozen(self, looks: Sequence[_Look]) -> list[str]:
        reasons = [""]
        for before, look in pairwise(looks):
            body = before.body | look.body
            asked = np.abs(look.rendered - before.rendered)[body].mean() if body.any() else 0.0
            moved = np.abs(look.grey - before.grey)[body].mean() if body.any() else 0.0
            frozen = asked > _STILL and moved < self.motion * asked
            reasons.append(f"frozen, moved {moved:.1f} of {asked:.1f}" if frozen else "")
        return reasons


def summary(reasons: Sequence[str]) -> str:
    """How many frames were dropped, and for which reasons."""
    kinds = Counter(reason.split()[0].strip(",") for reason in reasons if reason)
    dropped = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{sum(kinds.values())} of {len(reasons)} frames dropped" + (
        f": {dropped}" if dropped else ""
    )


def dropped_sheet(
    frames: UInt8[ndarray, "n h w 3"], reasons: Sequence[str], most: int = 40
) -> UInt8[ndarray, "rows columns 3"] | None:
    """Dropped frames side by side, each with its number and reason; None where there are none."""
    numbers = [i for i, reason in enumerate(reasons) if reason][:most]
    if not numbers:
        return None
    tiles = []
    for number in numbers:
        scale = 240 / frames.shape[1]
        size = max(180, round(frames.shape[2] * scale)), 240
        tile = np.full((272, size[0], 3), 255, np.uint8)
        shown = cv2.resize(frames[number], (round(frames.shape[2] * scale), 240))
        tile[32:, : shown.shape[1]] = shown
        lines = (str(number), reasons[number].partition(" <")[0].partition(" >")[0])
        for row, text in zip((13, 27), lines, strict=True):
            cv2.putText(tile, text, (2, row), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, 16)
        tiles.append(tile)
    columns = min(len(tiles), 8)
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.vstack(rows)


@dataclass(frozen=True)
class _Look:
    """What is measured of one frame."""

    overlap: float
    limbs: dict[str, float]
    """Share of each visible limb that shows the person."""
    stray: float
    """Share of the person that is far from the body."""
    colours: dict[str, float]
    """Distance of each visible limb's colour from the photograph's."""
    colour: float
    light: float
    """Lightness of the person less the rendered body's."""
    detail: float
    """Mean second difference of the person, as a share of the rendered body's."""
    body: Bool[ndarray, "h w"]
    grey: Float32[ndarray, "h w"]
    rendered: Float32[ndarray, "h w"]


def _look(
    frame: UInt8[ndarray, "h w 3"], mask: Bool[ndarray, "h w"], control: dict[str, ndarray]
) -> _Look:
    body = control["mask"]
    lab, wanted = (_lab(image) for image in (frame, control["colour"]))
    limbs, colours, distances, weights = {}, {}, [], []
    inner = ndimage.binary_erosion(mask & body, iterations=2)
    light = float((lab - wanted)[inner][:, 0].mean()) if inner.any() else 0.0
    even = _lab(_as_bright(frame, control["colour"], inner))
    for name, joints in _LIMBS.items():
        limb = np.isin(control["bones"], np.array(joints) + 1) & body
        if limb.sum() < _LEAST_LIMB * body.sum() or not limb.any():
            continue
        limbs[name] = float(mask[limb].mean())
        shown = limb & mask
        if shown.any():
            off = even[shown].mean(0) - wanted[shown].mean(0)
            distances.append(float(np.linalg.norm(off)))
            if shown.sum() >= max(_LEAST_PIXELS, _LEAST_COLOURED * body.sum()):
                colours[name] = distances[-1]
            weights.append(int(shown.sum()))
    grey, rendered = lab[..., 0] * 2.55, wanted[..., 0] * 2.55
    return _Look(
        overlap=float((mask & body).sum() / max(1, (mask | body).sum())),
        limbs=limbs,
        stray=_stray(mask, body),
        colours=colours,
        colour=float(np.average(distances, weights=weights)) if weights else np.inf,
        light=light,
        detail=_detail(grey, inner) / max(_detail(rendered, inner), 1e-3),
        body=body, grey=grey, rendered=rendered,
    )  # fmt: skip


def _usual(values: Float[ndarray, "n"]) -> Float[ndarray, "n"]:
    """Median of each frame's neighbours; unseen ones are NaN."""
    half = _NEIGHBOURS // 2
    out = np.full(len(values), np.nan)
    for i in range(len(values)):
        near = values[max(0, i - half) : i + half + 1]
        if np.isfinite(near).any():
            out[i] = np.nanmedian(near)
    return out


def _stray(mask: Bool[ndarray, "h w"], body: Bool[ndarray, "h w"]) -> float:
    if not mask.any() or not body.any():
        return 0.0
    reach = _FAR * np.ptp(np.flatnonzero(body.any(1)))
    return float((ndimage.distance_transform_edt(~body) > reach)[mask].mean())


def _as_bright(
    frame: UInt8[ndarray, "h w 3"], wanted: UInt8[ndarray, "h w 3"], where: Bool[ndarray, "h w"]
) -> UInt8[ndarray, "h w 3"]:
    """The frame with the other's mean brightness in a region; twice or half as bright at most."""
    if not where.any():
        return frame
    gain = np.clip(wanted[where].mean() / max(float(frame[where].mean()), 1.0), 0.5, 2)
    return (frame * gain).clip(0, 255).astype(np.uint8)


def _detail(grey: Float32[ndarray, "h w"], where: Bool[ndarray, "h w"]) -> float:
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F))[where].mean()) if where.any() else 0.0


def _lab(image: UInt8[ndarray, "h w 3"]) -> Float32[ndarray, "h w 3"]:
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float32)


def _shrunk(image: ndarray) -> ndarray:
    """At most so high; masks and numbers keep their values."""
    height, width = image.shape[:2]
    if height <= _HEIGHT:
        return image
    size = (max(1, round(width * _HEIGHT / height)), _HEIGHT)
    if image.ndim == 3:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(image.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return small.astype(image.dtype)
