"""A synthetic head and edits of it: folders whose truth is exact, as PERSE's are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from persona.data.edit_name import SOURCE
from persona.data.heads.subject import HeadConfig, SyntheticHead
from persona.data.heads.traits import draw_traits, words_of
from persona.data.subjects import SubjectsDataModule
from persona.errors import UserError
from persona.modules.body.head_body import HeadBody

SOURCE_FOLDER = f"9999_{SOURCE}"


class SyntheticEdits(SubjectsDataModule):
    """Batches of a synthetic head and of edits of it, made on first use.

    Args:
        root: Folder of the folders.
        body: Body model of the heads, see ``SyntheticHead``.
        config: The head without edits.
        edits: An attribute and the person it is from, each an edit, as ``hair:5``; -1 takes it off.
        batch_size: Frames a step and process.
        seed: Seed of the order of the batches.
        frames_on: See ``SubjectDataModule``.

    Raises:
        UserError: No such attribute, or one that the head has swapped already.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        body: HeadBody,
        config: HeadConfig,
        edits: Sequence[str],
        batch_size: int = 1,
        seed: int = 0,
        frames_on: str = "auto",
    ) -> None:
        swapped = [read_edit(edit) for edit in edits]
        if twice := {name for name, _ in swapped} & set(config.swaps):
            raise UserError(f"data.edits: {min(twice)} is swapped by data.config.swaps already")
        folder = Path(root)
        self.made = {folder / SOURCE_FOLDER: config}
        for number, (attribute, owner) in enumerate(swapped):
            swaps = {**config.swaps, attribute: owner}
            words = words_of(attribute, draw_traits(config.person, swaps)[attribute])
            name = f"{number:04d}_{attribute}_{words.replace(' ', '_')}"
            self.made[folder / name] = replace(config, swaps=swaps)
        self.body = body
        super().__init__(
            roots=list(self.made), batch_size=batch_size, captured_ratio=None, seed=seed,
            frames_on=frames_on,
        )  # fmt: skip

    def prepare_data(self) -> None:
        """Makes folders that are missing, or of other settings."""
        for root, config in self.made.items():
            SyntheticHead(self.body, config).prepare(root)
        super().prepare_data()


def read_edit(text: str) -> tuple[str, int]:
    """Attribute and owner.

    Raises:
        UserError: It is no such text.
    """
    attribute, _, owner = str(text).partition(":")
    try:
        return attribute, int(owner)
    except ValueError as error:
        raise UserError(f"data.edits: {text} is no attribute:person, such as hair:5") from error
