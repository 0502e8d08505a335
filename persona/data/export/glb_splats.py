"""A .glb of Gaussians on a skeleton, by KHR_gaussian_splatting."""

from pathlib import Path

from persona.data.export.gltf import POINTS, VERTICES, Glb
from persona.data.export.scene import Scene, xyzw
from persona.data.io import write_bytes

EXTENSION = "KHR_gaussian_splatting"


def write_glb_splats(scene: Scene, path: Path) -> None:
    """Writes the rig, expressions as morph targets, and the motion.

    The extension does not mention skins; a reader of both moves each Gaussian's mean by its bones.
    Others show the bind pose. ``COLOR_0``, linear, is for readers without the extension.
    """
    rig, file = scene.rigged(), Glb()
    file.skeleton(rig, scene.clip, scene.frame)
    splats = rig.splats
    attributes = {
        "POSITION": file.accessor(splats.means, VERTICES, bounds=True),
        "COLOR_0": file.accessor(srgb_to_linear(splats.rgb), VERTICES),
        f"{EXTENSION}:ROTATION": file.accessor(xyzw(splats.quaternions), VERTICES),
        f"{EXTENSION}:SCALE": file.accessor(splats.scales, VERTICES),
        f"{EXTENSION}:OPACITY": file.accessor(splats.opacities, VERTICES),
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": file.accessor(splats.sh_dc, VERTICES),
        **file.skin_attributes(rig.skin),
    }
    primitive = {
        "mode": POINTS,
        "attributes": attributes,
        "extensions": {EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    if len(rig.expression_dirs):
        primitive["targets"] = [{"POSITION": file.sparse(d)} for d in rig.expression_dirs]
    mesh = {"name": scene.name, "primitives": [primitive]}
    file.finish(mesh, rig, scene.clip, scene.frame)
    write_bytes(path, file.content([EXTENSION]))


def srgb_to_linear(rgb):
    """Display values to light. Source: IEC 61966-2-1."""
    low, high = rgb / 12.92, ((rgb.clip(0.04045) + 0.055) / 1.055) ** 2.4
    return (low * (rgb <= 0.04045) + high * (rgb > 0.04045)).astype("float32")
