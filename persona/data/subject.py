"""Reading a subject folder in PERSONA's layout."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int, Shaped, UInt8

from persona.data.checks import check_size, image_size, npy_shape
from persona.data.compact import map_path, read_compact
from persona.data.identity import BodySize, identity_arrays, read_identity
from persona.data.io import PathLike, read_image, read_json, read_mask, read_npy, read_text
from persona.data.layout import (
    CAPTURED,
    CROP_FILE,
    IMAGE_SIZE_FILE,
    MAPS,
    ORIGINAL_FILE,
    SCHEMA,
    SUBJECT_FILE,
    TEST,
    TEXTURE_FILES,
    UNFINISHED_FILE,
    FrameData,
    MapSpec,
    SubjectInfo,
    Textures,
    frame_path,
    map_arguments,
    resize_expression,
)
from persona.data.parameters import (
    REMEDY,
    read_array,
    read_camera,
    read_numbers,
    read_pose,
)
from persona.errors import UserError
from persona.types import BodyIdentity, BodyPose, Camera

Crop = tuple[int, int, int, int]


class Subject:
    """Read access to one subject folder; every error names the file and the remedy.

    Loads published PERSONA folders and our own. Pixel arrays are returned as stored.
    """

    def __init__(self, root: PathLike):
        """``root``: the folder that holds ``captured``."""
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{root}: no such subject folder; make it with scripts/preprocess.py")
        if not (self.root / CAPTURED).is_dir():
            raise UserError(
                f"{root}: not a subject folder (no {CAPTURED}/ in it); "
                "make one with scripts/preprocess.py"
            )

    @property
    def name(self) -> str:
        """Folder name."""
        return self.root.resolve().name

    @property
    def info(self) -> SubjectInfo | None:
        """The maker of the folder and its body; None for a published folder."""
        path = self.root / SUBJECT_FILE
        if not path.exists():
            return None
        data = read_json(path, REMEDY)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise UserError(f"{path}: not of schema {SCHEMA}; make the subject again")
        try:
            return SubjectInfo(**data)
        except TypeError as error:
            raise UserError(f"{path}: {error}; make the subject again") from error

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that exist: captured, generated_0, generated_1 ..., test."""
        found = [p for p in self.root.glob("generated_*") if re.fullmatch(r"\w+_\d+", p.name)]
        generated = sorted((p.name for p in found), key=lambda name: int(name.split("_")[-1]))
        return (CAPTURED, *generated, *([TEST] if (self.root / TEST).is_dir() else []))

    def frame_ids(self, split: str) -> list[int]:
        """Frame numbers used: those of ``frame_idx_list.txt``, else of every image."""
        folder = self.root / split
        listed = folder / "frame_idx_list.txt"
        if listed.exists():
            numbers = read_numbers(listed)
        else:
            images = folder.glob("images/*.png")
            numbers = sorted(int(p.stem) for p in images if p.stem.isdigit())
        if not numbers:
            raise UserError(f"{folder}: has no frames (images/0.png ...); {REMEDY}")
        return numbers

    @property
    def textured(self) -> bool:
        """Whether its maker made textures."""
        return self.info is None or self.info.textured

    def check_textured(self) -> None:
        """For methods that want more than the photograph and the naked body in it.

        Raises:
            UserError: the folder was made without textures.
        """
        if not self.textured:
            raise UserError(
                f"{self.root}: made without textures, for a method that reads none; make it again "
                "with scripts/preprocess.py"
            )

    @property
    def textured_splits(self) -> tuple[str, ...]:
        """Splits whose textures training reads: captured, and generated_0 where it exists."""
        return tuple(split for split in self.splits if split in (CAPTURED, "generated_0"))

    def path(self, split: str, kind: str, number: int) -> Path:
        """Path of one file of a frame; ``kind`` as in ``layout.FRAME_FILES``."""
        if kind in MAPS:
            return map_path(self.root / split, kind, number)
        return frame_path(self.root, split, kind, number)

    def identity(self, body: BodySize) -> BodyIdentity:
        """The person's shape, for the body it was made with.

        Raises:
            UserError: a file is missing or broken, or the folder belongs to another body.
        """
        info = self.info
        if info is not None and (info.body, info.body_digest) != (body.name, body.digest):
            raise UserError(
                f"{self.root / SUBJECT_FILE}: made with body {info.body} ({info.body_digest[:8]}), "
                f"not {body.name} ({body.digest[:8]}); choose that body or make the subject again"
            )
        return read_identity(self.root / CAPTURED, body)

    def image(self, split: str, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """RGB."""
        return read_image(self.path(split, "image", number), REMEDY)

    def mask(self, split: str, number: int) -> Bool[np.ndarray, "h w"]:
        """The person."""
        return read_mask(self.path(split, "mask", number), REMEDY)

    def map(self, split: str, name: str, number: int) -> Shaped[np.ndarray, "h w *c"] | None:
        """One of ``layout.MAPS``; None where it is optional and the frame lacks it."""
        spec, path = MAPS[name], self.path(split, name, number)
        if spec.optional and not path.exists():
            return None
        if spec.dtype == bool:
            return self._bool_map(path)
        if spec.dtype == np.uint8:
            pixels = read_image(path, REMEDY)
            return pixels if spec.channels == 3 else np.ascontiguousarray(pixels[..., 0])
        return self._float_map(path, spec)

    def _pair(self, split: str, name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A map and the mask of where it holds, of one size."""
        values, mask = (self.map(split, kind, number) for kind in (name, f"{name}_mask"))
        assert values is not None and mask is not None  # None of these is optional.
        path = self.path(split, f"{name}_mask", number)
        check_size(path, mask.shape, values.shape[:2], "its map")
        return values, mask

    def depth(
        self, split: str, number: int
    ) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
        """Relative depth, larger is farther, and where it holds."""
        return self._pair(split, "depth", number)

    def normal(
        self, split: str, number: int
    ) -> tuple[Float32[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        """Unit normals (x right, y up, z to the camera) and where they hold."""
        return self._pair(split, "normal", number)

    def seg(
        self, split: str, number: int
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        """Part colours and the foreground."""
        return self._pair(split, "seg", number)

    def albedo(self, split: str, number: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """RGB without shading; None where the split has none."""
        return self.map(split, "albedo", number)

    def patch(
        self, split: str, number: int
    ) -> tuple[UInt8[np.ndarray, "q q 3"], Float32[np.ndarray, "4"]] | None:
        """Face patch and its box (x, y, w, h) in the image; None where the split has none."""
        path, box_path = (self.path(split, kind, number) for kind in ("patch", "patch_box"))
        if not path.exists() and not box_path.exists():
            return None
        patch, box = read_image(path, REMEDY), read_array(box_path, (4,))
        if patch.shape[0] != patch.shape[1]:
            raise UserError(f"{path}: is not square; {REMEDY}")
        if not (box[2:] > 0).all():
            raise UserError(f"{box_path}: the box is empty; {REMEDY}")
        return patch, box

    def keypoints(self, split: str, number: int) -> Float32[np.ndarray, "133 3"]:
        """COCO-WholeBody keypoints: x, y in pixels, score."""
        return read_array(self.path(split, "keypoints", number), (133, 3))

    def original_names(self, split: str) -> list[str]:
        """A dataset's own names of the frames of a split (``frame_idx_orig.txt``), in order.

        Their numbers where the file is absent.

        Raises:
            UserError: the file names more or fewer frames than the split has.
        """
        numbers, path = self.frame_ids(split), self.root / split / ORIGINAL_FILE
        if not path.exists():
            return [str(number) for number in numbers]
        lines = [line.strip() for line in read_text(path, REMEDY).splitlines() if line.strip()]
        if len(lines) != len(numbers):
            raise UserError(f"{path}: names {len(lines)} frames of {len(numbers)}; {REMEDY}")
        return lines

    def crop(self, split: str, number: int) -> tuple[Crop, tuple[int, int]] | None:
        """Box (x, y, w, h) of a frame in the image it was cut from, and that image's (h, w).

        None where the frame is the whole image.

        Raises:
            UserError: one of the two files is missing, or the box leaves the image.
        """
        path = self.root / split / CROP_FILE.format(number)
        if not path.exists():
            return None
        x, y, w, h = (int(v) for v in read_array(path, (4,)))
        size_path = self.root / split / IMAGE_SIZE_FILE
        height, width = (int(v) for v in read_array(size_path, (2,)))
        size = image_size(self.path(split, "image", number))
        check_size(path, (h, w), size, "its image")
        if min(x, y) < 0 or x + w > width or y + h > height:
            raise UserError(f"{path}: the box leaves the {width} x {height} image; {REMEDY}")
        return (x, y, w, h), (height, width)

    def camera(self, split: str, number: int) -> Camera:
        """Camera of a frame."""
        size = image_size(self.path(split, "image", number))
        return read_camera(self.path(split, "camera", number), *size)

    def pose(self, split: str, number: int, num_expression: int | None = None) -> BodyPose:
        """SMPL-X pose of a frame.

        Args:
            split: Split name.
            number: Frame number.
            num_expression: Wanted length of the expression; None keeps the file's.

        Raises:
            UserError: broken file, or an expression of another body.
        """
        path = self.path(split, "pose", number)
        pose = read_pose(path)
        if num_expression is None:
            return pose
        try:
            return resize_expression(pose, num_expression)
        except ValueError as error:
            raise UserError(f"{path}: {error}; choose the body it was made with") from error

    def surface_offset(
        self, split: str, number: int
    ) -> tuple[Int[np.ndarray, "k"], Float32[np.ndarray, "k 3"]] | None:
        """Vertices of simulated clothes, and metres added to their rest pose; None without any."""
        path = self.path(split, "surface_offset", number)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return file["vertices"].astype(np.int64), file["offset"].astype(np.float32)
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: damaged; {REMEDY}") from error

    def frame(self, split: str, number: int) -> FrameData:
        """Everything of one frame, checked to be of one size.

        Raises:
            UserError: a file is missing, broken or of another size than the image.
        """
        read = {name: self.map(split, name, number) for name in MAPS}
        maps = {name: values for name, values in read.items() if values is not None}
        size = maps["image"].shape[:2]
        for name, values in maps.items():
            check_size(self.path(split, name, number), values.shape[:2], size)
        patch, box = self.patch(split, number) or (None, None)
        has_keypoints = self.path(split, "keypoints", number).exists()
        return FrameData(
            camera=read_camera(self.path(split, "camera", number), *size),
            pose=self.pose(split, number),
            patch=patch,
            patch_box_px=box,
            keypoints=self.keypoints(split, number) if has_keypoints else None,
            **map_arguments(maps),
        )

    def textures(self, split: str) -> Textures:
        """Unwrapped colours and parts of a split (captured and generated_0 have them).

        Raises:
            UserError: a file is missing or broken, or the folder was made without textures.
        """
        self.check_textured()
        paths = {key: self.root / split / TEXTURE_FILES[key] for key in Textures._fields}
        read = {key: read_mask if key == "mask" else read_image for key in Textures._fields}
        textures = Textures(**{key: read[key](path, REMEDY) for key, path in paths.items()})
        for key, array in textures._asdict().items():
            check_size(paths[key], array.shape[:2], textures.texture.shape[:2], "the texture")
        return textures

    def patch_size(self) -> int | None:
        """Side of the captured face patches in pixels; None without patches."""
        for number in self.frame_ids(CAPTURED):
            if found := self.patch(CAPTURED, number):
                return found[0].shape[0]
        return None

    def validate(self, splits: tuple[str, ...] | None = None) -> None:
        """Checks every file that training reads, by header where that tells enough.

        Raises:
            UserError: the first file that is missing, truncated, inconsistent or not finite,
                or the making of the folder was interrupted.
        """
        if (self.root / UNFINISHED_FILE).exists():
            raise UserError(f"{self.root}: unfinished, its making was interrupted; make it again")
        for split in self.splits if splits is None else splits:
            for number in self.frame_ids(split):
                self._check_frame(split, number)
        for split in self.textured_splits if self.textured else ():
            sizes = {
                key: image_size(self.root / split / TEXTURE_FILES[key]) for key in Textures._fields
            }
            for key, size in sizes.items():
                file = self.root / split / TEXTURE_FILES[key]
                check_size(file, size, sizes["texture"], "the texture")
        identity_arrays(self.root / CAPTURED)

    def _check_frame(self, split: str, number: int) -> None:
        size = image_size(self.path(split, "image", number))
        for name, spec in MAPS.items():
            path = self.path(split, name, number)
            if not spec.optional or path.exists():
                shape = npy_shape(path)[:2] if path.suffix == ".npy" else image_size(path)
                check_size(path, shape, size)
        read_camera(self.path(split, "camera", number), *size)
        self.pose(split, number)
        self.crop(split, number)
        if (path := self.path(split, "patch", number)).exists():
            image_size(path)
            read_array(self.path(split, "patch_box", number), (4,))

    def _float_map(self, path: Path, spec: MapSpec) -> Float32[np.ndarray, "h w *c"]:
        if path.suffix != ".npy":
            return read_compact(path, spec.name)
        array = read_npy(path, REMEDY)
        wanted = () if spec.channels == 1 else (spec.channels,)
        if array.ndim < 2 or array.shape[2:] != wanted or array.dtype.kind != "f":
            raise UserError(f"{path}: is not a {spec.name} map ({_describe(array)}); {REMEDY}")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{path}: holds a number that is not finite; {REMEDY}")
        return array

    def _bool_map(self, path: Path) -> Bool[np.ndarray, "h w"]:
        array = read_npy(path, REMEDY) if path.suffix == ".npy" else read_mask(path, REMEDY)
        if array.ndim != 2 or array.dtype.kind not in "biu":
            raise UserError(f"{path}: is not a mask ({_describe(array)}); {REMEDY}")
        return array.astype(bool)


def _describe(array: Shaped[np.ndarray, "..."]) -> str:
    return f"{array.dtype} {' x '.join(map(str, array.shape))}"
