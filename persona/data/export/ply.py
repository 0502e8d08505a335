"""3D Gaussian splatting's .ply: what splat viewers and editors read."""

from pathlib import Path

import numpy as np

from persona.data.export.extras import extra
from persona.data.export.scene import Scene
from persona.data.io import atomic_path

COMMENTS = (
    "persona: one pose; y down, z away (OpenCV)",
    "antialiased: drawn with the 2D filter of Mip-Splatting",
)


def write_ply(scene: Scene, path: Path) -> None:
    """Writes the frame ``scene.frame``.

    Conventions of the files of Kerbl et al. 2023: coefficients of spherical harmonics for colours
    (degree 0 alone), logit of opacity, log of scale, quaternion (w, x, y, z), y down. Normals are
    zeros that readers expect.
    """
    plyfile = extra("plyfile")
    splats = scene.posed(scene.frame).turned_about_x()
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
    file = plyfile.PlyData([element], byte_order="<", comments=list(COMMENTS))
    with atomic_path(path) as temporary:
        file.write(str(temporary))
