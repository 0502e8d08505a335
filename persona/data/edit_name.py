"""What the name of an edit's subject folder says, as PERSE and PEGASUS name them."""

from __future__ import annotations

from dataclasses import dataclass

from persona.modules.head.attributes import SOURCE

ORIGINAL = "original"
"""PEGASUS's word for it."""


@dataclass(frozen=True)
class EditName:
    """An edit in words."""

    category: str
    """Attribute that it changes; ``source`` for the person as photographed."""
    words: str
    """What it is changed to, such as ``curly auburn thick``."""

    @property
    def prompt(self) -> str:
        """Sentence for an encoder of words."""
        if self.category == SOURCE:
            return "A person"
        return f"A person with {self.words} {self.category}" if self.words else self.category


def read_edit_name(name: str) -> EditName:
    """``0012_hair_curly_auburn`` or ``hair_curly_auburn``; ``9999_source``, ``original_anna``."""
    fields = name.split("_")
    if len(fields) > 1 and fields[0].isdigit():
        fields = fields[1:]
    category = SOURCE if fields[0] == ORIGINAL else fields[0]
    return EditName(category, " ".join(fields[1:]))
