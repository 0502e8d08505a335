"""Files of Gaussians that gsplat's exporter writes: for viewers that read them, sorted for them."""

import re
from pathlib import Path

import numpy as np
import torch

from persona.data.export.scene import Scene
from persona.data.io import write_bytes

_EMPTY = re.compile(rb"element sh \d+\n(?=end_header)")


def write_compressed_ply(scene: Scene, path: Path) -> None:
    """Writes ``scene.frame`` as SuperSplat's compressed .ply, y down: 16 bytes a point."""
    write_bytes(path, gsplat_bytes(scene, "ply_compressed"))


def write_splat(scene: Scene, path: Path) -> None:
    """Writes ``scene.frame`` as the web viewer's .splat, y down: 32 bytes a point."""
    write_bytes(path, gsplat_bytes(scene, "splat"))


def gsplat_bytes(scene: Scene, form: str) -> bytes:
    """The frame ``scene.frame`` as gsplat writes it, y down.

    gsplat drops Gaussians that are not finite, and orders the others for the format's readers.

    Args:
        scene: Scene of the avatar.
        form: ``ply``, ``ply_compressed`` or ``splat``.
    """
    from gsplat import export_splats  # Takes seconds; only these formats want it.

    splats = scene.posed(scene.frame).turned_about_x()
    values = {
        "means": splats.means,
        "scales": np.log(splats.scales),
        "quats": splats.quaternions,
        "opacities": splats.opacity_logit,
        "sh0": splats.sh_dc[:, None],
        "shN": np.zeros((len(splats.means), 0, 3), np.float32),  # No colour depends on the view.
    }
    tensors = {name: torch.from_numpy(value) for name, value in values.items()}
    # An element without properties, for coefficients of higher degrees, which PlayCanvas's reader
    # does not take; no byte of the body belongs to it.
    return _EMPTY.sub(b"", export_splats(**tensors, format=form), count=1)
