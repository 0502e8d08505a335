"""The frames of a split, decoded once and kept in memory in their smallest exact form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from persona.data.canvas import paste
from persona.data.frame_feed import FrameFeed, pin_in_place
from persona.data.frame_rows import RowLayout
from persona.data.layout import MAPS, FrameData, MapSpec, map_arguments, resize_expression
from persona.data.parameters import REMEDY
from persona.data.subject import Subject
from persona.errors import UserError
from persona.types import CAPTURED, FRAME_LISTS, GENERATED, REAL, BodyPose, Camera, Frame

_LONG_LOAD = 32
"""More frames than this get a progress bar."""
FRAMES_ON = ("auto", "device", "host")
DEVICE_BYTES = 2 * 2**30
"""Frames of more memory than this, some 200 of 1024 x 576, stay on the host by themselves."""
FRAME_MAPS = frozenset(f.name for f in fields(Frame))
"""Names of maps that have a field of their own in ``Frame``, among its other fields."""
CAMERA_KEYS = ("cam_from_world", "focal_px", "center_px")


@dataclass(frozen=True)
class FrameStore:
    """All frames of one split, of one image size.

    A frame is a row of bytes that holds, in their smallest exact form: the maps of
    ``layout.MAPS`` that are served, (c, h, w), zero outside of the masks that they have, unit
    vectors as (n + 1) / 2 in float16; ``patch`` (3, q, q) uint8 where the split has it;
    ``cam_from_world``, ``focal_px``, ``center_px`` and ``patch_box_px`` float32.
    """

    split: str
    numbers: tuple[int, ...]
    """Frame numbers on disk, in the order of the rows."""
    layout: RowLayout
    rows: UInt8[Tensor, "b k"]
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
        """Of each frame."""
        return [self.name(row) for row in range(len(self))]

    def name(self, row: int) -> str:
        """``split/number``, after the owner's name if there is one."""
        label = f"{self.owner}/{self.split}" if self.owner else self.split
        return f"{label}/{self.numbers[row]}"

    @property
    def kind(self) -> tuple:
        """What frames of one batch have in common: sizes and which other maps they have."""
        others = frozenset(self.layout.arrays) & frozenset(MAPS) - frozenset(FRAME_MAPS)
        return self.size, self.patch_size, others

    @property
    def role(self) -> str:
        """What the frames are to training: see ``types.REAL``."""
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
        """What the rows hold, by name, on their memory."""
        return self.layout.views(self.rows)

    @property
    def cameras(self) -> Camera:
        """One a frame."""
        maps = self.maps
        return Camera(*(maps[key] for key in CAMERA_KEYS), *self.size)

    def to(self, device: torch.device | str) -> FrameStore:
        """The same store on another device."""
        return replace(self, rows=self.rows.to(device), poses=self.poses.to(device))

    def frame(self, rows: Sequence[int], offset: int = 0) -> Frame:
        """Collates rows into a batch.

        Args:
            rows: Rows of this store.
            offset: Row of the per-frame pose table that belongs to row 0.
        """
        return concatenate([self.decode(self.rows[row], row, offset) for row in rows])

    def decode(self, data: UInt8[Tensor, "k"], row: int, offset: int = 0) -> Frame:
        """The frame ``row`` as a batch of one, of its bytes on any device; ``data`` is copied.

        Few operations, one a map: a step must not wait for the host.
        """
        maps = self.layout.views(data[None])
        served = {name: _served(maps[name]) for name in MAPS if name in maps}
        image = served["image"]
        served.setdefault("albedo", torch.ones_like(image))
        own = FRAME_MAPS & set(served)
        numbers = {key: maps[key].clone() for key in (*CAMERA_KEYS, "patch_box_px")}
        patch = (1, 3, self.patch_size, self.patch_size)
        return Frame(
            index=torch.full((1,), row + offset, device=data.device),
            subject=torch.full((1,), self.subject, device=data.device),
            camera=Camera(*(numbers[key] for key in CAMERA_KEYS), *self.size),
            **{name: served[name] for name in own},
            others={name: served[name] for name in served.keys() - own},
            patch=maps["patch"] / 255 if "patch" in maps else image.new_zeros(patch),
            patch_box_px=numbers["patch_box_px"],
            name=(self.name(row),),
            role=(self.role,),
            person_px=(self.person_px[row],),
            has_patch=(self.has_patch[row],),
            person_box_px=(self.person_box_px[row],),
        )


class FrameDataset(Dataset):
    """Stores laid end to end; a row is the row of the per-frame pose table."""

    def __init__(self, stores: Sequence[FrameStore], feed: FrameFeed | None = None):
        """``stores``: in the order of the table (captured, generated_0, generated_1), by subject.

        feed: brings the frames from the stores to another device; without one they are handed out
        where they lie.
        """
        self.stores, self.feed = list(stores), feed
        ends = np.cumsum([0, *map(len, self.stores)])
        self.offsets, self._length = ends[:-1], int(ends[-1])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: Sequence[int]) -> Frame:
        """A batch of frames, all of one size; without rows an empty one."""
        if not len(rows):
            return self[[0]][:0]
        data = self._bytes(rows)
        with nullcontext(data) if self.feed is None else self.feed.take(rows, data) as here:
            return concatenate([self._decode(*pair) for pair in zip(rows, here, strict=True)])

    def stage(self, rows: Sequence[int]) -> None:
        """Announces the batch that is asked for next, so that its bytes can travel already."""
        if self.feed is not None and len(rows):
            self.feed.stage(rows, self._bytes(rows))

    def _find(self, row: int) -> tuple[FrameStore, int]:
        """The store of a row, and the row of its first frame."""
        which = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return self.stores[which], int(self.offsets[which])

    def _bytes(self, rows: Sequence[int]) -> list[UInt8[Tensor, "_"]]:
        found = (self._find(row) for row in rows)
        return [store.rows[row - first] for row, (store, first) in zip(rows, found, strict=True)]

    def _decode(self, row: int, data: UInt8[Tensor, "_"]) -> Frame:
        store, first = self._find(row)
        return store.decode(data, row - first, first)

    @property
    def roles(self) -> list[str]:
        """Per row, what it is to training: see ``types.REAL``."""
        return [store.role for store in self.stores for _ in range(len(store))]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Per row, height and width."""
        return [store.size for store in self.stores for _ in range(len(store))]

    def rows_of(self, subject: int) -> list[int]:
        """Rows of a subject's frames."""
        return [row for row in range(len(self)) if self._find(row)[0].subject == subject]

    @property
    def kinds(self) -> list[tuple]:
        """Per row, what frames of one batch have in common."""
        return [store.kind for store in self.stores for _ in range(len(store))]

    @property
    def names(self) -> list[str]:
        """Per row, ``split/number``, after the subject's name where there are several."""
        return [name for store in self.stores for name in store.names]

    def poses(self, num_expression: int) -> BodyPose:
        """Tracked poses of all rows: the start of the per-frame pose table.

        Raises:
            UserError: an expression belongs to another body.
        """
        poses = []
        for store in self.stores:
            try:
                poses.append(resize_expression(store.poses, num_expression))
            except ValueError as error:
                raise UserError(
                    f"{store.split}: {error}; choose the body it was made with"
                ) from error
        return BodyPose(**{f.name: torch.cat([getattr(p, f.name) for p in poses])
                           for f in fields(BodyPose)})  # fmt: skip

    @property
    def person_extent_px(self) -> tuple[int, int]:
        """Height and width of the largest box around a person."""
        boxes = [box for store in self.stores for box in store.person_box_px]
        return max(box[3] for box in boxes), max(box[2] for box in boxes)

    @property
    def num_bytes(self) -> int:
        """Memory that the frames take."""
        return sum(store.rows.numel() for store in self.stores)

    def to(self, device: torch.device | str) -> FrameDataset:
        """The same frames on another device."""
        return FrameDataset([store.to(device) for store in self.stores])

    def place(self, device: torch.device, on: str = "auto") -> FrameDataset:
        """The same frames for training on ``device``, where they are handed out.

        Args:
            device: Of the model.
            on: ``device`` keeps all frames there. ``host`` keeps them in host memory, whose pages
                are locked, and copies a batch while the one before it is used. ``auto`` is
                ``device`` up to ``DEVICE_BYTES``. Without CUDA all are the same.

        Raises:
            UserError: no such choice, or host memory that cannot be locked.
        """
        if on not in FRAMES_ON:
            raise UserError(f"frames_on={on} is unknown: choose {', '.join(FRAMES_ON)}")
        if on == "auto":
            on = "device" if self.num_bytes <= DEVICE_BYTES else "host"
        if on == "device" or device.type != "cuda":
            return self.to(device)
        if self.feed is not None:
            return self
        stores = [store.to("cpu") for store in self.stores]
        for store in stores:
            pin_in_place(store.rows)
        return FrameDataset(stores, FrameFeed(device))


def concatenate(frames: Sequence[Frame]) -> Frame:
    """Joins batches of one image size."""
    if len(frames) == 1:
        return frames[0]
    first = frames[0].camera
    cameras = [frame.camera for frame in frames]
    if any((c.height, c.width) != (first.height, first.width) for c in cameras):
        raise ValueError("a batch holds frames of different sizes")
    tensors = {
        f.name: torch.cat([getattr(frame, f.name) for frame in frames])
        for f in fields(Frame)
        if isinstance(getattr(frames[0], f.name), Tensor)
    }
    camera = replace(
        first,
        **{key: torch.cat([getattr(c, key) for c in cameras]) for key in CAMERA_KEYS},
    )  # fmt: skip
    lists = {key: sum((getattr(frame, key) for frame in frames), ()) for key in FRAME_LISTS}
    names = set(frames[0].others)
    if any(set(frame.others) != names for frame in frames):
        raise ValueError("a batch holds frames of different maps")
    others = {name: torch.cat([frame.others[name] for frame in frames]) for name in names}
    return Frame(**tensors, camera=camera, **lists, others=others)


def role_of(split: str) -> str:
    """What the frames of a split are to training."""
    if split == CAPTURED:
        return CAPTURED
    return GENERATED if split.startswith(f"{GENERATED}_") else REAL


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
    layout = RowLayout(arrays)
    return FrameStore(
        split=split,
        numbers=tuple(numbers),
        layout=layout,
        rows=torch.zeros(len(numbers), layout.num_bytes, dtype=torch.uint8),
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
    """Of a map in a store."""
    if spec.unit:
        return torch.float16
    return {"u": torch.uint8, "b": torch.bool, "f": torch.float32}[spec.dtype.kind]


def _served(values: Shaped[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """A stored map as training sees it, on memory of its own."""
    if values.dtype == torch.uint8:
        return values / 255
    return values.clone() if values.dtype == torch.float32 else values.float()


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
