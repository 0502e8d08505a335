"""How a dressed person looks: a texture or a print per slot, skin tone, folds and light."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, UInt8
from torch import Tensor

from persona.data.people.assets import Assets, Outfit
from persona.data.people.dressed import SLOTS
from persona.modules.avatar.light import GAMMA
from persona.types import TensorTuple

KEEP, RECOLOUR, PLAIN, STRIPES, CHECKS, DOTS, BLOTCHES = range(7)
"""How a slot's colour is made of its texture and its three inks."""
_PATTERN_ODDS = (0.0, 0.3, 0.2, 0.17, 0.1, 0.08, 0.15)
_WAVES = 12
_FINER = 4.0
"""Blotches of skin are so many times finer than those of prints."""
_SLEEVE_M = 0.19
"""Beyond this distance from the middle, rings run around the arm and not around the trunk."""


@dataclass(frozen=True)
class Look(TensorTuple):
    """One person's looks under one light; rows by slot."""

    texture: Int[Tensor, "slot"]
    """Row of the textures."""
    pattern: Int[Tensor, "slot"]
    """``KEEP`` to ``BLOTCHES``."""
    ink: Float[Tensor, "slot 3 3"]
    """Ground, second and third colour, linear RGB."""
    period_m: Float[Tensor, "slot"]
    """Period of a pattern; negative for stripes that run upwards."""
    gain: Float[Tensor, "slot 3"]
    """Factor of a kept texture."""
    mottle: Float[Tensor, "slot"]
    """How blotched a kept texture is, as skin is by age, sun and shade."""
    wave: Float[Tensor, "12 4"]
    """Frequencies (radians a metre) and phase of smooth noise on the body."""
    fold: Float[Tensor, ""]
    """How far folds tilt the normals of cloth."""
    ambient: Float[Tensor, "3"]
    lamp: Float[Tensor, "2 3"]
    """Unit directions to two lamps, camera frame, x right, y up, z to the camera."""
    lamp_colour: Float[Tensor, "2 3"]
    gloss: Float[Tensor, ""]


def random_colour(rng: np.random.Generator) -> Float64[np.ndarray, "3"]:
    """Linear RGB: a third near grey, with black and white as common as they are in clothes."""
    value = float(
        np.clip(rng.choice([rng.uniform(0.02, 0.2), rng.uniform(), rng.uniform(0.85, 1)]), 0, 1)
    )
    saturation = rng.uniform(0, 0.12) if rng.uniform() < 0.4 else rng.uniform(0.1, 0.95)
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), saturation, value)) ** GAMMA


def random_look(
    assets: Assets, outfit: Outfit, rng: np.random.Generator, plain_light: bool = False
) -> Look:
    """Draws textures, prints and light.

    Args:
        assets: Holds the textures; ``print`` are for any cloth and ``strands`` for closed hair.
        outfit: Which textures its garments have of their own.
        rng: Source of chance.
        plain_light: Use even, white light, as in the given people's pictures.
    """
    count = len(SLOTS)
    texture, pattern = np.zeros(count, int), np.full(count, RECOLOUR)
    ink = np.stack([[random_colour(rng) for _ in range(3)] for _ in range(count)])
    period, gain = rng.uniform(0.03, 0.14, count), np.ones((count, 3))
    mottle = np.zeros(count)
    prints = assets.texture_of["print"]
    for row, slot in enumerate(SLOTS):
        if slot in ("skin", "eyes"):
            texture[row] = int(rng.choice(assets.texture_of[slot]))
            pattern[row] = KEEP
            gain[row] = rng.uniform(0.55, 1.4) * rng.uniform(0.85, 1.15, 3)
            mottle[row] = rng.uniform(0, 0.18) * (slot == "skin")
        elif slot == "hair":
            texture[row] = outfit.own.get(slot, int(rng.choice(assets.texture_of["strands"])))
            pattern[row] = KEEP if rng.uniform() < 0.3 and slot in outfit.own else RECOLOUR
            ink[row] = _hair_colour(rng)
        else:
            has = slot in outfit.own
            texture[row] = outfit.own[slot] if has else int(rng.choice(prints))
            pattern[row] = int(rng.choice(len(_PATTERN_ODDS), p=_PATTERN_ODDS))
            if rng.uniform() < (0.4 if has else 0.5):
                pattern[row] = KEEP
        if rng.uniform() < 0.5 and slot in ("upper", "lower"):
            period[row] *= -1
    wave = rng.normal(size=(_WAVES, 4)) * np.array([22, 22, 22, 3.0])
    direction = rng.normal(size=(2, 3)) + np.array([0, 0.5, 0.9])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    strength = 0.0 if plain_light else rng.uniform(0, 1)
    tint = 1 + (0 if plain_light else 0.16) * rng.normal(size=(3, 3))
    ambient = (0.75 - 0.5 * strength) * tint[0]
    lamps = np.array([[0.6], [0.3]]) * (0.4 + strength) * tint[1:] * rng.uniform(0.5, 1.2, (2, 1))
    values = (
        texture, pattern, ink, period, gain, mottle, wave, rng.uniform(0, 0.35), ambient, direction,
        lamps, rng.uniform(0, 0.15),
    )  # fmt: skip
    tensors = [torch.as_tensor(np.asarray(v)) for v in values]
    return Look(*(t.float() if t.is_floating_point() else t for t in tensors))


def _hair_colour(rng: np.random.Generator) -> np.ndarray:
    """Black to blond, red, grey, white, or dyed."""
    if rng.uniform() < 0.08:
        one = random_colour(rng)
    else:
        hue, saturation = rng.uniform(0.02, 0.13), rng.uniform(0, 0.75)
        one = np.array(colorsys.hsv_to_rgb(hue, saturation, rng.uniform(0.05, 0.95))) ** GAMMA
    return np.stack([one] * 3)


def albedo(
    look: Look,
    slot: Int[Tensor, "k"],
    texel: Float[Tensor, "k 3"],
    surface: Float[Tensor, "k 3"],
) -> Float[Tensor, "k 3"]:
    """Linear colour of surface points.

    Args:
        look: The person's.
        slot: Slot of each point.
        texel: Its garment's own texture, sRGB in [0, 1].
        surface: Its place on the template, metres.
    """
    own = texel.clamp(min=1e-4) ** GAMMA
    ground, second, third = look.ink[slot].unbind(1)
    side = surface[:, 0].abs()
    ring = torch.where(side > _SLEEVE_M, side, surface[:, 1])
    period = look.period_m[slot]
    upright = torch.where(side > _SLEEVE_M, surface[:, 1], surface[:, 0])
    along = torch.where(period > 0, ring, upright) / period.abs()
    across = torch.where(period > 0, upright, ring) / period.abs()
    stripe = (along % 1 < 0.4)[:, None]
    band = (along % 2 < 0.25)[:, None]
    check = ((along % 1 < 0.5) ^ (across % 1 < 0.5))[:, None]
    dot = (((along % 1) - 0.5) ** 2 + ((across % 1) - 0.5) ** 2 < 0.07)[:, None]
    noise = smooth_noise(look, surface)[:, None]
    grey = own.mean(-1, keepdim=True)
    blotch = 1 + look.mottle[slot][:, None] * smooth_noise(look, surface * _FINER)[:, None]
    kinds = (
        own * look.gain[slot] * blotch,
        ground * (0.35 + 2.2 * grey).clamp(max=1.6),
        ground,
        torch.where(band, third, torch.where(stripe, second, ground)),
        torch.where(check, second, ground),
        torch.where(dot, second, ground),
        torch.where(noise > 0.6, third, torch.where(noise > -0.2, second, ground)),
    )
    pattern = look.pattern[slot]
    out = kinds[0]
    for index, kind in enumerate(kinds):
        out = torch.where((pattern == index)[:, None], kind, out)
    # Black cloth still reflects a little.
    return out.clamp(0.004, 1)


def smooth_noise(look: Look, surface: Float[Tensor, "k 3"]) -> Float[Tensor, "k"]:
    """Sum of waves over the body, of about unit variance."""
    return (surface @ look.wave[:, :3].T + look.wave[:, 3]).sin().sum(-1) / math.sqrt(_WAVES / 2)


def folded(
    look: Look, normal: Float[Tensor, "k 3"], surface: Float[Tensor, "k 3"]
) -> Float[Tensor, "k 3"]:
    """Normals tilted by the gradient of smooth noise, as folds tilt them."""
    slope = (surface @ look.wave[:, :3].T + look.wave[:, 3]).cos() @ look.wave[:, :3]
    tilted = normal + look.fold * slope / 22.0
    return torch.nn.functional.normalize(tilted, dim=-1)


def shade(
    look: Look, colour: Float[Tensor, "k 3"], normal: Float[Tensor, "k 3"]
) -> Float[Tensor, "k 3"]:
    """Lambert's law with a little gloss; linear colour in, sRGB in [0, 1] out.

    normal: camera frame, x right, y up, z to the camera.
    """
    facing = (normal @ look.lamp.T).clamp(min=0)
    light = look.ambient + facing @ look.lamp_colour
    half = torch.nn.functional.normalize(look.lamp + look.lamp.new_tensor([0, 0, 1.0]), dim=-1)
    shine = look.gloss * ((normal @ half.T).clamp(min=0) ** 24) @ look.lamp_colour
    return ((colour * light + shine).clamp(1e-6, 1)) ** (1 / GAMMA)


def texture_values(
    textures: UInt8[Tensor, "t s s 4"], row: Int[Tensor, "k"], coords: Float[Tensor, "k 2"]
) -> Float[Tensor, "k 4"]:
    """Bilinear RGBA in [0, 1] at texture coordinates that wrap."""
    side = textures.shape[1]
    place = coords * side - 0.5
    low = place.floor()
    share = (place - low)[..., None]
    column, line = low.long().unbind(-1)
    total = coords.new_zeros(len(coords), 4)
    for dx in (0, 1):
        for dy in (0, 1):
            weight = (share[:, 0] if dx else 1 - share[:, 0]) * (
                share[:, 1] if dy else 1 - share[:, 1]
            )
            texel = textures[row, (line + dy) % side, (column + dx) % side].float() / 255
            total = total + weight * texel
    return total
