"""SPZ, Niantic's compressed Gaussians, versions 3 and 4: about a ninth of the .ply.

Both hold the same streams, one after the other: positions (24 bits fixed point), opacities (a
byte), colours (three), log scales (three) and rotations (four) of all Gaussians. Version 3 is one
gzip stream of them behind a header of 16 bytes. Version 4 has a plain header of 32 bytes, a table
of the streams' sizes, and each stream compressed by Zstandard. Right-handed, y up.

Source: the README of SPZ's library, sections "Header" and "File layout (version 4)".
"""

import gzip
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8, UInt32
from numpy import ndarray

from persona.data.export.extras import extra
from persona.data.export.scene import Scene, xyzw
from persona.data.io import write_bytes
from persona.errors import UserError

MAGIC = 0x5053474E
FRACTION_BITS = 12
"""Fractional bits of a position: steps of a quarter of a millimetre, up to 2 km."""
ANTIALIASED = 1
COLOR_SCALE = 0.15
V4_HEADER_BYTES = 32
V4_LEVEL = 12
"""Level of Zstandard: beyond it files of this size hardly shrink."""


def write_spz(scene: Scene, path: Path) -> None:
    """Writes the frame ``scene.frame`` as version 3, which every reader knows.

    Raises:
        UserError: the avatar is too far from the origin.
    """
    streams = _streams(scene, path)
    header = struct.pack("<IIIBBBB", MAGIC, 3, _count(streams), 0, FRACTION_BITS, ANTIALIASED, 0)
    write_bytes(path, gzip.compress(header + b"".join(streams)))


def write_spz4(scene: Scene, path: Path) -> None:
    """Writes the frame ``scene.frame`` as version 4.

    Raises:
        UserError: the avatar is too far from the origin, or zstandard is not installed.
    """
    compress = extra("zstandard").ZstdCompressor(level=V4_LEVEL).compress
    streams = _streams(scene, path)
    packed = [compress(stream) for stream in streams]
    header = struct.pack(
        "<IIIBBBBI12x",
        *(MAGIC, 4, _count(streams), 0, FRACTION_BITS, ANTIALIASED),
        *(len(streams), V4_HEADER_BYTES),
    )
    sizes = [struct.pack("<QQ", *map(len, pair)) for pair in zip(packed, streams, strict=True)]
    write_bytes(path, b"".join((header, *sizes, *packed)))


def _streams(scene: Scene, path: Path) -> list[bytes]:
    """Attributes of all Gaussians; colours alone have no further coefficients to follow them."""
    splats = scene.posed(scene.frame)
    parts = [
        _fixed(splats.means, path),
        _byte(splats.opacities * 255),
        _byte(splats.sh_dc * (COLOR_SCALE * 255) + 127.5),
        _byte((np.log(splats.scales) + 10) * 16),
        _smallest_three(xyzw(splats.quaternions)),
    ]
    return [part.tobytes() for part in parts]


def _count(streams: list[bytes]) -> int:
    """Gaussians: each has one byte of opacity."""
    return len(streams[1])


def _byte(values: Float32[ndarray, "..."]) -> UInt8[ndarray, "..."]:
    return values.round().clip(0, 255).astype(np.uint8)


def _fixed(means: Float32[ndarray, "n 3"], path: Path) -> UInt8[ndarray, "n 3 3"]:
    """The low three bytes of each coordinate, the lowest first."""
    values = (means.astype(np.float64) * 2**FRACTION_BITS).round()
    if np.abs(values).max(initial=0) >= 2**23:
        far = 2 ** (23 - FRACTION_BITS)
        raise UserError(f"{path}: SPZ ends {far} m from the origin; choose another motion")
    return values.astype("<i4").view(np.uint8).reshape(len(means), 3, 4)[..., :3]


def _smallest_three(xyzw: Float32[ndarray, "n 4"]) -> UInt32[ndarray, "n"]:
    """The largest component's index above three signs and nine bits each of the others."""
    largest = np.abs(xyzw).argmax(1)
    rows = np.arange(len(xyzw))
    same = xyzw * np.where(xyzw[rows, largest] < 0, -1, 1)[:, None]
    others = (largest[:, None] + 1 + np.arange(3)) % 4
    others.sort(1)
    rest = np.take_along_axis(same, others, 1)
    size = (np.abs(rest) * (511 * 2**0.5) + 0.5).astype(np.uint32).clip(0, 511)
    ten = (rest < 0).astype(np.uint32) << 9 | size
    a, b, c = ten.T
    return (largest.astype(np.uint32) << 30 | a << 20 | b << 10 | c).astype("<u4")
