"""The frames of a split, decoded once and kept in memory in their smallest exact form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from persona.data.layout import MAPS
from persona.data.packing import PackedLayout
from persona.types import CAPTURED, FRAME_LISTS, GENERATED, REAL, BodyPose, Camera, Frame

FRAME_MAPS = frozenset(f.name for f in fields(Frame))
"""Names of maps that have a field of their own in ``Frame``, among its other fields."""
CAMERA_KEYS = ("cam_from_world", "focal_px", "center_px")


@dataclass(frozen=True)
class FrameStore:
    """All frames of one split, of one image size.

    A packed frame is k bytes that hold, in their smallest exact form: the maps of
    ``layout.MAPS`` that are served, (c, h, w), zero outside of the masks that they have, unit
    vectors as (n + 1) / 2 in float16; ``patch`` (3, q, q) uint8 where the split has it;
    ``cam_from_world``, ``focal_px``, ``center_px`` and ``patch_box_px`` float32.
    """

    split: str
    numbers: tuple[int, ...]
    """Frame numbers on disk, in the order of ``packed``."""
    layout: PackedLayout
    packed: UInt8[Tensor, "b k"]
    poses: BodyPose
    """As tracked, one row a frame."""
    patch_size: int
    """Side of the patches, and of the zeros that stand for absent ones."""
    person_px: tuple[float, ...] = ()
    """Longer side of each mask's bounding box."""
    has_patch: tuple[bool, ...] = ()
    person_box_px: tuple[tuple[int, int, int, int], ...] = ()
    """Bounding box (x, y, w, h) of each mask; w = 0 where it is empty."""
    subject: int = 0
    """Number of the subject in its data module."""
    owner: str = ""
    """Name of the subject where a data module has several; it begins the names of the frames."""

    @property
    def names(self) -> list[str]:
        """Name of each frame."""
        return [self.name(row) for row in range(len(self))]

    def name(self, row: int) -> str:
        """``split/number``, after the owner's name if there is one."""
        label = f"{self.owner}/{self.split}" if self.owner else self.split
        return f"{label}/{self.numbers[row]}"

    @property
    def kind(self) -> tuple:
        """What all frames of one batch must share: sizes, and which other maps they have."""
        others = frozenset(self.layout.arrays) & frozenset(MAPS) - frozenset(FRAME_MAPS)
        return self.size, self.patch_size, others

    @property
    def role(self) -> str:
        """Roles of the frames in training: see ``types.REAL``."""
        return role_of(self.split)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        height, width = self.layout.arrays["image"][0][1:]
        return height, width

    @property
    def maps(self) -> dict[str, Shaped[Tensor, "b ..."]]:
        """What the packed frames hold, by name, on their memory."""
        return self.layout.views(self.packed)

    @property
    def cameras(self) -> Camera:
        """One a frame."""
        maps = self.maps
        return Camera(maps["cam_from_world"], maps["focal_px"], maps["center_px"], *self.size)

    def to(self, device: torch.device | str) -> FrameStore:
        """The same store on another device."""
        return replace(self, packed=self.packed.to(device), poses=self.poses.to(device))

    def frame(self, rows: Sequence[int], offset: int = 0) -> Frame:
        """Collates rows into a batch.

        Args:
            rows: Rows of this store.
            offset: Row of the per-frame pose table that belongs to row 0.
        """
        return concatenate([self.decode(self.packed[row], row, offset) for row in rows])

    def decode(self, data: UInt8[Tensor, "k"], row: int, offset: int = 0) -> Frame:
        """The frame ``row`` as a batch of one, of its bytes on any device; ``data`` is copied.

        Only one operation for each map, so that a step does not wait for the host.
        """
        maps = self.layout.views(data[None])
        served = {name: _served(maps[name]) for name in MAPS if name in maps}
        image = served["image"]
        served.setdefault("albedo", torch.ones_like(image))
        own: dict[str, Any] = {name: served.pop(name) for name in FRAME_MAPS & set(served)}
        numbers = {key: maps[key].clone() for key in (*CAMERA_KEYS, "patch_box_px")}
        lens = numbers["cam_from_world"], numbers["focal_px"], numbers["center_px"]
        patch = (1, 3, self.patch_size, self.patch_size)
        return Frame(
            index=torch.full((1,), row + offset, device=data.device),
            subject=torch.full((1,), self.subject, device=data.device),
            camera=Camera(*lens, *self.size),
            **own,
            others=served,
            patch=maps["patch"] / 255 if "patch" in maps else image.new_zeros(patch),
            patch_box_px=numbers["patch_box_px"],
            name=(self.name(row),),
            role=(self.role,),
            person_px=(self.person_px[row],),
            has_patch=(self.has_patch[row],),
            person_box_px=(self.person_box_px[row],),
        )


def concatenate(frames: Sequence[Frame]) -> Frame:
    """Joins batches of one image size."""
    if len(frames) == 1:
        return frames[0]
    first = frames[0].camera
    cameras = [frame.camera for frame in frames]
    if any((c.height, c.width) != (first.height, first.width) for c in cameras):
        raise ValueError("a batch holds frames of different sizes")
    tensors: dict[str, Any] = {
        f.name: torch.cat([getattr(frame, f.name) for frame in frames])
        for f in fields(Frame)
        if isinstance(getattr(frames[0], f.name), Tensor)
    }
    lens: dict[str, Any] = {k: torch.cat([getattr(c, k) for c in cameras]) for k in CAMERA_KEYS}
    lists: dict[str, Any] = {
        key: sum((getattr(frame, key) for frame in frames), ()) for key in FRAME_LISTS
    }
    names = set(frames[0].others)
    if any(set(frame.others) != names for frame in frames):
        raise ValueError("a batch holds frames of different maps")
    others = {name: torch.cat([frame.others[name] for frame in frames]) for name in names}
    return Frame(**tensors, camera=replace(first, **lens), **lists, others=others)


def role_of(split: str) -> str:
    """Role of the frames of a split in training."""
    if split == CAPTURED:
        return CAPTURED
    return GENERATED if split.startswith(f"{GENERATED}_") else REAL


def _served(values: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """A copy of a stored map, in the form that training uses."""
    if values.dtype == torch.uint8:
        return values / 255
    return values.clone() if values.dtype == torch.float32 else values.float()
