"""Teeth and colours of the inside of a mouth, which a portrait does not show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from persona.data.heads.portrait_hair import face_hull
from persona.data.layout import Textures
from persona.modules.body.head_body import HeadBody
from persona.modules.detect.face import Face
from persona.modules.render.mesh import interpolate, rasterize_uv

UPPER = ((0.004, 0.0095, 0.0135, 0.019), (0.0, -0.0165, -0.008, 0.0), (0.0, -0.005, -0.006, 0.0))
LOWER = ((-0.023, -0.017, -0.0115, -0.008), (0.0, 0.006, 0.0085, 0.0), (0.0, -0.002, -0.004, 0.0))
"""Folds of the mouth's wall that are teeth: heights above the line where the lips meet, and how far
the wall moves up and forwards there; metres, on the mean head."""
WIDE, TAPER, FRONT = 0.019, 0.004, 0.075
"""Teeth reach so far to either side, end over so much of it, and lie before this depth; metres."""
TOOTH, GUM, TONGUE = (0.88, 0.84, 0.78), (0.42, 0.17, 0.17), (0.66, 0.36, 0.35)
LIGHTER = 0.1
"""White is so much lighter than light skin."""
DARK, DEEP = 0.15, 0.05
"""Least share of the light inside, and the depth over which it falls; metres."""
WIDEST, OFF_CENTRE = 0.045, 0.005
"""Half width of a mouth at most, and how far from the middle its charts may lie; metres."""


@dataclass(frozen=True)
class Mouth:
    """The inside of the mean head's mouth."""

    wall: Bool[ndarray, "f"]
    """Faces of palate, cheeks and floor."""
    tongue: Bool[ndarray, "f"]
    height: Float[ndarray, "p"]
    """Metres above the line where the lips meet."""
    teeth: Float[ndarray, "p"]
    """How much of a tooth's height a vertex may have, by its place along the arch; [0, 1]."""

    @classmethod
    def of(cls, body: HeadBody) -> Mouth | None:
        """Two charts of the texture lie behind the lips, of which the wall's is the wider one.

        None for a head without them: FLAME's ends at the lips.
        """
        faces, rows = body.faces.numpy(), body.uv_faces.numpy()
        start, end = np.concatenate([rows[:, [0, 1]], rows[:, [1, 2]]]).T
        joined = coo_matrix((np.ones(len(start)), (start, end)), (len(body.uv),) * 2)
        _, charts = connected_components(joined, directed=False)
        mean, lips = body.template.numpy(), body.landmarks(body.template).numpy()[60:68]
        found = {}
        for chart in np.unique(charts[rows[:, 0]]):
            inside = charts[rows[:, 0]] == chart
            x, _, z = mean[np.unique(faces[inside])].T
            wide = float(np.abs(x).max())
            if z.max() < lips[:, 2].max() and wide < WIDEST and abs(x.mean()) < OFF_CENTRE:
                found[wide] = inside
        if len(found) != 2:
            return None
        tongue, wall = (found[wide] for wide in sorted(found))
        line = np.stack([lips[[0, 1, 2, 3, 4]], lips[[0, 7, 6, 5, 4]]]).mean(0)
        line = line[np.argsort(line[:, 0])]
        x, y, z = mean.T
        inner = np.zeros(len(mean), bool)
        inner[faces[wall]] = True
        arch = np.clip((WIDE - np.abs(x)) / TAPER, 0, 1) * (z > FRONT) * inner
        return cls(wall, tongue, y - np.interp(x, line[:, 0], line[:, 1]), arch)


def teeth(body: HeadBody) -> Float[Tensor, "p 3"]:
    """What makes folds of the mouth's wall behind the lips, metres; 0 elsewhere."""
    mouth = Mouth.of(body)
    offset = np.zeros((body.num_vertices, 3), np.float32)
    if mouth is None:
        return torch.from_numpy(offset)
    for heights, up, forwards in (UPPER, LOWER):
        offset[:, 1] += mouth.teeth * np.interp(mouth.height, heights, up)
        offset[:, 2] += mouth.teeth * np.interp(mouth.height, heights, forwards)
    return torch.from_numpy(offset)


def brightness(image: UInt8[ndarray, "h w 3"], face: Face) -> float:
    """How bright white would be in a portrait, by the lighter skin of eyes and nose; 1 at most."""
    skin = image[face_hull(image.shape[:2], face, range(27, 48))]
    return min(1.0, float(np.quantile(skin.max(-1), 0.9)) / 255 + LIGHTER)


def paint_mouth(texture: Textures, body: HeadBody, light: float) -> Textures:
    """The texture with teeth, gums and tongue, darker the deeper they lie.

    Args:
        texture: Of a head whose mouth is that of ``teeth``.
        body: Its body.
        light: Brightness of the picture, 1 where white is white.
    """
    mouth, image = Mouth.of(body), texture.inpaint.copy()
    if mouth is None:
        return texture
    render = rasterize_uv(body.uv, body.uv_faces, len(image))
    values = np.stack([mouth.height, mouth.teeth, body.template[:, 2].numpy()], 1)
    shown = interpolate(render, body.faces, torch.from_numpy(values).float()).numpy()
    height, arch, z = np.moveaxis(shown, -1, 0)
    front = body.template[:, 2].numpy()[mouth.teeth > 0].max()
    fade = np.clip(1 - (front - z) / DEEP, DARK, 1)[..., None]
    tooth = (height > UPPER[0][0]) & (height < UPPER[0][1])
    tooth |= (height > LOWER[0][2]) & (height < LOWER[0][3])
    tooth &= arch > 0.5
    face = render.face.numpy()
    for inside, colour in ((mouth.wall, GUM), (mouth.tongue, TONGUE)):
        where = render.mask.numpy() & inside[face]
        image[where] = (255 * light * fade * colour)[where].clip(0, 255)
    where = render.mask.numpy() & mouth.wall[face] & tooth
    image[where] = (255 * light * np.array(TOOTH)).clip(0, 255)
    return texture._replace(inpaint=image)
