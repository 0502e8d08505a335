"""Depth, normals and part images of the posed body in PERSONA's conventions."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from persona.modules.body.topology import vertex_normals
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import Camera, MeshRender

LIMB_GAP_M = 0.05
"""Depth step that counts as one limb before another."""


class BodyMaps(NamedTuple):
    """Maps of the mesh in one camera."""

    render: MeshRender
    mask: Bool[np.ndarray, "h w"]
    depth: Float32[np.ndarray, "h w"]
    """Camera z, metres, larger is farther; zero where empty."""
    normal: Float32[np.ndarray, "h w 3"]
    """Unit, x right, y up, z to the camera; zero where empty."""
    facing: Float32[np.ndarray, "h w"]
    """Cosine between normal and viewing ray; zero where empty."""


def body_maps(
    vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"], camera: Camera
) -> BodyMaps:
    """Rasterises a posed mesh (world coordinates of the camera)."""
    render = rasterize(vertices, faces, camera)
    local = vertices @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    normals = vertex_normals(local, faces)
    smooth = F.normalize(interpolate(render, faces, normals), dim=-1).numpy()
    ray = F.normalize(interpolate(render, faces, local), dim=-1).numpy()
    # OpenCV's y is down and z away from the camera.
    flip = np.array([1, -1, -1], np.float32)
    facing = -(smooth * ray).sum(-1)
    return BodyMaps(
        render, render.mask.numpy(), render.depth.float().numpy(), smooth * flip, facing
    )


def near_occlusion(
    depth: Float32[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"], radius_px: int
) -> Bool[np.ndarray, "h w"]:
    """Pixels around an edge where one limb hides another.

    A fit is off by some pixels, so that the limb behind shows the colour of the one before it:
    behind such an edge ``radius_px`` are not to be trusted, before it a third of that.
    """
    far = np.where(mask, depth, np.inf).astype(np.float32)
    near = np.where(mask, depth, -np.inf).astype(np.float32)

    def window(radius: int) -> np.ndarray:
        return np.ones((2 * radius + 1,) * 2, np.uint8)

    behind = depth - cv2.erode(far, window(radius_px)) > LIMB_GAP_M
    before = cv2.dilate(near, window(max(1, radius_px // 3))) - depth > LIMB_GAP_M
    return mask & (behind | before)


def face_labels(
    render: MeshRender, faces: Int[Tensor, "f 3"], labels: Int[Tensor, "p"]
) -> Int[np.ndarray, "h w"]:
    """Label (of a vertex of the face) per pixel, -1 where empty."""
    out = np.full(tuple(render.face.shape), -1)
    mask = render.mask
    out[mask.numpy()] = labels[faces[render.face[mask], 0]].numpy()
    return out
