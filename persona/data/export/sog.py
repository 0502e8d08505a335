"""SOG, PlayCanvas's compressed Gaussians, version 2: about an eleventh of the .ply.

A zip of lossless WebP images, in which the same pixel of each belongs to the same Gaussian, and of
``meta.json``, which says how their bytes are read. Neighbours in space are neighbours in the
images, which is what makes these small. Axes are those of the .ply: y down, z away.

Source: PlayCanvas's developer site, "The SOG Format".
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8
from numpy import ndarray
from PIL import Image

from persona.data.export.scene import Scene, Splats
from persona.data.io import write_bytes

CODES = 256
"""Size of a codebook: the values of a byte."""
_ROUNDS = 10
"""Iterations of k-means; after them the largest error hardly falls."""
_CURVE_BITS = 10
_QUATERNION_TAG = 252
"""Value of alpha where w is the largest; one more for x, y and z each."""


def write_sog(scene: Scene, path: Path) -> None:
    """Writes the frame ``scene.frame``.

    Positions have 16 bits of their logarithm, sizes and colours 256 values each for the whole
    avatar, rotations and opacities a byte a number.
    """
    splats = scene.posed(scene.frame).turned_about_x()
    order = _along_curve(splats.means)
    splats = Splats(**{name: values[order] for name, values in vars(splats).items()})
    low, high, bounds = _positions(splats.means)
    sizes, size_codes = _coded(np.log(splats.scales))
    colors, color_codes = _coded(splats.sh_dc)
    opacities = (splats.opacities * 255).round().astype(np.uint8)
    files = {
        "means": {"means_l.webp": low, "means_u.webp": high},
        "scales": {"scales.webp": sizes},
        "quats": {"quats.webp": _quaternions(splats.quaternions)},
        "sh0": {"sh0.webp": np.column_stack((colors, opacities))},
    }
    told: dict[str, dict[str, Any]] = {
        "means": bounds,
        "scales": {"codebook": size_codes},
        "quats": {},
        "sh0": {"codebook": color_codes},
    }
    meta = {
        "version": 2,
        "asset": {"generator": "persona"},
        "count": len(splats.means),
        "antialias": True,
        **{kind: {**told[kind], "files": list(images)} for kind, images in files.items()},
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # WebP is compressed already.
        for images in files.values():
            for name, values in images.items():
                archive.writestr(name, _webp(values))
        archive.writestr("meta.json", json.dumps(meta))
    write_bytes(path, packed.getvalue())


def _along_curve(means: Float32[ndarray, "n 3"]) -> Int[ndarray, "n"]:
    """The order of Morton's curve, whose neighbours are neighbours in space."""
    low, high = means.min(0), means.max(0)
    size = np.maximum(high - low, 1e-9)
    cells = ((means - low) / size * (2**_CURVE_BITS - 1)).astype(np.int64)
    code = np.zeros(len(means), np.int64)
    for bit in range(_CURVE_BITS):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return code.argsort(kind="stable")


def _positions(
    means: Float32[ndarray, "n 3"],
) -> tuple[UInt8[ndarray, "n 3"], UInt8[ndarray, "n 3"], dict[str, list[float]]]:
    """Low and high bytes between the bounds of sign(x) log(1 + |x|)."""
    values = np.sign(means) * np.log1p(np.abs(means.astype(np.float64)))
    low, high = values.min(0), values.max(0)
    numbers = (values - low) / np.maximum(high - low, 1e-9) * 65535
    whole = numbers.round().astype(np.uint16)
    bounds = {"mins": low.tolist(), "maxs": high.tolist()}
    return (whole & 255).astype(np.uint8), (whole >> 8).astype(np.uint8), bounds


def _coded(values: Float32[ndarray, "n 3"]) -> tuple[UInt8[ndarray, "n 3"], list[float]]:
    """Each number as its nearest of ``CODES`` values, found by k-means on all of them."""
    line = np.sort(values.astype(np.float64).ravel())
    places = (np.arange(CODES) + 0.5) / CODES * (len(line) - 1)
    # Start midway between quantiles and an even grid, so that rare large values count too.
    codes = 0.5 * (line[places.round().astype(int)] + np.linspace(line[0], line[-1], CODES))
    sums = np.concatenate(([0.0], line.cumsum()))
    for _ in range(_ROUNDS):
        edges = np.searchsorted(line, 0.5 * (codes[1:] + codes[:-1]))
        edges = np.concatenate(([0], edges, [len(line)]))
        counts = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(counts, 1)
        codes = np.sort(np.where(counts > 0, means, codes))
    codes = codes.astype(np.float32).astype(np.float64)
    nearest = np.searchsorted(0.5 * (codes[1:] + codes[:-1]), values)
    return nearest.astype(np.uint8), codes.tolist()


def _quaternions(wxyz: Float32[ndarray, "n 4"]) -> UInt8[ndarray, "n 4"]:
    """The three smaller components; alpha stores the index of the largest one."""
    largest = np.abs(wxyz).argmax(1)
    same = wxyz * np.where(np.take_along_axis(wxyz, largest[:, None], 1) < 0, -1, 1)
    others = np.array([[k for k in range(4) if k != i] for i in range(4)])[largest]
    rest: Float[ndarray, "n 3"] = np.take_along_axis(same, others, 1) * 2**0.5
    bytes_ = ((rest * 0.5 + 0.5) * 255).round().clip(0, 255)
    return np.column_stack((bytes_, _QUATERNION_TAG + largest)).astype(np.uint8)


def _webp(values: UInt8[ndarray, "n c"]) -> bytes:
    """Values row by row in a square image; the rest of it stays empty."""
    side = -(-int(np.ceil(len(values) ** 0.5)) // 4) * 4
    pixels = np.zeros((side * side, 4), np.uint8)
    pixels[:, 3] = 255
    pixels[: len(values), : values.shape[1]] = values
    file = io.BytesIO()
    # ``exact`` keeps the bytes of pixels whose alpha is 0: they are data as well.
    image = Image.fromarray(pixels.reshape(side, side, 4))
    image.save(file, "WEBP", lossless=True, exact=True, method=6)
    return file.getvalue()
