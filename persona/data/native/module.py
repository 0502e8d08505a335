"""The data module of published datasets: their options lie flat on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from persona.data.datamodule import SubjectDataModule
from persona.data.layout import CAPTURED
from persona.data.native.source import FRONT, VIDEO, NativeSource
from persona.errors import UserError


class DatasetModule(SubjectDataModule):
    """Batches of one recording of a dataset.

    Native layouts are converted by the source. A folder PATH/NAME that is PERSONA's subject already
    (it holds ``captured``) is used as it is.

    Args:
        path: Folder of the dataset's recordings.
        source: Reads one of them; its options repeat those here (conf/data/neuman.yaml), which lie
            flat for the command line.
        setting: ``single_image`` or ``video``.
        input_frame: Which frame the avatar is made from.
        root: Where the converted subject lies.
        sequence: The recording's name; X-Humans says ``subject``.
        subject: The same.

    The other arguments are those of every ``SubjectDataModule``.

    Raises:
        UserError: a folder of PERSONA's was not made as asked for.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        path: str | Path,
        source: NativeSource,
        setting: str,
        input_frame: str | int,
        root: str | Path,
        sequence: str | None = None,
        subject: str | int | None = None,
        batch_size: int = 1,
        captured_ratio: float | None = 0.5,
        captured_repeats: int = 1,
        seed: int = 0,
        train_splits: Sequence[str] | None = None,
        test_split: str = "auto",
        max_frames: int | None = None,
        max_height_px: int | None = None,
        frames_on: str = "auto",
    ) -> None:
        made = Path(path) / source.name
        ready = (made / CAPTURED).is_dir()
        super().__init__(
            root=made if ready else root,
            source=None if ready else source,
            batch_size=batch_size,
            captured_ratio=captured_ratio,
            captured_repeats=captured_repeats,
            seed=seed,
            train_splits=train_splits,
            test_split=test_split,
            max_frames=max_frames,
            max_height_px=max_height_px,
            frames_on=frames_on,
        )
        if ready:
            self._check_protocol(setting, str(input_frame), source)

    def _check_protocol(self, setting: str, input_frame: str, source: NativeSource) -> None:
        """Refuses a folder that was not made as asked for."""
        names = self.subject.original_names(CAPTURED)
        if setting == VIDEO and len(names) == 1:
            raise UserError(f"{self.root}: was made from one image; use data.setting=single_image")
        if input_frame != FRONT and source.label(input_frame) not in names:
            raise UserError(
                f"{self.root}: was made from frame {', '.join(names)}; leave data.input_frame out"
            )
