"""A frame's maps as PNG, depth and normals in 16 bits; PERSONA's raw arrays are read too.

Depth lies between its own least and greatest value, which the file's text fields hold: a step is
under 0.1 mm for a person in a room. A normal's components lie between -1 and 1.
"""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image, PngImagePlugin

from persona.data.io import PathLike, write_bytes, write_npy, write_png
from persona.data.layout import FRAME_FILES, MAPS
from persona.data.numbers import number
from persona.data.palette import classes_from_colours
from persona.data.parameters import REMEDY
from persona.errors import UserError

_STEPS = 65535
_NORMAL_STEPS = 65534
"""An even number: a component of 0 is exact."""
_COMPRESSION = 3
FORMS = ("compact", "raw")


def map_path(split: Path, kind: str, number: int) -> Path:
    """Where a frame's map lies, in either form.

    A missing map gets the form of the split's depth.
    """
    spec = MAPS[kind]
    raw = split / spec.file.format(number)
    if not spec.compact:
        return raw
    compact = split / spec.compact.format(number)
    if compact.exists() or (not raw.exists() and any((split / "depths").glob("*.png"))):
        return compact
    return raw


def write_map(
    split: Path,
    kind: str,
    number: int,
    values: Shaped[np.ndarray, "h w *c"],
    form: str = "compact",
) -> None:
    """Writes one map of a frame in one form, and removes the other.

    Args:
        split: The split's folder.
        kind: A kind in ``MAPS``.
        number: Number of the frame.
        values: The map, finite.
        form: One of ``FORMS``; raw is PERSONA's.
    """
    spec = MAPS[kind]
    raw, compact = (split / file.format(number) for file in (spec.file, spec.compact))
    if not spec.compact:
        _write_plain(raw, values)
    elif form == "raw":
        _write_plain(raw, values)
        compact.unlink(missing_ok=True)
    else:
        if values.dtype == bool:
            write_png(compact, values)
        else:
            write_bytes(compact, _normal_png(values) if spec.unit else _depth_png(values))
        raw.unlink(missing_ok=True)


def _write_plain(path: Path, values: Shaped[np.ndarray, "h w *c"]) -> None:
    (write_npy if path.suffix == ".npy" else write_png)(path, values)


def write_classes(
    split: Path, number: int, seg: UInt8[np.ndarray, "h w 3"], form: str = "compact"
) -> None:
    """Writes the class of each pixel for PERSONA's own code; here only the colours are read."""
    path = split / FRAME_FILES["seg_classes"].format(number)
    if form == "raw":
        write_npy(path, classes_from_colours(seg))
    else:
        path.unlink(missing_ok=True)


def read_compact(path: PathLike, kind: str) -> Float32[np.ndarray, "h w *c"]:
    """Reads a 16-bit map.

    Raises:
        UserError: missing, truncated, or not such a map.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {REMEDY}")
    try:
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # An empty file.
        pixels = None
    if pixels is None:
        raise UserError(f"{path}: broken or truncated image; {REMEDY}")
    if pixels.dtype != np.uint16 or pixels.ndim != (2 if MAPS[kind].channels == 1 else 3):
        raise UserError(f"{path}: is not a 16-bit {kind} map; {REMEDY}")
    if MAPS[kind].unit:
        return pixels[..., ::-1].astype(np.float32) / np.float32(_NORMAL_STEPS / 2) - 1
    with Image.open(path) as image:
        text = image.info
    low, high = (number(f"{path}: {key}", text.get(key), remedy=REMEDY) for key in ("low", "high"))
    return (low + pixels.astype(np.float64) * ((high - low) / _STEPS)).astype(np.float32)


def _depth_png(values: Float32[np.ndarray, "h w"]) -> bytes:
    low, high = float(values.min()), float(values.max())
    steps = np.rint((values.astype(np.float64) - low) * (_STEPS / ((high - low) or 1.0)))
    text = PngImagePlugin.PngInfo()
    for key, limit in (("low", low), ("high", high)):
        text.add_text(key, repr(limit))
    buffer = io.BytesIO()
    image = Image.fromarray(steps.astype(np.uint16))
    image.save(buffer, "png", pnginfo=text, compress_level=_COMPRESSION)
    return buffer.getvalue()


def _normal_png(values: Float32[np.ndarray, "h w 3"]) -> bytes:
    steps = np.rint((np.clip(values.astype(np.float64), -1, 1) + 1) * (_NORMAL_STEPS / 2))
    bgr = np.ascontiguousarray(steps.astype(np.uint16)[..., ::-1])
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])[1].tobytes()
