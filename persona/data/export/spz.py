"""SPZ, Niantic's compressed Gaussians, version 3: about a tenth of the .ply.

Layout: a gzip stream of a header of 16 bytes, then positions (24 bits fixed point), opacities (a
byte), colours (three), log scales (three) and rotations (four) of all Gaussians, one after the
other. Right-handed, y up.
"""

import gzip
import struct
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8, UInt32
from numpy import ndarray

from persona.data.export.scene import Scene, xyzw
from persona.data.io import write_bytes
from persona.errors import UserError

MAGIC, VERSION = 0x5053474E, 3
FRACTION_BITS = 12
"""Of a position: a quarter of a millimetre, up to 2 km."""
ANTIALIASED = 1
COLOR_SCALE = 0.15


def write_spz(scene: Scene, path: Path) -> None:
    """Writes the frame ``scene.frame``.

    Raises:
        UserError: the avatar is too far from the origin.
    """
    splats = scene.posed(scene.frame)
    header = struct.pack(
        "<IIIBBBB", MAGIC, VERSION, len(splats.means), 0, FRACTION_BITS, ANTIALIASED, 0
    )
    parts = [
        _fixed(splats.means, path),
        _byte(splats.opacities * 255),
        _byte(splats.sh_dc * (COLOR_SCALE * 255) + 127.5),
        _byte((np.log(splats.scales) + 10) * 16),
        _smallest_three(xyzw(splats.quaternions)),
    ]
    write_bytes(path, gzip.compress(header + b"".join(p.tobytes() for p in parts)))


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
