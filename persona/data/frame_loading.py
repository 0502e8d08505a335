"""Reads the frames of a split into a ``FrameStore``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Shaped
from rich.progress import track
from torch import Tensor

from persona.data.frame_store import CAMERA_KEYS, FrameStore
from persona.data.layout import MAPS, FrameData, MapSpec, map_arguments
from persona.data.packing import PackedLayout
from persona.data.parameters import REMEDY
from persona.data.paste import paste
from persona.data.subject import Subject
from persona.errors import UserError
from persona.types import CAPTURED, BodyPose

_LONG_LOAD = 32
"""More frames than this get a progress bar."""


def load_frames(
    subject: Subject,
    split: str,
    numbers: Sequence[int] | None = None,
    max_height_px: int | None = None,
) -> FrameStore:
    """Decodes the frames of a split.

    Args:
        subject: Where from.
        split: Split name.
        numbers: Frame numbers; None takes all that the split lists.
        max_height_px: Taller frames are shrunk to this height.

    Raises:
        UserError: a file is missing, broken, or of another size than the others.
    """
    numbers = list(subject.frame_ids(split) if numbers is None else numbers)

    def read(number: int) -> FrameData:
        frame, crop = subject.frame(split, number), subject.crop(split, number)
        return _shrink(frame if crop is None else paste(frame, *crop), max_height_px)

    first = read(numbers[0])
    store = _allocate(split, numbers, first, subject.patch_size() or 256)
    maps, poses = store.maps, [first.pose] * len(numbers)

    def fill(row: int) -> None:
        frame = first if row == 0 else read(numbers[row])
        _check_like(subject, store, numbers[row], frame, first)
        poses[row] = frame.pose
        _fill({name: values[row] for name, values in maps.items()}, frame)

    _for_each(fill, len(numbers), f"Reading {subject.name}/{split}")
    boxes = tuple(_bounding_box(mask[0]) for mask in maps["mask"])
    return replace(
        store,
        person_px=tuple(float(max(box[2:])) for box in boxes),
        person_box_px=boxes,
        has_patch=tuple((maps["patch_box_px"][:, 2] > 0).tolist()),
        poses=BodyPose(
            **{f.name: torch.stack([getattr(p, f.name) for p in poses]) for f in fields(BodyPose)}
        ),
    )


def _for_each(function: Callable[[int], None], count: int, label: str) -> None:
    """Calls ``function`` for each row on a few threads, with a bar when it takes long."""
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(function, range(count))
        for _ in track(done, label, total=count, disable=count < _LONG_LOAD, transient=True):
            pass


def _bounding_box(mask: Bool[Tensor, "h w"]) -> tuple[int, int, int, int]:
    """Bounding box (x, y, w, h) of a mask, pixels; zeros where it is empty."""
    columns, rows = (mask.any(axis).nonzero()[:, 0].tolist() for axis in (0, 1))
    if not columns:
        return 0, 0, 0, 0
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


def _allocate(split: str, numbers: Sequence[int], first: FrameData, patch_size: int) -> FrameStore:
    """An empty store for frames like ``first``."""
    height, width = first.image.shape[:2]
    if first.patch is not None:
        patch_size = first.patch.shape[0]
    arrays = {
        **{
            name: ((spec.channels, height, width), _stored_dtype(spec))
            for name, spec in MAPS.items()
            if spec.served and first.map(name) is not None
        },
        "cam_from_world": ((4, 4), torch.float32),
        "focal_px": ((2,), torch.float32),
        "center_px": ((2,), torch.float32),
        "patch_box_px": ((4,), torch.float32),
    }
    if split == CAPTURED:
        arrays["patch"] = (3, patch_size, patch_size), torch.uint8
    layout = PackedLayout(arrays)
    return FrameStore(
        split=split,
        numbers=tuple(numbers),
        layout=layout,
        packed=torch.zeros(len(numbers), layout.num_bytes, dtype=torch.uint8),
        poses=first.pose,
        patch_size=patch_size,
    )


def _check_like(
    subject: Subject, store: FrameStore, number: int, frame: FrameData, first: FrameData
) -> None:
    """Refuses a frame that does not fit beside the split's first."""
    where = subject.path(store.split, "image", number)
    if frame.image.shape != first.image.shape:
        raise UserError(f"{where}: is not as large as the split's first image; {REMEDY}")
    if differ := frame.maps.keys() ^ first.maps.keys():
        raise UserError(f"{where}: some frames of the split have {min(differ)}, some not; {REMEDY}")
    if frame.patch is not None and frame.patch.shape[0] != store.patch_size:
        path = subject.path(store.split, "patch", number)
        raise UserError(f"{path}: is not {store.patch_size} pixels wide as the others; {REMEDY}")
    if frame.pose.expression.shape != first.pose.expression.shape:
        path = subject.path(store.split, "pose", number)
        raise UserError(f"{path}: has another number of expressions than the first; {REMEDY}")


def _stored_dtype(spec: MapSpec) -> torch.dtype:
    """Precision of a map in a store."""
    if spec.unit:
        return torch.float16
    return {"u": torch.uint8, "b": torch.bool, "f": torch.float32}[spec.dtype.kind]


def _fill(maps: Mapping[str, Tensor], frame: FrameData) -> None:
    """Masks a frame's maps as training wants them and writes them into a row of a store."""

    def put(name: str, pixels: Shaped[np.ndarray, "h w *c"]) -> None:
        channels = pixels[..., None] if pixels.ndim == 2 else pixels
        maps[name].copy_(torch.from_numpy(np.ascontiguousarray(channels)).permute(2, 0, 1))

    given = frame.maps
    for name in MAPS.keys() & maps.keys():
        spec, values = MAPS[name], given[name]
        if spec.unit:
            values = (values + 1) / 2
        if spec.masked_by:
            inside = np.logical_and.reduce([given[mask] for mask in spec.masked_by])
            values = values * (inside if values.ndim == 2 else inside[..., None])
        put(name, values)
    if "patch" in maps and frame.patch is not None:
        put("patch", frame.patch)
        maps["patch_box_px"].copy_(torch.from_numpy(frame.patch_box_px))
    for key in CAMERA_KEYS:
        maps[key].copy_(getattr(frame.camera, key))


def _shrink(frame: FrameData, max_height_px: int | None) -> FrameData:
    """A smaller copy, each map resized as its row of ``MAPS`` says."""
    height, width = frame.image.shape[:2]
    if max_height_px is None or height <= max_height_px:
        return frame
    size = (max(1, round(width * max_height_px / height)), max_height_px)

    def resized(name: str, array: np.ndarray) -> np.ndarray:
        method = MAPS[name].resize
        if array.dtype != bool:
            return cv2.resize(array, size, interpolation=method)
        return cv2.resize(array.astype(np.uint8), size, interpolation=method) > 0

    maps = {name: resized(name, values) for name, values in frame.maps.items()}
    box = frame.patch_box_px
    scale = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return replace(
        frame,
        **map_arguments(maps),
        camera=frame.camera.resize(size[1], size[0]),
        patch_box_px=None if box is None else box * scale,
        keypoints=None,
    )
