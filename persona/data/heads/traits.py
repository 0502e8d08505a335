"""Traits of a synthetic head: one draw per attribute, so that each can be swapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.synthetic.paint import colour
from persona.errors import UserError
from persona.modules.body.head_body import HeadBody

ATTRIBUTES = (
    "identity", "hair", "eyebrows", "eyes", "nose", "mouth", "beard", "hat", "eyeglasses",
    "headphones", "cloth",
)  # fmt: skip
"""Those of ``modules.head.attributes`` that synthetic heads have. ``identity`` is the skin and the
shape of all that is no other attribute's: the person."""
SHAPES = {"brow": "eyebrows", "eye": "eyes", "nose": "nose", "mouth": "mouth"}
"""Attribute that the shape coefficients of a part belong to; all others are the identity's."""
REACH = {"identity": 0.25, "eyebrows": 0.5, "eyes": 0.35, "nose": 0.4, "mouth": 0.35}
"""Shape coefficients are drawn between plus and minus this; those of adults, in standard
deviations, between plus and minus one."""
STYLES = {
    "hair": ("short", "bob", "long", "afro", "mohawk", "bun", "bald"),
    "eyebrows": ("straight", "arched", "thick", "thin"),
    "beard": ("none", "full", "goatee", "moustache", "stubble"),
    "hat": ("none", "beanie", "cap", "brimmed"),
    "eyeglasses": ("none", "round", "square", "dark"),
    "headphones": ("none", "plain"),
}
"""Styles of the attributes that have a shape of their own."""
WORN = {"beard": 0.35, "hat": 0.15, "eyeglasses": 0.25, "headphones": 0.05}
"""How often a person has what most have not; a person who is asked for one always has it."""


@dataclass(frozen=True)
class Trait:
    """One attribute of one person."""

    style: str
    hue: float
    """Turns."""
    saturation: float
    value: float
    seed: int
    """Seed of its other random choices."""

    @property
    def rgb(self) -> np.ndarray:
        """Its colour, in [0, 1]."""
        return colour(self.hue, self.saturation, self.value)


@dataclass(frozen=True)
class Traits:
    """All attributes of a head, by name."""

    of: Mapping[str, Trait]
    owners: Mapping[str, int]
    """The person that each is from."""

    def __getitem__(self, attribute: str) -> Trait:
        """One of ``ATTRIBUTES``."""
        return self.of[attribute]


def draw_traits(person: int, swaps: Mapping[str, int]) -> Traits:
    """The attributes of a person, some of them another person's.

    Each attribute depends on its owner's number alone: so what is not swapped stays as it is.

    Args:
        person: Number.
        swaps: Number of the person that an attribute is taken from, by the attribute. One that most
            people lack is then worn, even where that person goes without; -1 takes it off.

    Raises:
        UserError: no such attribute.
    """
    if unknown := sorted(set(swaps) - set(ATTRIBUTES)):
        raise UserError(f"swaps: no attribute {unknown[0]}; choose of {', '.join(ATTRIBUTES)}")
    owners = {name: int(swaps.get(name, person)) for name in ATTRIBUTES}
    traits = {name: _draw(name, owners[name], name in swaps) for name in ATTRIBUTES}
    return Traits(traits, owners)


def _draw(name: str, owner: int, asked: bool) -> Trait:
    rng = np.random.default_rng([max(owner, 0), ATTRIBUTES.index(name)])
    styles = STYLES.get(name, ("plain",))
    worn = rng.uniform() < WORN.get(name, 1.0) or asked
    choices = styles[1:] if name in WORN else styles
    style = str(rng.choice(choices))
    if name in WORN and (owner < 0 or not worn):
        style = "none"
    hue, saturation, value = _tone(name, rng)
    return Trait(style, hue, saturation, value, int(rng.integers(1 << 31)))


def _tone(name: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Hue, saturation and value of an attribute's colour."""
    if name == "identity":
        return rng.uniform(0.045, 0.075), rng.uniform(0.3, 0.55), rng.uniform(0.5, 0.95)
    if name in ("hair", "eyebrows", "beard"):
        return rng.uniform(0.03, 0.12), rng.uniform(0.3, 0.8), rng.choice([0.1, 0.25, 0.45, 0.75])
    if name == "eyes":
        return rng.uniform(0.05, 0.62), 0.55, rng.uniform(0.3, 0.6)
    if name == "mouth":
        return rng.uniform(0.95, 1.02), rng.uniform(0.4, 0.65), rng.uniform(0.5, 0.75)
    if name == "eyeglasses":
        return rng.uniform(0, 1), rng.uniform(0, 0.8), rng.uniform(0.05, 0.4)
    return rng.uniform(0, 1), rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.8)


def shape_coefficients(body: HeadBody, traits: Traits) -> Float[Tensor, "s"]:
    """By each attribute's owner; adults' in standard deviations, others [-1, 1] of a change."""
    betas = torch.zeros(body.num_betas)
    streams = {name: np.random.default_rng([trait.seed, 1]) for name, trait in traits.of.items()}
    for i, name in enumerate(body.shape_names):
        part = name.split(":")[0]
        attribute = SHAPES.get(part, "identity")
        reach = 1.0 if part == "adult" else REACH[attribute]
        betas[i] = float(streams[attribute].uniform(-reach, reach))
    return betas


TONES = ((0.15, "black"), (0.32, "dark brown"), (0.55, "brown"), (1.0, "blond"))
HUES = (
    (15, "red"), (45, "orange"), (70, "yellow"), (165, "green"), (200, "teal"), (260, "blue"),
    (315, "purple"), (345, "pink"), (360, "red"),
)  # fmt: skip
"""Words for hues, each up to so many degrees, with CSS's colours of these names between (its hot
pink: pink is a pale red)."""


def describe(attribute: str, trait: Trait) -> str:
    """A phrase such as ``a person with long black hair``."""
    if trait.style == "none":
        return f"a person without {attribute}"
    return f"a person with {words_of(attribute, trait)} {attribute}"


def words_of(attribute: str, trait: Trait) -> str:
    """What an attribute is like, such as ``long black``; ``no`` where there is none."""
    if trait.style in ("none", "bald"):
        return "no"
    if attribute in ("hair", "eyebrows", "beard"):
        tone = next(word for bound, word in TONES if trait.value <= bound)
        return f"{trait.style} {tone}"
    if attribute in ("identity", "nose"):
        return "another"
    # A hue just below 0 rounds to 360 degrees.
    hue = next((word for bound, word in HUES if trait.hue % 1 * 360 < bound), "red")
    return hue if trait.style == "plain" else f"{trait.style} {hue}"
