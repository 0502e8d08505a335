"""The table of formats: a new one is a writer and a row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from persona.data.export.glb_mesh import write_glb_mesh
from persona.data.export.glb_splats import write_glb_splats
from persona.data.export.gsplat_files import write_compressed_ply, write_splat
from persona.data.export.html import write_html
from persona.data.export.lam import write_lam
from persona.data.export.npz import write_npz
from persona.data.export.ply import write_ply
from persona.data.export.scene import Scene
from persona.data.export.sog import write_sog
from persona.data.export.splattie import write_splattie
from persona.data.export.spz import write_spz, write_spz4
from persona.data.export.usd import write_usd


@dataclass(frozen=True)
class Format:
    """A file format and what it can hold."""

    write: Callable[[Scene, Path], None]
    suffix: str
    holds: str
    """In a few words, for the list of formats."""
    motion: bool
    """Whether a file holds the whole motion; else there is one for each frame."""
    rigged: bool
    """Whether it is animated by the rig, which cannot follow pose-dependent offsets."""


FORMATS = {
    "ply": Format(write_ply, ".ply", "Gaussians of one pose", motion=False, rigged=False),
    "ply_compressed": Format(
        write_compressed_ply, ".compressed.ply", "the same, smaller", motion=False, rigged=False
    ),
    "splat": Format(write_splat, ".splat", "the same for web viewers", motion=False, rigged=False),
    "spz": Format(
        write_spz, ".spz", "Gaussians of one pose, a ninth of the size", motion=False, rigged=False
    ),
    "spz4": Format(write_spz4, ".v4.spz", "the same for newer readers", motion=False, rigged=False),
    "sog": Format(write_sog, ".sog", "Gaussians of one pose, smaller", motion=False, rigged=False),
    "splattie": Format(
        write_splattie, ".splattie", "Gaussians of one pose, skeleton", motion=False, rigged=False
    ),
    "lam": Format(
        write_lam, ".lam.zip", "Gaussians of one pose that speak", motion=False, rigged=False
    ),
    "npz": Format(write_npz, ".npz", "everything, as arrays", motion=True, rigged=True),
    "glb": Format(
        write_glb_splats, ".splats.glb", "Gaussians, skeleton, motion", motion=True, rigged=True
    ),
    "mesh": Format(
        write_glb_mesh, ".mesh.glb", "textured mesh, skeleton, motion", motion=True, rigged=True
    ),
    "usd": Format(write_usd, ".usdc", "Gaussians of every frame", motion=True, rigged=False),
    "html": Format(
        write_html, ".html", "a page that shows it all, offline", motion=True, rigged=True
    ),
}
"""By the name that ``format=`` takes."""
