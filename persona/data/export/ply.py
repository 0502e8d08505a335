"""3D Gaussian splatting's .ply: what splat viewers and editors read."""

import io
from pathlib import Path

import numpy as np

from persona.data.export.extras import extra
from persona.data.export.scene import Scene, Splats
from persona.data.io import write_bytes

ANTIALIASED = "antialiased: drawn with the 2D filter of Mip-Splatting"


def write_ply(scene: Scene, path: Path) -> None:
    """Writes the frame ``scene.frame``, y down."""
    splats = scene.posed(scene.frame).turned_about_x()
    write_bytes(path, ply_bytes(splats, "persona: one pose; y down, z away (OpenCV)"))


def ply_bytes(splats: Splats, comment: str) -> bytes:
    """The content of a file of Gaussians, in the axes that they have.

    Conventions of the files of Kerbl et al. 2023: coefficients of spherical harmonics for colours
    (degree 0 alone), logit of opacity, log of scale, quaternion (w, x, y, z). Normals are
    zeros that readers expect.

    Args:
        splats: In the axes of the file.
        comment: Says which axes; stands in the header.
    """
    plyfile = extra("plyfile")
    columns = {
        **dict(zip("xyz", splats.means.T, strict=True)),
        **{f"n{axis}": np.zeros(len(splats.means)) for axis in "xyz"},
        **{f"f_dc_{i}": column for i, column in enumerate(splats.sh_dc.T)},
        "opacity": splats.opacity_logit,
        **{f"scale_{i}": column for i, column in enumerate(np.log(splats.scales).T)},
        **{f"rot_{i}": column for i, column in enumerate(splats.quaternions.T)},
    }
    table = np.empty(len(splats.means), [(name, "<f4") for name in columns])
    for name, column in columns.items():
        table[name] = column
    element = plyfile.PlyElement.describe(table, "vertex")
    file = plyfile.PlyData([element], byte_order="<", comments=[comment, ANTIALIASED])
    content = io.BytesIO()
    file.write(content)
    return content.getvalue()
