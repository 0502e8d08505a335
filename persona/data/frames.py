"""The frames of a split, decoded once and kept in memory in their smallest exact form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Shaped, UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from persona.data.canvas import paste
from persona.data.layout import CAPTURED, FrameData, resize_expression
from persona.data.parameters import REMEDY
from persona.data.subject import Subject
from persona.errors import UserError
from persona.types import FRAME_LISTS, BodyPose, Camera, Frame

_LONG_LOAD = 32
"""More frames than this get a progress bar."""


@dataclass(frozen=True)
class FrameStore:
    """All frames of one split, of one image size."""

    split: str
    numbers: tuple[int, ...]
    """Frame numbers on disk, in the order of the rows."""
    cameras: Camera
    poses: BodyPose
    """As tracked, one row a frame."""
    image: UInt8[Tensor, "b 3 h w"]
    mask: Bool[Tensor, "b 1 h w"]
    depth: Float[Tensor, "b 1 h w"]
    """Zero outside the mask."""
    normal: Float16[Tensor, "b 3 h w"]
    """(n + 1) / 2, zero outside the mask."""
    seg: UInt8[Tensor, "b 3 h w"]
    """Colours, zero outside the mask."""
    albedo: UInt8[Tensor, "b 3 h w"] | None
    patch: UInt8[Tensor, "b 3 q q"] | None
    patch_box_px: Float[Tensor, "b 4"]
    patch_size: int
    """Side of the patches, and of the zeros that stand for absent ones."""
    person_px: tuple[float, ...] = ()
    """Longer side of each mask's bounding box."""
    has_patch: tuple[bool, ...] = ()
    person_box_px: tuple[tuple[int, int, int, int], ...] = ()
    """Bounding box (x, y, w, h) of each mask; w = 0 where it is empty."""

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.cameras.height, self.cameras.width

    def to(self, device: torch.device | str) -> FrameStore:
        """The same store on another device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor | Camera | BodyPose)
        }
        return replace(self, **moved)

    def frame(self, rows: Sequence[int], offset: int = 0) -> Frame:
        """Collates rows into a batch.

        Args:
            rows: Rows of this store.
            offset: Row of the per-frame pose table that belongs to row 0.
        """
        rows = torch.as_tensor(rows, device=self.image.device)
        image, mask = self.image[rows] / 255, self.mask[rows].float()
        absent = image.new_zeros(len(rows), 3, self.patch_size, self.patch_size)
        captured = torch.full_like(rows, self.split == CAPTURED, dtype=torch.bool)
        return Frame(
            index=rows + offset,
            captured=captured,
            camera=self.cameras[rows],
            image=image,
            mask=mask,
            albedo=torch.ones_like(image) if self.albedo is None else self.albedo[rows] / 255,
            depth=self.depth[rows],
            normal=self.normal[rows].float(),
            seg=self.seg[rows] / 255,
            patch=absent if self.patch is None else self.patch[rows] / 255,
            patch_box_px=self.patch_box_px[rows],
            name=tuple(f"{self.split}/{self.numbers[row]}" for row in rows.tolist()),
            person_px=tuple(self.person_px[row] for row in rows.tolist()),
            has_patch=tuple(self.has_patch[row] for row in rows.tolist()),
            person_box_px=tuple(self.person_box_px[row] for row in rows.tolist()),
        )


class FrameDataset(Dataset):
    """Stores laid end to end; a row is the row of the per-frame pose table."""

    def __init__(self, stores: Sequence[FrameStore]):
        """``stores``: in the order of the table (captured, generated_0, generated_1)."""
        self.stores = list(stores)
        ends = np.cumsum([0, *map(len, self.stores)])
        self.offsets, self._length = ends[:-1], int(ends[-1])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, rows: Sequence[int]) -> Frame:
        """A batch of frames, all of one size; without rows an empty one."""
        if not len(rows):
            return self[[0]][:0]
        parts = []
        for row in rows:
            which = int(np.searchsorted(self.offsets, row, side="right")) - 1
            offset = int(self.offsets[which])
            parts.append(self.stores[which].frame([row - offset], offset))
        return parts[0] if len(parts) == 1 else concatenate(parts)

    @property
    def captured(self) -> list[bool]:
        """Per row, whether it is the photograph."""
        return [store.split == CAPTURED for store in self.stores for _ in range(len(store))]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Per row, height and width."""
        return [store.size for store in self.stores for _ in range(len(store))]

    @property
    def names(self) -> list[str]:
        """Per row, ``split/number``."""
        return [f"{store.split}/{number}" for store in self.stores for number in store.numbers]

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
        extents = []
        for store in self.stores:
            for axis in (3, 2):
                taken = store.mask.any(axis)[:, 0].byte()
                first = taken.argmax(1)
                last = taken.shape[1] - 1 - taken.flip(1).argmax(1)
                extents.append(int(((last - first + 1) * taken.any(1)).max()))
        return max(extents[::2]), max(extents[1::2])

    def to(self, device: torch.device | str) -> FrameDataset:
        """The same frames on another device."""
        return FrameDataset([store.to(device) for store in self.stores])


def concatenate(frames: Sequence[Frame]) -> Frame:
    """Joins batches of one image size."""
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
        **{key: torch.cat([getattr(c, key) for c in cameras])
           for key in ("cam_from_world", "focal_px", "center_px")},
    )  # fmt: skip
    lists = {key: sum((getattr(frame, key) for frame in frames), ()) for key in FRAME_LISTS}
    return Frame(**tensors, camera=camera, **lists)


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
    cameras, poses = [first.camera] * len(numbers), [first.pose] * len(numbers)

    def fill(row: int) -> None:
        frame = first if row == 0 else read(numbers[row])
        _check_like(subject, store, numbers[row], frame, first)
        cameras[row], poses[row] = frame.camera, frame.pose
        _fill(store, row, frame)

    _for_each(fill, len(numbers), f"Reading {subject.name}/{split}")
    boxes = tuple(_bounding_box(mask[0]) for mask in store.mask)
    return replace(
        store,
        person_px=tuple(float(max(box[2:])) for box in boxes),
        person_box_px=boxes,
        has_patch=tuple((store.patch_box_px[:, 2] > 0).tolist()),
        cameras=_stack(cameras, ("cam_from_world", "focal_px", "center_px")),
        poses=_stack(poses, tuple(f.name for f in fields(BodyPose))),
    )


def _for_each(function: Callable[[int], None], count: int, label: str) -> None:
    """Calls ``function`` for each row on a few threads, with a bar when it takes long."""
    with ThreadPoolExecutor(4) as pool:
        done = pool.map(function, range(count))
        for _ in track(done, label, total=count, disable=count < _LONG_LOAD, transient=True):
            pass


def _stack(items: Sequence[Camera | BodyPose], names: tuple[str, ...]) -> Camera | BodyPose:
    tensors = {name: torch.stack([getattr(item, name) for item in items]) for name in names}
    return replace(items[0], **tensors)


def _bounding_box(mask: Bool[Tensor, "h w"]) -> tuple[int, int, int, int]:
    """Bounding box (x, y, w, h) of a mask, pixels; zeros where it is empty."""
    columns, rows = (mask.any(axis).nonzero()[:, 0].tolist() for axis in (0, 1))
    if not columns:
        return 0, 0, 0, 0
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


def _allocate(split: str, numbers: Sequence[int], first: FrameData, patch_size: int) -> FrameStore:
    """An empty store for frames like ``first``."""
    count, (height, width) = len(numbers), first.image.shape[:2]

    def empty(channels: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(count, channels, height, width, dtype=dtype)

    if first.patch is not None:
        patch_size = first.patch.shape[0]
    return FrameStore(
        split=split,
        numbers=tuple(numbers),
        cameras=first.camera,
        poses=first.pose,
        image=empty(3, torch.uint8),
        mask=empty(1, torch.bool),
        depth=empty(1, torch.float32),
        normal=empty(3, torch.float16),
        seg=empty(3, torch.uint8),
        albedo=None if first.albedo is None else empty(3, torch.uint8),
        patch=torch.zeros(count, 3, patch_size, patch_size, dtype=torch.uint8)
        if split == CAPTURED
        else None,
        patch_box_px=torch.zeros(count, 4),
        patch_size=patch_size,
    )


def _check_like(
    subject: Subject, store: FrameStore, number: int, frame: FrameData, first: FrameData
) -> None:
    """Refuses a frame that does not fit beside the split's first."""
    where = subject.path(store.split, "image", number)
    if frame.image.shape != first.image.shape:
        raise UserError(f"{where}: is not as large as the split's first image; {REMEDY}")
    if (frame.albedo is None) != (first.albedo is None):
        raise UserError(f"{where}: some frames of the split have an albedo, some not; {REMEDY}")
    if frame.patch is not None and frame.patch.shape[0] != store.patch_size:
        path = subject.path(store.split, "patch", number)
        raise UserError(f"{path}: is not {store.patch_size} pixels wide as the others; {REMEDY}")
    if frame.pose.expression.shape != first.pose.expression.shape:
        path = subject.path(store.split, "pose", number)
        raise UserError(f"{path}: has another number of expressions than the first; {REMEDY}")


def _fill(store: FrameStore, row: int, frame: FrameData) -> None:
    """Masks a frame's maps as training wants them and puts them into the store."""

    def put(target: Tensor, pixels: Shaped[np.ndarray, "h w *c"]) -> None:
        channels = pixels[..., None] if pixels.ndim == 2 else pixels
        target[row] = torch.from_numpy(np.ascontiguousarray(channels)).permute(2, 0, 1)

    mask = frame.mask
    put(store.image, frame.image)
    put(store.mask, mask)
    put(store.depth, frame.depth * (mask & frame.depth_mask))
    put(store.normal, (frame.normal + 1) / 2 * (mask & frame.normal_mask)[..., None])
    put(store.seg, frame.seg * (mask & frame.seg_mask)[..., None])
    if store.albedo is not None:
        put(store.albedo, frame.albedo)
    if store.patch is not None and frame.patch is not None:
        put(store.patch, frame.patch)
        store.patch_box_px[row] = torch.from_numpy(frame.patch_box_px)


def _shrink(frame: FrameData, max_height_px: int | None) -> FrameData:
    """A smaller copy: colours averaged over areas, everything else taken at the nearest pixel."""
    height, width = frame.image.shape[:2]
    if max_height_px is None or height <= max_height_px:
        return frame
    size = (max(1, round(width * max_height_px / height)), max_height_px)

    def resized(array: np.ndarray | None, method: int) -> np.ndarray | None:
        if array is None or array.dtype != bool:
            return None if array is None else cv2.resize(array, size, interpolation=method)
        return cv2.resize(array.astype(np.uint8), size, interpolation=method) > 0

    colours = {key: resized(getattr(frame, key), cv2.INTER_AREA) for key in ("image", "albedo")}
    maps = ("mask", "depth", "depth_mask", "normal", "normal_mask", "seg", "seg_mask")
    nearest = {key: resized(getattr(frame, key), cv2.INTER_NEAREST_EXACT) for key in maps}
    box = frame.patch_box_px
    scale = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return replace(
        frame,
        **colours,
        **nearest,
        camera=frame.camera.resize(size[1], size[0]),
        patch_box_px=None if box is None else box * scale,
        keypoints=None,
    )
