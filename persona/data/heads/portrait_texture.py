"""The texture of a fitted head: from a portrait, else its mirror image, else nearby colours."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.layout import FrameData, Textures
from persona.data.palette import PART_INDEX
from persona.data.preprocess.textured_person import sample_texture
from persona.data.preprocess.unwrap import (
    MIN_FACING,
    Sums,
    UvMesh,
    View,
    add_view,
    fill_holes,
    filled,
    texels_of,
)
from persona.modules.body.head_body import HeadBody
from persona.modules.nearest import point_tree
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyIdentity, Camera

EDGE_PX = 2
"""Pixels at the outline that mix with the background."""
SUPERSAMPLE = 2
NEAREST = 32
HAIR, SKIN = PART_INDEX["Hair"], PART_INDEX["Face_Neck"]
SQUARE = 0.5
"""Cosine of the angle between normal and ray from which on the picture alone counts."""


def unwrap_head(
    body: HeadBody,
    identity: BodyIdentity,
    frame: FrameData,
    vertices: Float[Tensor, "p 3"],
    covered: Float[Tensor, "p"],
    bare: Float[Tensor, "p"],
    size: int,
) -> Textures:
    """The texture of a head by one picture.

    Hair that is not seen has colours of seen hair, skin and clothes those of what is no hair.

    Args:
        body: With texture coordinates.
        identity: The person.
        frame: The picture, its mask and parts.
        vertices: Posed, in the camera's frame.
        covered: How much hair covers the vertices, [0, 1].
        bare: How surely it does not.
        size: Texels along each side.
    """
    mask = binary_erosion(frame.mask, iterations=EDGE_PX)
    view = View(replace(frame, mask=mask), vertices)
    mesh = UvMesh(body.shape(identity)[0], body.faces, body.uv, body.uv_faces)
    texels = texels_of(mesh, size)
    own, other = Sums.empty(len(texels.index)), Sums.empty(len(texels.index))
    add_view(own, view, mesh.faces, texels, None)
    add_view(other, mirrored(view, twins(body)), mesh.faces, texels, None)
    # What the picture shows from the side alone is smeared, and gives way to its mirror image.
    squarely = ((own.weight - MIN_FACING) / (SQUARE - MIN_FACING)).clamp(0, 1)
    share = torch.where(other.weight > 0, squarely, (own.weight > 0).float())
    colour = share[:, None] * own.mean + (1 - share[:, None]) * other.mean
    part = torch.where(share >= 0.5, own.parts.argmax(-1), other.parts.argmax(-1))
    seen = (own.weight > 0) | (other.weight > 0)
    places = texels.features(mesh.rest).numpy()
    # What the picture itself says stays; elsewhere, such as on the forehead, there may be either.
    told = (share >= 0.5) & (own.weight > 0) & ((part == HAIR) | (part == SKIN))
    for there, right in ((covered, part == HAIR), (bare, part == SKIN)):
        where = texels.features(there) > 0.5
        known = right & seen & where
        if known.any():
            spread(colour, places, known, where & ~known & ~told)
            seen = seen | where
    shown = filled(own, texels, mesh, size)
    return Textures(shown.texture, shown.mask, *fill_holes(colour, part, seen, texels, mesh, size))


def spread(
    colour: Float[Tensor, "k 3"],
    places: Float[ndarray, "k 3"],
    known: Bool[Tensor, "k"],
    wanted: Bool[Tensor, "k"],
) -> None:
    """Writes means of the nearest known colours, by their squared distance, in place.

    Args:
        colour: Of each texel.
        places: Theirs on the rest head, metres.
        known: Whose colours count.
        wanted: Which are written.
    """
    tree = point_tree(places[known.numpy()])
    away, index = tree.query(places[wanted.numpy()], NEAREST)
    index = np.minimum(index, int(known.sum()) - 1)
    share = torch.from_numpy(1 / (away + 1e-4) ** 2).float()
    share = share / share.sum(1, keepdim=True)
    colour[wanted] = (colour[known][torch.from_numpy(index)] * share[..., None]).sum(1)


def twins(body: HeadBody) -> Int[Tensor, "p"]:
    """The vertex on the other side of the mean head, for each."""
    mean, _ = body.shape(body.zero_identity())
    places = mean.double().numpy()
    _, index = cKDTree(places).query(places * [-1.0, 1.0, 1.0])
    return torch.from_numpy(index)


def mirrored(view: View, twin: Int[Tensor, "p"]) -> View:
    """The mirrored picture and the mirrored head."""
    frame, camera = view.frame, view.frame.camera
    flipped = replace(
        camera, center_px=camera.center_px * torch.tensor([-1.0, 1.0])
        + torch.tensor([float(camera.width), 0.0]),
    )  # fmt: skip
    image, mask, seg = (
        np.ascontiguousarray(values[:, ::-1]) for values in (frame.image, frame.mask, frame.seg)
    )
    return View(
        replace(frame, camera=flipped, image=image, mask=mask, seg=seg),
        view.vertices[twin] * torch.tensor([-1.0, 1, 1]),
    )


def paint(
    texture: Textures, body: HeadBody, vertices: Float[Tensor, "p 3"], camera: Camera
) -> tuple[UInt8[ndarray, "h w 3"], Bool[ndarray, "h w"]]:
    """The textured head over white, and its silhouette."""
    fine = camera.resize(camera.height * SUPERSAMPLE, camera.width * SUPERSAMPLE)
    render = rasterize(vertices, body.faces, fine)
    mask = render.mask.numpy()
    uv = interpolate(render, body.uv_faces, body.uv)
    colour = sample_texture(texture.inpaint, uv, mask)
    size = (camera.width, camera.height)
    image = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
    coverage = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return image, coverage > 0.5
