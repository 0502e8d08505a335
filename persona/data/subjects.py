"""Several subject folders to batches, for methods that learn over people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from persona.data.datamodule import SubjectDataModule
from persona.data.subject import Subject
from persona.errors import UserError


class SubjectsDataModule(SubjectDataModule):
    """Batches that mix frames of several subjects; ``Frame.subject`` says whose each is.

    The training table runs over the splits of the first subject, then of the second, and so on;
    ``captured_ratio`` is the share of all photographs. All frames lie decoded in memory, as those
    of one subject do: ``max_frames`` and ``max_height_px`` bound it.

    Args:
        roots: Subject folders, each of another name.
        learn: Names of the folders whose frames train; those of the others only test. None is all.

    The other arguments are those of every ``SubjectDataModule``.

    Raises:
        UserError: There are no folders, or two of one name, or none of a name in ``learn``.
    """

    def __init__(  # noqa: PLR0913
        self,
        *,
        roots: Sequence[str | Path],
        learn: Sequence[str] | None = None,
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
        self.roots = tuple(Path(root) for root in roots)
        names = [root.resolve().name for root in self.roots]
        if not names:
            raise UserError("data.roots=[]: give subject folders")
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"data.roots: {min(twice)} is there twice; rename one of the folders")
        if unknown := sorted(set(learn or ()) - set(names)):
            raise UserError(f"data.learn: {unknown[0]} is none of data.roots: {', '.join(names)}")
        self.learn = learn
        super().__init__(
            root=self.roots[0], batch_size=batch_size, captured_ratio=captured_ratio,
            captured_repeats=captured_repeats, seed=seed, train_splits=train_splits,
            test_split=test_split, max_frames=max_frames, max_height_px=max_height_px,
            frames_on=frames_on,
        )  # fmt: skip

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """In the order of ``roots``."""
        return tuple(Subject(root) for root in self.roots)

    @property
    def subject(self) -> Subject:
        """The only one.

        Raises:
            UserError: There are several: a system that asks for one cannot train on them.
        """
        if len(self.roots) > 1:
            raise UserError(
                f"data.roots has {len(self.roots)} subjects and this system makes an avatar of "
                "one; give one, or choose a system that learns over people"
            )
        return Subject(self.roots[0])

    def _train_splits_of(self, subject: Subject) -> tuple[str, ...]:
        if self.learn is not None and subject.name not in self.learn:
            return ()
        return super()._train_splits_of(subject)
