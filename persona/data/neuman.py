"""NeuMan: six phone videos of people outdoors. Source: Jiang et al., arXiv:2203.12575."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from jaxtyping import Bool
from numpy import ndarray

from persona.data.identity import read_identity
from persona.data.io import read_image, read_mask, read_text, visible
from persona.data.layout import IDENTITY_FILES
from persona.data.native.colmap import colmap_files, read_colmap
from persona.data.native.recording import (
    NativeFrame,
    Recording,
    fit_expression,
    neuman_split,
)
from persona.data.native.source import Conversion, NativeSource, Requirement, dataset_folder
from persona.data.parameters import from_flat_hands, read_pose
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.types import Camera

GET_DATA = (
    "get NeuMan's dataset.zip, linked from github.com/apple/ml-neuman, and give the folder that "
    "holds its sequences as data.path (mind the terms in that repository's LICENSE)"
)
GET_SMPLX = (
    "NeuMan ships SMPL, not SMPL-X: get ExAvatar's fitted NeuMan subjects, linked from "
    "github.com/mks0601/ExAvatar_RELEASE (SMPL-X: Max Planck licence, non-commercial), into "
    "data.path or a folder of their own, data.smplx"
)
SPLITS = ("train", "val", "test")
POSES = "smplx_optimized/smplx_params"


class NeumanSource(NativeSource):
    """Makes a subject folder from one NeuMan sequence.

    Images, masks (0 is the person, soft edges) and COLMAP cameras are the dataset's; SMPL-X
    parameters, in camera coordinates, are ExAvatar's. Their masks (``masks/``) train where they
    are there; the dataset's (``segmentations/``) always test, as in ExAvatar's protocol.

    Args:
        path: Folder of the sequences.
        sequence: ``bike``, ``citron``, ``jogging``, ``seattle``, ``lab`` or ``parkinglot``.
        smplx: Folder of ExAvatar's subjects, SEQUENCE/smplx_optimized in it; None is ``path``.

        body: Body model.
        conversion: How it becomes a subject.
    """

    dataset = "neuman"
    sequences = ("bike", "citron", "jogging", "seattle")

    def __init__(
        self,
        *,
        path: str | Path | None,
        sequence: str,
        body: SmplxBody,
        conversion: Conversion,
        smplx: str | Path | None = None,
    ) -> None:
        super().__init__(name=sequence, body=body, conversion=conversion)
        self.folder = dataset_folder(path, GET_DATA) / sequence
        self.smplx = self.folder if smplx is None else dataset_folder(smplx, GET_SMPLX) / sequence

    def requirements(self) -> list[Requirement]:
        """Images, masks and cameras of the dataset, SMPL-X of ExAvatar."""
        paths = [(self.folder / name, GET_DATA) for name in ("images", "segmentations")]
        paths += colmap_files(self.folder / "sparse", GET_DATA)
        paths += [(self.smplx / POSES, GET_SMPLX)]
        paths += [(self.smplx / file, GET_SMPLX) for file in IDENTITY_FILES.values()]
        return [Requirement(path, path.exists(), remedy) for path, remedy in paths]

    def files(self) -> Iterable[Path]:
        """Everything of the sequence that is read."""
        for pattern in ("images/*.png", "segmentations/*.png", "masks/*.png", "sparse/*.txt"):
            yield from visible(self.folder.glob(pattern))
        yield from visible(self.folder.glob("*_split.txt"))
        yield from visible(self.smplx.glob("smplx_optimized/**/*.json"))

    def read(self) -> Recording:
        """Train and test frames; validation frames are left out, as everywhere."""
        names = self._image_names()
        train, _, test = self._split(names)
        cameras = read_colmap(self.folder / "sparse", GET_DATA)
        return Recording(
            identity=read_identity(self.smplx, self.body),
            train=[self._frame(name, cameras, "masks") for name in train],
            test=[self._frame(name, cameras, "segmentations") for name in test],
        )

    def label(self, input_frame: str) -> str:
        """Frames may be named 12, 00012 or 00012.png."""
        stem = input_frame.removesuffix(".png")
        return str(int(stem)) if stem.isdigit() else stem

    def _image_names(self) -> list[str]:
        """Names of all images in the order of the video.

        Raises:
            UserError: a name is no number, or one is missing between others.
        """
        images = visible((self.folder / "images").glob("*.png"))
        for path in images:
            if not path.stem.isdigit():
                raise UserError(f"{path}: not named by its frame number as 00012.png; rename it")
        # By number: names of different length do not sort.
        images.sort(key=lambda path: int(path.stem))
        numbers = [int(path.stem) for path in images]
        for before, number in pairwise(numbers):
            if number != before + 1:
                missing = images[0].with_name(f"{before + 1:05d}.png")
                raise UserError(f"{missing}: missing between frames of the video; {GET_DATA}")
        if not images:
            raise UserError(f"{self.folder / 'images'}: has no 00000.png ...; {GET_DATA}")
        return [path.name for path in images]

    def _split(self, names: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
        """Train, validation and test images: from the split files, or else by their rule.

        Raises:
            UserError: some but not all files are there, or one is unsorted or names an image twice
                or one that is not there or in another split.
        """
        paths = [self.folder / f"{split}_split.txt" for split in SPLITS]
        if not any(path.exists() for path in paths):
            try:
                train, val, test = neuman_split(len(names))
            except ValueError as error:
                raise UserError(f"{self.folder / 'images'}: {error}; {GET_DATA}") from error
            return [names[i] for i in train], [names[i] for i in val], [names[i] for i in test]
        taken: dict[str, Path] = {}
        for path in paths:
            lines = read_text(path, GET_DATA).split()
            for before, name in pairwise(["", *lines]):
                if name not in names:
                    raise UserError(f"{path}: names {name}, which images/ lacks; {GET_DATA}")
                if name in taken:
                    raise UserError(f"{path}: names {name}, as does {taken[name]}; {GET_DATA}")
                if before and int(Path(name).stem) < int(Path(before).stem):
                    raise UserError(f"{path}: is not sorted ({name} after {before}); {GET_DATA}")
                taken[name] = path
            if not lines:
                raise UserError(f"{path}: names no frames; {GET_DATA}")
        of = {path: [name for name in names if taken.get(name) == path] for path in paths}
        return of[paths[0]], of[paths[1]], of[paths[2]]

    def _frame(self, name: str, cameras: dict[str, Camera], masks: str) -> NativeFrame:
        """One frame; images and masks of the dataset are called 00012.png, ExAvatar's files 12."""
        number = int(Path(name).stem)
        if name not in cameras:
            raise UserError(
                f"{self.folder / 'sparse/images.txt'}: has no camera for {name}; {GET_DATA}"
            )
        path = self.smplx / POSES / f"{number}.json"
        if not path.is_file():
            raise UserError(f"{path}: no parameters of {name}; {GET_SMPLX}")
        pose = fit_expression(read_pose(path), self.body.num_expression, path)
        if self.conversion.flat_hand_mean:
            pose = from_flat_hands(pose, self.body.hands_mean)
        return NativeFrame(
            label=str(number),
            image=self.folder / "images" / name,
            camera=cameras[name],
            pose=pose,
            read_mask=partial(self._mask, name, masks),
        )

    def _mask(self, name: str, masks: str) -> Bool[ndarray, "h w"]:
        """The person: ExAvatar's masks are white there, the dataset's black."""
        path = self.folder / "masks" / f"{int(Path(name).stem)}.png"
        if masks == "masks" and path.exists():
            return read_mask(path, GET_DATA)
        return read_image(self.folder / "segmentations" / name, GET_DATA)[..., 0] < 128
