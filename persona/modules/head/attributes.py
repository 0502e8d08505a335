"""Attributes of a head: one table for latents, synthetic heads, label maps and commands.

Names are those of PERSE (arXiv:2412.21206) and PEGASUS (arXiv:2402.10636).
"""

from __future__ import annotations

from dataclasses import dataclass

LABELS = (
    "background", "skin", "eyebrows", "eyes", "nose", "mouth", "ears", "hair", "beard", "hat",
    "eyeglasses", "headphones", "cloth",
)  # fmt: skip
"""Classes of a head's label map; a label's number is its place here."""
LABEL_INDEX = {name: index for index, name in enumerate(LABELS)}


@dataclass(frozen=True)
class Attribute:
    """What can be edited about a head."""

    labels: tuple[str, ...]
    """Those of ``LABELS`` whose pixels show it; empty if label maps do not distinguish it."""
    perse: bool = False
    """Whether PERSE has a slot for it."""
    pegasus: bool = False
    """Whether PEGASUS has."""
    worn: bool = False
    """Whether a person can lack it: the person as photographed then has no code for it."""


ATTRIBUTES = {
    "identity": Attribute(("skin", "ears"), pegasus=True),
    "beard": Attribute(("beard",), perse=True, worn=True),
    "cloth": Attribute(("cloth",), perse=True),
    "earrings": Attribute((), perse=True, worn=True),
    "ears": Attribute(("ears",), pegasus=True),
    "eyebrows": Attribute(("eyebrows",), perse=True, pegasus=True),
    "eyes": Attribute(("eyes",), pegasus=True),
    "hair": Attribute(("hair",), perse=True, pegasus=True),
    "hat": Attribute(("hat",), perse=True, pegasus=True, worn=True),
    "headphones": Attribute(("headphones",), perse=True, worn=True),
    "mouth": Attribute(("mouth",), perse=True, pegasus=True),
    "nose": Attribute(("nose",), perse=True, pegasus=True),
    "eyeglasses": Attribute(("eyeglasses",), pegasus=True, worn=True),
    "skin": Attribute(("skin", "ears"), perse=True),
}
"""In the order of the methods' slots."""

PERSE_CATEGORIES = tuple(name for name, a in ATTRIBUTES.items() if a.perse)
PEGASUS_CATEGORIES = tuple(name for name, a in ATTRIBUTES.items() if a.pegasus)
PERSE_SOURCE = tuple(name for name in PERSE_CATEGORIES if not ATTRIBUTES[name].worn)
PEGASUS_SOURCE = tuple(name for name in PEGASUS_CATEGORIES if not ATTRIBUTES[name].worn)
"""Those that the person as photographed has."""
SOURCE = "source"
"""Name of the category of the unedited person."""
