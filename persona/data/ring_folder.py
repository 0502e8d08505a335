"""A folder of pictures of one person in one pose with cameras around: a ring from anywhere.

``images/N.png``, ``masks/N.png`` and ``cam_params/N.json`` (R, t, focal, princpt: OpenCV, world to
camera, metres and pixels) of each view, ``pose.json`` (SMPL-X parameters in the world, as in
PERSONA's ``smplx_params``), and the person's shape as ``smplx_optimized/*.json``, which may lack.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from persona.data.checks import image_size
from persona.data.identity import read_identity
from persona.data.io import read_mask
from persona.data.native.recording import NativeFrame, Recording, fit_expression, in_camera
from persona.data.native.source import Conversion, NativeSource, Requirement, dataset_folder
from persona.data.parameters import read_camera, read_pose
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyIdentity

GET = "give a folder as persona/data/ring_folder.py describes it"
KINDS = ("images", "masks", "cam_params")
SHAPE, POSE_FILE = "smplx_optimized", "pose.json"
LEAST_VIEWS = 3


class RingFolder(NativeSource):
    """All views are captured but every so many-th, which tests.

    Args:
        path: The folder.
        body: Body model with texture coordinates.
        conversion: How it becomes a subject; its setting is ``video``.
        test_every: Every so many-th view tests, from the middle of the first such stretch on.

    Raises:
        UserError: no such folder.
    """

    dataset = "ring_folder"
    sequences = ()

    def __init__(
        self, *, path: str | Path, body: SmplxBody, conversion: Conversion, test_every: int = 8
    ) -> None:
        self.folder, self.test_every = dataset_folder(path, GET), test_every
        super().__init__(name=self.folder.resolve().name, body=body, conversion=conversion)

    def requirements(self) -> list[Requirement]:
        """A folder of each kind, and the pose."""
        kinds = [
            Requirement(self.folder / kind, (self.folder / kind).is_dir(), GET) for kind in KINDS
        ]
        pose = self.folder / POSE_FILE
        return [*kinds, Requirement(pose, pose.is_file(), GET)]

    def files(self) -> Iterable[Path]:
        """All of the folder that is read."""
        for kind in (*KINDS, SHAPE):
            yield from (self.folder / kind).glob("*.*")
        yield self.folder / POSE_FILE

    def read(self) -> Recording:
        """See ``NativeSource``.

        Raises:
            UserError: too few views, or one that lacks a file.
        """
        images = (self.folder / "images").glob("*.png")
        numbers = sorted(int(path.stem) for path in images if path.stem.isdigit())
        if len(numbers) < LEAST_VIEWS:
            raise UserError(
                f"{self.folder / 'images'}: has {len(numbers)} views N.png, {LEAST_VIEWS} are "
                f"needed; {GET}"
            )
        shaped = (self.folder / SHAPE).is_dir()
        identity = read_identity(self.folder, self.body) if shaped else self.body.zero_identity()
        frames = [self._frame(number, identity) for number in numbers]
        test = frames[self.test_every // 2 :: self.test_every]
        names = {frame.label for frame in test}
        return Recording(identity, [f for f in frames if f.label not in names], test)

    def _frame(self, number: int, identity: BodyIdentity) -> NativeFrame:
        image = self.folder / f"images/{number}.png"
        for kind, ending in (("masks", "png"), ("cam_params", "json")):
            if not (path := self.folder / f"{kind}/{number}.{ending}").is_file():
                raise UserError(f"{path}: missing beside {image.name}; {GET}")
        camera = read_camera(self.folder / f"cam_params/{number}.json", *image_size(image))
        path = self.folder / POSE_FILE
        pose = fit_expression(read_pose(path), self.body.num_expression, path)
        root = self.body.shape(identity)[1][0]
        pose = in_camera(pose, camera.cam_from_world, root, root)
        mask = partial(read_mask, self.folder / f"masks/{number}.png", GET)
        return NativeFrame(str(number), image, camera, pose, mask)
