"""ExAvatar's own subject folders (``Custom``): a phone video with its fits. arXiv:2407.21686."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path

from persona.data.checks import image_size
from persona.data.identity import read_identity
from persona.data.io import read_mask, visible
from persona.data.layout import IDENTITY_FILES
from persona.data.native.colmap import colmap_files, read_colmap
from persona.data.native.recording import (
    NativeFrame,
    Recording,
    fit_expression,
)
from persona.data.native.source import Conversion, NativeSource, Requirement, dataset_folder
from persona.data.parameters import from_flat_hands, read_camera, read_numbers, read_pose
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.types import Camera

GET_DATA = (
    "give the folder of ExAvatar's Custom subjects as data.path, each with frames/, masks/, "
    "frame_list_train.txt, frame_list_test.txt and cam_params/ or sparse/, as its fitting leaves "
    "them (github.com/mks0601/ExAvatar_RELEASE)"
)
GET_SMPLX = "run ExAvatar's fitting on the video (SMPL-X: Max Planck licence, non-commercial)"
POSES = "smplx_optimized/smplx_params"
SMOOTHED = f"{POSES}_smoothed"


class ExAvatarSource(NativeSource):
    """Makes a subject folder from one video that ExAvatar's fitting has processed.

    Poses are the smoothed ones, as ExAvatar trains on for such videos, in camera coordinates;
    cameras are ``cam_params/N.json`` or else COLMAP's in ``sparse/``.

    Args:
        path: Folder of the subjects.
        subject: Name of one of them.
        smoothed: False takes the poses as they were fitted.
        body: Body model.
        conversion: How it becomes a subject.
    """

    dataset = "exavatar"
    sequences = ()

    def __init__(
        self,
        *,
        path: str | Path | None,
        subject: str | int,
        body: SmplxBody,
        conversion: Conversion,
        smoothed: bool = True,
    ) -> None:
        super().__init__(name=str(subject), body=body, conversion=conversion)
        self.folder = dataset_folder(path, GET_DATA) / str(subject)
        self.poses = self.folder / (SMOOTHED if smoothed else POSES)

    def requirements(self) -> list[Requirement]:
        """Frames, masks, lists and cameras of the video, and its SMPL-X fits."""
        names = ("frames", "masks", "frame_list_train.txt", "frame_list_test.txt")
        paths = [(self.folder / name, GET_DATA) for name in names]
        if self._has_colmap:
            paths += colmap_files(self.folder / "sparse", GET_DATA)
        else:
            paths += [(self.folder / "cam_params", GET_DATA)]
        paths += [(self.poses, GET_SMPLX)]
        paths += [(self.folder / file, GET_SMPLX) for file in IDENTITY_FILES.values()]
        return [Requirement(path, path.exists(), remedy) for path, remedy in paths]

    def files(self) -> Iterable[Path]:
        """Everything of the subject that is read."""
        patterns = ("frames/*.png", "masks/*.png", "cam_params/*.json", "sparse/*.txt",
                    "frame_list_t*.txt", "smplx_optimized/*.json")  # fmt: skip
        for pattern in patterns:
            yield from visible(self.folder.glob(pattern))
        yield from visible(self.poses.glob("*.json"))

    def read(self) -> Recording:
        """Train and test frames by the subject's own lists."""
        train, test = (self._listed(split) for split in ("train", "test"))
        if shared := sorted(set(train) & set(test)):
            path = self.folder / "frame_list_test.txt"
            raise UserError(f"{path}: names frame {shared[0]}, which trains; take it out of one")
        placed = read_colmap(self.folder / "sparse", GET_DATA) if self._has_colmap else {}
        return Recording(
            identity=read_identity(self.folder, self.body),
            train=[self._frame(number, placed) for number in train],
            test=[self._frame(number, placed) for number in test],
        )

    @property
    def _has_colmap(self) -> bool:
        return (self.folder / "sparse").is_dir() and not (self.folder / "cam_params").is_dir()

    def _listed(self, split: str) -> list[int]:
        """Frame numbers of a split.

        Raises:
            UserError: none, or one twice or out of order.
        """
        path = self.folder / f"frame_list_{split}.txt"
        numbers = read_numbers(path)
        for before, number in pairwise(numbers):
            if number <= before:
                raise UserError(f"{path}: is not sorted ({number} after {before}); sort it")
        if not numbers:
            raise UserError(f"{path}: names no frames; {GET_DATA}")
        return numbers

    def _frame(self, number: int, placed: dict[str, Camera]) -> NativeFrame:
        image, path = self.folder / f"frames/{number}.png", self.poses / f"{number}.json"
        if not path.is_file():
            raise UserError(f"{path}: no parameters of frame {number}; {GET_SMPLX}")
        pose = fit_expression(read_pose(path), self.body.num_expression, path)
        if self.conversion.flat_hand_mean:
            pose = from_flat_hands(pose, self.body.hands_mean)
        return NativeFrame(
            label=str(number),
            image=image,
            camera=self._camera(number, image, placed),
            pose=pose,
            read_mask=partial(read_mask, self.folder / f"masks/{number}.png", GET_DATA),
        )

    def _camera(self, number: int, image: Path, placed: dict[str, Camera]) -> Camera:
        if self._has_colmap:
            if image.name not in placed:
                path = self.folder / "sparse/images.txt"
                raise UserError(f"{path}: has no camera for {image.name}; {GET_DATA}")
            return placed[image.name]
        height, width = image_size(image)
        return read_camera(self.folder / f"cam_params/{number}.json", height, width)
