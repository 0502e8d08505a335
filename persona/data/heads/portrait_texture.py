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
from persona.data.palette import classes_from_colours
from persona.data.preprocess.textured_person import sample_texture
from persona.data.preprocess.unwrap import UvMesh, View, fill_holes, texels_of, unwrap
from persona.modules.body.head_body import HeadBody
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyIdentity, Camera

EDGE_PX = 2
"""Pixels at the outline that mix with the background."""
SUPERSAMPLE = 2


def unwrap_head(
    body: HeadBody,
    identity: BodyIdentity,
    frame: FrameData,
    vertices: Float[Tensor, "p 3"],
    size: int,
) -> Textures:
    """The texture of a head by one picture.

    Args:
        body: With texture coordinates.
        identity: The person.
        frame: The picture, its mask and parts.
        vertices: Posed, in the camera's frame.
        size: Texels along each side.
    """
    mask = binary_erosion(frame.mask, iterations=EDGE_PX)
    view = View(replace(frame, mask=mask), vertices)
    mesh = UvMesh(body.shape(identity)[0], body.faces, body.uv, body.uv_faces)
    own, other = (unwrap([v], mesh, size) for v in (view, mirrored(view, twins(body))))
    image = np.where(own.mask[..., None], own.texture, other.texture)
    seen, texels = own.mask | other.mask, texels_of(mesh, size)
    parts = np.where(own.mask, *(classes_from_colours(t.seg_inpaint) for t in (own, other)))
    flat = torch.from_numpy(image.reshape(-1, 3)[texels.index]).float() / 255
    known = torch.from_numpy(seen.reshape(-1)[texels.index])
    classes = torch.from_numpy(parts.reshape(-1)[texels.index]).long()
    filled = fill_holes(flat, classes, known, texels, mesh, size)
    return Textures(own.texture, own.mask, *filled)


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
