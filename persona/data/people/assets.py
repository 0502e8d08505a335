"""What people can wear: MakeHuman's CC0 assets in a folder, and the project's own wardrobe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.data.people.dressed import SLOTS, Dressed, dress
from persona.data.people.makehuman import read_wearable
from persona.data.people.wearable import Wearable, follow_shape, tailored
from persona.data.synthetic import paint
from persona.data.synthetic.surface import cut, drape
from persona.data.synthetic.wardrobe import (
    OUTFITS,
    Piece,
    RestBody,
    Style,
    dressed_faces,
    hair,
    hair_field,
    shirt,
    shoes,
    trousers,
)
from persona.errors import UserError
from persona.modules.body.joints import EYES, LEFT_HIP, NECK
from persona.modules.body.smplx_body import SmplxBody

SIDE = 512
"""Texels across each texture."""
_EYES = "eyes/high-poly.mhclo"
_REMEDY = "give MakeHuman's assets: clothes, hair, skins, eyes"
_OWN = {"upper": shirt, "lower": trousers, "shoes": shoes, "hair": hair}
_LONG_HAIR = 0.22
_TAILORED = 0.5
"""Share of MakeHuman's clothes that are cut shorter."""
_CUTS = {
    "sleeve": (-0.9, 0.96), "hem_m": (0.06, 0.5), "flare_m": (0.02, 0.16), "trouser": (-0.85, 0.97),
    "hair_m": (0.008, 0.06),
}  # fmt: skip
"""Ranges of the cuts of the project's own wardrobe; wider than those of any single outfit."""
_LONG_SKIRT = {"hem_m": (0.5, 0.8), "flare_m": (0.04, 0.3)}
"""Cuts of a dress that ends between knee and ankle."""
_UNDER_SKIRT_M = 0.08
"""Legs are left out from this far above the hem upwards: they would poke through the skirt."""


@dataclass(frozen=True)
class Assets:
    """Wearables and textures by kind, on one device."""

    clothes: list[Wearable]
    shoes: list[Wearable]
    hair: list[Wearable]
    eyes: Wearable
    textures: UInt8[Tensor, "t s s 4"]
    """RGBA, all textures of all slots."""
    texture_of: dict[str, list[int]]
    """Rows of ``textures`` by slot; an item's own come in the order of the items."""


def read_assets(folder: str | Path, body: SmplxBody) -> Assets:
    """Reads a folder with ``clothes``, ``hair``, ``skins`` and ``eyes``.

    Shoes are the clothes whose name holds "shoe". A texture lies beside its ``.mhclo`` as
    ``*_diffuse.png``, optionally darkened by ``*_ao.png``.

    Raises:
        UserError: The folder lacks one of the kinds, or a file is damaged.
    """
    folder = Path(folder)
    kinds: dict[str, list[Path]] = {
        "shoes": sorted(folder.glob("clothes/*shoe*")),
        "clothes": [p for p in sorted(folder.glob("clothes/*")) if "shoe" not in p.name],
        "hair": sorted(folder.glob("hair/*")),
    }
    skins = sorted(folder.glob("skins/*.png"))
    for kind, found in (kinds | {"skins": skins}).items():
        if not found:
            raise UserError(f"{folder}: no {kind}; {_REMEDY}")
    worn = {k: [read_wearable(path, body, k) for path in paths] for k, paths in kinds.items()}
    textures: list[UInt8[np.ndarray, "s s 4"]] = []
    texture_of: dict[str, list[int]] = {name: [] for name in SLOTS}
    slots = {"clothes": ("upper", "lower"), "shoes": ("shoes",), "hair": ("hair",)}
    for kind, paths in kinds.items():
        for path in paths:
            for slot in slots[kind]:
                texture_of[slot].append(len(textures))
            textures.append(_texture(_only(path, "*_diffuse.png")))
    for path in skins:
        texture_of["skin"].append(len(textures))
        textures.append(_texture(path))
    texture_of["eyes"].append(len(textures))
    textures.append(_texture(_only(folder, "eyes/*.png")))
    return Assets(
        **worn, eyes=read_wearable(folder / _EYES, body, "eyes"),
        textures=torch.from_numpy(np.stack(textures)), texture_of=texture_of,
    )  # fmt: skip


def _only(folder: Path, pattern: str) -> Path:
    """The first file of a pattern."""
    found = next(iter(sorted(folder.glob(pattern))), None)
    if found is None:
        raise UserError(f"{folder}: no {pattern}; {_REMEDY}")
    return found


def _texture(file: Path) -> UInt8[np.ndarray, "s s 4"]:
    """RGBA of one side length, darkened by the ambient occlusion beside it."""
    pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UserError(f"{file}: not an image; {_REMEDY}")
    pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGRA if pixels.ndim == 2 else cv2.COLOR_BGR2RGBA
                          if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)  # fmt: skip
    pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    shade = file.with_name(file.name.replace("_diffuse", "_ao"))
    if shade != file and shade.is_file():
        dark = cv2.imread(str(shade), cv2.IMREAD_GRAYSCALE)
        if dark is None:
            raise UserError(f"{shade}: not an image; {_REMEDY}")
        grey = cv2.resize(dark, (SIDE, SIDE))
        pixels[..., :3] = (pixels[..., :3] * (grey[..., None] / 255.0)).astype(np.uint8)
    return pixels


@dataclass(frozen=True)
class Outfit:
    """A dressed mesh and which textures are made for it."""

    mesh: Dressed
    own: dict[str, int]
    """Row of the texture of a slot's garment; slots without one take any print."""


def random_outfit(
    assets: Assets,
    body: SmplxBody,
    rng: np.random.Generator,
    own: float = 0.5,
    long_skirts: float = 0.0,
) -> Outfit:
    """Clothes, shoes and hair at random.

    Args:
        assets: Clothes to choose from.
        body: The packaged body.
        rng: Source of chance.
        own: Share of people in the project's own wardrobe instead of MakeHuman's clothes.
        long_skirts: Share of those whose dress ends below the knee. At 0 a seed gives the same
            person as before this option existed.
    """
    worn: list[tuple[Wearable, int | None]] = [(assets.eyes, SLOTS.index("eyes"))]
    textures = {"eyes": assets.texture_of["eyes"][0]}
    if rng.uniform() < own:
        ranges = _CUTS if rng.uniform() < 0.7 else OUTFITS[rng.choice(list(OUTFITS))]
        if long_skirts and rng.uniform() < long_skirts:
            ranges = {**ranges, **_LONG_SKIRT}
        style = Style(**{name: rng.uniform(*ends) for name, ends in ranges.items()})
        bare = [k for k, p in (("lower", 0.05), ("shoes", 0.5), ("hair", 0.7)) if rng.uniform() < p]
        if style.hem_m >= _LONG_SKIRT["hem_m"][0]:
            bare.append("lower")
        worn += _own_clothes(body, style, [k for k in _OWN if k not in bare])
    else:
        bare = ["shoes", "hair"]
        index = int(rng.integers(len(assets.clothes)))
        clothes = assets.clothes[index]
        if rng.uniform() < _TAILORED:
            clothes = tailored(clothes, body, *_random_cuts(body, rng))
        worn.append((clothes, None))
        for slot in ("upper", "lower"):
            textures[slot] = assets.texture_of[slot][index]
    if "hair" in bare and rng.uniform() < _LONG_HAIR:
        style = Style(0.0, 0.0, 0.0, 0.0, hair_m=rng.uniform(0.015, 0.045))
        worn += _own_clothes(body, style, ["long_hair"])
        bare.remove("hair")
    for slot, items, share in (("shoes", assets.shoes, 0.88), ("hair", assets.hair, 0.93)):
        if slot in bare and rng.uniform() < share:
            index = int(rng.integers(len(items)))
            worn.append((items[index], None))
            textures[slot] = assets.texture_of[slot][index]
    return Outfit(dress(body, worn), textures)


def _random_cuts(body: SmplxBody, rng: np.random.Generator) -> tuple[float, float, float]:
    """Sleeve, hem and trouser leg of shortened clothes; half of each stays as it is."""
    joints = body.joint_regressor @ body.template
    shoulder, wrist = (float(joints[j, 0].abs()) for j in (16, 20))
    hip, chest, ankle = (float(joints[j, 1]) for j in (1, 9, 7))
    whole = rng.uniform(size=3) < (0.4, 0.65, 0.5)
    cuts = (
        rng.uniform(shoulder - 0.02, wrist), rng.uniform(hip + 0.1, chest - 0.03),
        rng.uniform(ankle + 0.05, hip - 0.1),
    )  # fmt: skip
    ends = (9.0, -9.0, -9.0)
    sleeve, hem, leg = (e if w else c for e, w, c in zip(ends, whole, cuts, strict=True))
    return sleeve, hem, leg


def _own_clothes(
    body: SmplxBody, style: Style, kinds: list[str]
) -> list[tuple[Wearable, int | None]]:
    """The project's own wardrobe as wearables."""
    template, joints = body.shape(body.zero_identity())
    rest = RestBody(
        template.double().numpy(), joints.double().numpy(), body.weights.double().numpy(),
        body.faces.numpy(), body.keypoints(template, joints).double().numpy(),
    )  # fmt: skip
    out: list[tuple[Wearable, int | None]] = []
    hides = torch.zeros(len(body.faces), dtype=torch.bool)
    if "lower" in kinds and "shoes" in kinds:
        hides = torch.from_numpy(dressed_faces(rest, style))
    if "lower" not in kinds and style.hem_m >= _LONG_SKIRT["hem_m"][0]:
        hip = rest.joints[LEFT_HIP, 1]
        height = template[body.faces][..., 1]
        below, above = hip - style.hem_m + _UNDER_SKIRT_M, hip - 0.02
        hides = ((height > below) & (height < above)).all(1)
    for kind in kinds:
        piece = long_hair(rest, style) if kind == "long_hair" else _OWN[kind](rest, style)
        points = torch.from_numpy(piece.vertices).float()
        weights = torch.from_numpy(piece.weights).float()
        out.append((
            Wearable(
                points, follow_shape(body, points), weights / weights.sum(1, keepdim=True),
                torch.from_numpy(piece.faces).long(), torch.from_numpy(piece.coords).float(),
                torch.from_numpy(piece.part).long(), hides,
            ),
            None,
        ))  # fmt: skip
    return out


def long_hair(body: RestBody, style: Style) -> Piece:
    """Hair over neck, shoulders and back, longer the thicker it is."""
    points, eye = body.vertices, body.joints[list(EYES)].mean(0)
    neck = body.joints[NECK]
    end = neck[1] + 0.04 - 8 * (style.hair_m - 0.012)
    aside = np.abs(points[:, 0] - neck[0])
    behind = neck[2] + 0.02 - points[:, 2] + 0.8 * (aside - 0.05).clip(0, 0.06)
    fall = np.minimum(points[:, 1] - end, np.minimum(behind, 0.15 - aside))
    fall = np.where(points[:, 1] < eye[1] - 0.02, fall, -1.0)
    sheet = cut(body.faces, np.maximum(hair_field(body, style), fall))
    skin, weights = sheet.features(body.vertices), sheet.features(body.weights)
    # Over a collar or a jacket, not under it.
    thickness = style.hair_m + 0.03 * (skin[:, 1] < neck[1])
    cloth = drape(skin, sheet.faces, thickness, rounds=8)
    coords = np.stack((np.arctan2(cloth[:, 0], cloth[:, 2] - neck[2]), -3 * cloth[:, 1]), 1)
    return Piece(
        "hair", cloth, weights, sheet.faces, coords[sheet.faces], ("hair",) * len(sheet.faces),
        np.full(len(sheet.faces), PART_INDEX["Hair"]),
    )  # fmt: skip


def strands(rng: np.random.Generator, count: int) -> UInt8[Tensor, "t s s 4"]:
    """Textures of hair without holes, grey: for hair that is a closed surface."""
    grey = [paint.hair(rng, np.full(3, 0.55, np.float32)) for _ in range(count)]
    return torch.stack([_opaque(image) for image in grey])


def _opaque(image: np.ndarray) -> UInt8[Tensor, "s s 4"]:
    size = (SIDE, SIDE)
    small = cv2.resize((image * 255).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.dstack((small, np.full(size, 255, np.uint8))))


def prints(rng: np.random.Generator, count: int) -> UInt8[Tensor, "t s s 4"]:
    """Painted cloth: badges, stripes, dots, zigzags, denim; RGBA."""
    out = []
    for index in range(count):
        hue, outfit = rng.uniform(), str(rng.choice(list(OUTFITS)))
        make = (paint.shirt, paint.sleeve)[index % 2]
        out.append(_opaque(paint.trousers(rng, hue) if index % 5 == 4 else make(rng, hue, outfit)))
    return torch.stack(out)
