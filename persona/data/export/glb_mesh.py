"""A .glb of a textured mesh on a skeleton: for engines that know no splats."""

from pathlib import Path

import cv2
import numpy as np

from persona.data.export.gltf import INDICES, TRIANGLES, VERTICES, Glb
from persona.data.export.scene import Scene, Skin
from persona.data.io import write_bytes

UNLIT = "KHR_materials_unlit"
LINEAR, CLAMP = 9729, 33071
"""Filter and wrapping of textures."""


def write_glb_mesh(scene: Scene, path: Path) -> None:
    """Writes the mesh, its expressions (ARKit's, where the body has them) and the motion.

    The texture holds the light in which the person was seen: its material is unlit.
    """
    mesh, file = scene.meshed(), Glb()
    rig = mesh.rig
    file.skeleton(rig, scene.clip, scene.frame)
    skin = Skin(rig.skin.bones[mesh.source], rig.skin.weights[mesh.source])
    u, v = mesh.uv.T
    attributes = {
        "POSITION": file.accessor(mesh.vertices, VERTICES, bounds=True),
        "NORMAL": file.accessor(mesh.normals, VERTICES),
        # glTF's v runs down.
        "TEXCOORD_0": file.accessor(np.stack([u, 1 - v], 1), VERTICES),
        **file.skin_attributes(skin),
    }
    primitive = {
        "mode": TRIANGLES,
        "attributes": attributes,
        "indices": file.accessor(mesh.faces.astype(np.uint32).reshape(-1), INDICES),
        "material": 0,
    }
    if len(rig.expression_dirs):
        moved = rig.expression_dirs[:, mesh.source]
        primitive["targets"] = [{"POSITION": file.sparse(direction)} for direction in moved]
    _, png = cv2.imencode(".png", mesh.texture[..., ::-1])
    file.json |= {
        "images": [{"bufferView": file.view(png.tobytes()), "mimeType": "image/png"}],
        "samplers": [{"magFilter": LINEAR, "minFilter": LINEAR, "wrapS": CLAMP, "wrapT": CLAMP}],
        "textures": [{"source": 0, "sampler": 0}],
        "materials": [
            {
                "name": "skin and clothes",
                "doubleSided": True,  # A skirt is open below.
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1,
                },
                "extensions": {UNLIT: {}},
            }
        ],
    }  # fmt: skip
    file.finish({"name": scene.name, "primitives": [primitive]}, rig, scene.clip, scene.frame)
    write_bytes(path, file.content([UNLIT]))
