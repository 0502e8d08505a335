"""One self-contained page that shows the avatar: data, viewer and nothing from elsewhere."""

import base64
import gzip
import html
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from persona.data.export.scene import RiggedSplats, Scene, xyzw
from persona.data.io import write_text

BONES = 4
"""Bones that the viewer blends for each Gaussian."""
SCRIPTS = ("order.js", "viewer.js")
FIELD_OF_VIEW = np.deg2rad(28)
"""Vertical; the viewer's."""


def write_html(scene: Scene, path: Path) -> None:
    """Writes the page: rig, motion and viewer (``assets/*.js``), compressed, in base 64.

    It loads nothing from the network, and its security policy forbids it.
    """
    rig, assets = scene.rigged(), files("persona.data.export") / "assets"
    arrays, rows = _arrays(scene, rig)
    table, data = _laid_out(arrays)
    middle, radius = _bounds(rig)
    meta = {
        "count": len(rig.splats.means),
        "parents": rig.parents,
        "expressions": [
            {"name": name, "rows": row}
            for name, row in zip(rig.expression_names, rows, strict=True)
        ],
        "frames": len(scene.clip),
        "fps": scene.clip.fps,
        "light": None if rig.lighting is None else rig.lighting.harmonics.tolist(),
        "round": bool(np.ptp(rig.splats.scales, axis=1).max() == 0),
        "center": (middle + scene.clip.trans.mean(0)).tolist(),
        "distance": float(1.1 * radius / np.tan(FIELD_OF_VIEW / 2)),
        "arrays": table,
    }
    parts = {
        "title": html.escape(scene.name),
        # A name must not close the script element.
        "meta": json.dumps(meta).replace("<", "\\u003c"),
        "data": base64.b64encode(gzip.compress(data, 6, mtime=0)).decode(),
        "script": "\n".join((assets / name).read_text() for name in SCRIPTS),
    }
    page = (assets / "viewer.html").read_text()
    for name, text in parts.items():
        page = page.replace("{{" + name + "}}", text)
    write_text(path, page)


def _arrays(scene: Scene, rig: RiggedSplats) -> tuple[dict[str, ndarray], list[list[int]]]:
    """What the viewer reads, by name, and the rows of ``dirs`` of each expression."""
    splats, clip = rig.splats, scene.clip
    missing = max(0, BONES - rig.skin.bones.shape[1])
    weights = np.pad(rig.skin.weights, ((0, 0), (0, missing)))[:, :BONES]
    moved = [np.flatnonzero(direction.any(1)) for direction in rig.expression_dirs]
    starts = np.cumsum([0, *map(len, moved)])
    empty = [np.zeros((0, 3), np.float32)]
    dirs = [d[rows] for d, rows in zip(rig.expression_dirs, moved, strict=True)]
    shown = np.concatenate([splats.rgb, splats.opacities[:, None]], 1)
    lit = {} if rig.lighting is None else {"normals": _as_bytes(rig.lighting.normals / 2 + 0.5)}
    arrays = {
        "means": splats.means,
        "scales": splats.scales,
        "turns": xyzw(splats.quaternions),
        "skin": weights / weights.sum(1, keepdims=True),
        "offsets": rig.offsets,
        "binds": rig.inverse_binds[:, :3],
        "rotations": clip.rotations,
        "trans": clip.trans,
        "weights": clip.expression,
        "rows": np.concatenate([*moved, np.zeros(0, int)]).astype(np.uint32),
        "dirs": np.concatenate([*dirs, *empty]),
        "colors": _as_bytes(shown),
        "joints": np.pad(rig.skin.bones, ((0, 0), (0, missing)))[:, :BONES].astype(np.uint8),
        **lit,
    }
    return arrays, [[int(a), len(m)] for a, m in zip(starts, moved, strict=False)]


def _as_bytes(shares: Float[ndarray, "*b"]) -> UInt8[ndarray, "*b"]:
    return (shares * 255).round().astype(np.uint8)


def _laid_out(arrays: dict[str, ndarray]) -> tuple[list[list], bytes]:
    """Name, kind, first byte and length of each array, and all of them one after the other."""
    table: list[list] = []
    data = bytearray()
    for name, array in arrays.items():
        kind = array.dtype.str[1:]
        table.append([name, kind, len(data), array.size])
        data += np.ascontiguousarray(array).tobytes()
        data += b"\0" * (-len(data) % 4)
    return table, bytes(data)


def _bounds(rig: RiggedSplats) -> tuple[ndarray, float]:
    """Middle and half height of the person as bound."""
    low, high = rig.splats.means.min(0), rig.splats.means.max(0)
    return (low + high) / 2, float((high - low)[1] / 2)
