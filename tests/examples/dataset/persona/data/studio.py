"""STUDIO: a video as images/N.png, masks/N.png, cam_params/N.json and smplx_params/N.json."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from persona.data.checks import image_size
from persona.data.io import read_mask
from persona.data.native.recording import NativeFrame, Recording
from persona.data.native.source import Conversion, NativeSource, Requirement, dataset_folder
from persona.data.parameters import read_camera, read_pose
from persona.modules.body.smplx_body import SmplxBody

GET = "get it from the studio, under its licence"
NUM_TEST = 2


class StudioSource(NativeSource):
    """One recording, of which the last frames test.

    Args:
        path: Folder of the recordings.
        name: Of the recording.
        body: Body model.
        conversion: How it becomes a subject.
    """

    dataset = "studio"
    sequences = ("alice",)

    def __init__(
        self, *, path: str | Path, name: str, body: SmplxBody, conversion: Conversion
    ) -> None:
        super().__init__(name=name, body=body, conversion=conversion)
        self.folder = dataset_folder(path, GET) / name

    def requirements(self) -> list[Requirement]:
        """A folder of each kind."""
        folders = [self.folder / kind for kind in ("images", "masks", "cam_params", "smplx_params")]
        return [Requirement(folder, folder.is_dir(), GET) for folder in folders]

    def files(self) -> Iterable[Path]:
        """All of the recording."""
        return self.folder.glob("*/*")

    def read(self) -> Recording:
        """See ``NativeSource``."""
        numbers = sorted(int(path.stem) for path in self.folder.glob("images/*.png"))
        frames = [self._frame(number) for number in numbers]
        return Recording(self.body.zero_identity(), frames[:-NUM_TEST], frames[-NUM_TEST:])

    def _frame(self, number: int) -> NativeFrame:
        image = self.folder / f"images/{number}.png"
        camera = read_camera(self.folder / f"cam_params/{number}.json", *image_size(image))
        pose = read_pose(self.folder / f"smplx_params/{number}.json")
        mask = partial(read_mask, self.folder / f"masks/{number}.png", GET)
        return NativeFrame(str(number), image, camera, pose, mask)
