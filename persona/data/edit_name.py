"""Names of edits' subject folders, as PERSE and PEGASUS use them, and what they mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from persona.modules.head.attributes import SOURCE

ORIGINAL = "original"
"""PEGASUS's word for it."""


_BETWEEN = re.compile(r"between (\d+) (\d+) (\d+)of(\d+)")


class Between(NamedTuple):
    """Where an edit lies between two others."""

    first: int
    second: int
    """Places of both among all folders of a training."""
    share: float
    """Share of the second, (0, 1)."""


@dataclass(frozen=True)
class EditName:
    """An edit in words."""

    category: str
    """Attribute that it changes; ``source`` for the person as photographed."""
    words: str
    """The new appearance, such as ``curly auburn thick``."""

    @property
    def prompt(self) -> str:
        """Sentence for an encoder of words."""
        if self.category == SOURCE:
            return "A person"
        return f"A person with {self.words} {self.category}" if self.words else self.category

    @property
    def between(self) -> Between | None:
        """The two edits that it lies between; None for an edit of its own."""
        if (found := _BETWEEN.fullmatch(self.words)) is None:
            return None
        first, second, step, steps = map(int, found.groups())
        return Between(first, second, step / steps)


def between_name(number: int, category: str, ends: tuple[int, int], step: int, steps: int) -> str:
    """Folder of what lies ``step / steps`` of the way from one edit to another."""
    return f"{number:04d}_{category}_between_{ends[0]}_{ends[1]}_{step}of{steps}"


def read_edit_name(name: str) -> EditName:
    """``0012_hair_curly_auburn`` or ``hair_curly_auburn``; ``9999_source``, ``original_anna``.

    ``0012_hair_between_1_3_2of6`` lies a third of the way from folder 1 to folder 3.
    """
    fields = name.split("_")
    if len(fields) > 1 and fields[0].isdigit():
        fields = fields[1:]
    category = SOURCE if fields[0] == ORIGINAL else fields[0]
    return EditName(category, " ".join(fields[1:]))
