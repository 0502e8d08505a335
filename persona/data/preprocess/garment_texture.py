"""The texture of a skirt, from the skin that carried it to the garment that it has become."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray
from torch import Tensor

from persona.data.layout import Textures
from persona.data.preprocess.unwrap import Texels, UvMesh, texels_of
from persona.modules.body.shaped_body import STRIP
from persona.modules.body.topology import vertex_normals
from persona.modules.cloth.garment import ALIKE_M
from persona.modules.nearest import point_tree


def with_strip(
    textures: Textures, dressed: UvMesh, worn: UvMesh, covered: Bool[Tensor, "p"]
) -> Textures:
    """The textures in the layout that has a strip for the garment.

    Args:
        textures: Of the dressed body.
        dressed: The body whose skin carries the skirt.
        worn: The same person in the garment.
        covered: Vertices of the skin that the skirt was made of: its colours are theirs.
    """
    size = textures.inpaint.shape[0]
    skin, strip = texels_of(dressed, size), texels_of(worn, size)
    cloth = covered[skin.corners].all(-1)
    beside = (strip.corners >= len(covered)).all(-1)
    tree = point_tree(_places(dressed, skin)[cloth].numpy())
    _, nearest = tree.query(_places(worn, strip)[beside].numpy(), workers=-1)
    source, target = skin.index[cloth].numpy()[nearest], strip.index[beside].numpy()
    rows = round((1 - STRIP) * size)

    def laid(texture: Shaped[ndarray, "t t *c"], mixed: bool) -> Shaped[ndarray, "t t *c"]:
        out = texture.copy()  # Texels on no face keep a colour of its kind.
        how = cv2.INTER_AREA if mixed else cv2.INTER_NEAREST
        small = cv2.resize(texture.astype(np.uint8), (size, rows), interpolation=how)
        out[:rows] = small.astype(texture.dtype)
        flat = out.reshape(size * size, -1)
        flat[target] = texture.reshape(size * size, -1)[source]
        return out

    return Textures(
        laid(textures.texture, True), laid(textures.mask, False),
        laid(textures.inpaint, True), laid(textures.seg_inpaint, False),
    )  # fmt: skip


def _places(mesh: UvMesh, texels: Texels) -> Float[Tensor, "k 6"]:
    """Where texels lie, and which way they face: what ``ALIKE_M`` compares."""
    normals = ALIKE_M * vertex_normals(mesh.rest, mesh.faces)
    return texels.features(torch.cat((mesh.rest, normals), -1))
