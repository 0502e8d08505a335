"""Unwraps frames of a posed body to its uv texture, and fills in the texels that no frame shows.

Source: the unwrap step of PERSONA (arXiv:2508.09973). Differences: a depth test decides whether a
texel is visible, not whether its face owns a pixel (small images have fewer pixels than the body
has faces); the more squarely a view faces a texel, the more it counts; holes are filled across
seams, by distance on the surface.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.layout import FrameData, Textures
from persona.data.palette import PART_NAMES, classes_from_colours, colours_from_classes
from persona.modules.body.topology import vertex_normals
from persona.modules.nearest import nearest_marked
from persona.modules.render.mesh import rasterize, rasterize_uv
from persona.types import Camera, TensorTuple

MIN_FACING = 0.1
"""Least cosine between the normal and the ray; texels seen more obliquely count as unseen."""
MIN_MASK = 0.5
DEPTH_SLACK_M = 0.01
DEPTH_SIDE_PX = 1024
"""Longest side of the visibility depth map."""
INPAINT_RADIUS_PX = 3
BLEND_PX = 4
"""Width of the band of unseen texels next to seen ones that is inpainted in the image."""


class UvMesh(NamedTuple):
    """A mesh with its texture layout."""

    rest: Float[Tensor, "p 3"]
    """Any unposed vertices, metres; an unseen place takes its colour from seen ones near it here.
    """
    faces: Int[Tensor, "f 3"]
    uv: Float[Tensor, "t 2"]
    uv_faces: Int[Tensor, "f 3"]


class View(NamedTuple):
    """A frame and the posed vertices seen in it, in the world of the frame's camera."""

    frame: FrameData
    vertices: Float[Tensor, "p 3"]


@dataclass(frozen=True)
class Texels(TensorTuple):
    """The texels that lie on a face."""

    index: Int[Tensor, "k"]
    """Row-major index in the texture."""
    corners: Int[Tensor, "k 3"]
    """Vertices of the texel's face."""
    weights: Float[Tensor, "k 3"]

    def features(self, values: Float[Tensor, "p *c"]) -> Float[Tensor, "k *c"]:
        """Interpolates per-vertex values."""
        weights = self.weights.view(*self.weights.shape, *[1] * (values.dim() - 1))
        return (values[self.corners] * weights).sum(1)


class Sums(NamedTuple):
    """Sums over the views, per texel; a view's weight is the cosine of its angle to the normal."""

    colour: Float[Tensor, "k 3"]
    weight: Float[Tensor, "k"]
    parts: Float[Tensor, "k part"]

    @staticmethod
    def empty(count: int) -> Sums:
        """Sums of texels that no view has shown yet."""
        return Sums(torch.zeros(count, 3), torch.zeros(count), torch.zeros(count, len(PART_NAMES)))

    @property
    def mean(self) -> Float[Tensor, "k 3"]:
        """Mean colours in [0, 1]; zero for texels that no view shows."""
        return self.colour / self.weight.where(self.weight > 0, 1.0)[:, None]


def texels_of(mesh: UvMesh, size: int) -> Texels:
    """Texels of a size x size texture that lie on the mesh."""
    render = rasterize_uv(mesh.uv, mesh.uv_faces, size)
    index = torch.nonzero(render.mask.flatten())[:, 0]
    face = render.face.flatten()[index]
    return Texels(index, mesh.faces[face], render.barycentric.flatten(0, 1)[index])


def unwrap(
    views: Iterable[View],
    mesh: UvMesh,
    size: int,
    face_vertices: Bool[Tensor, "p"] | None = None,
) -> Textures:
    """Unwraps frames to one texture.

    Args:
        views: Frames with posed vertices; consumed one at a time.
        mesh: The body's layout.
        size: Side of the texture in texels.
        face_vertices: Vertices whose texels are taken from the face patch of frames that have one.

    Returns:
        Colours and part colours; ``inpaint`` and ``seg_inpaint`` have no holes.
    """
    texels = texels_of(mesh, size)
    sums = Sums.empty(len(texels.index))
    for view in views:
        add_view(sums, view, mesh.faces, texels, face_vertices)
    return filled(sums, texels, mesh, size)


def filled(sums: Sums, texels: Texels, mesh: UvMesh, size: int) -> Textures:
    """The textures that sums over views give, with holes filled."""
    seen, colour, part = sums.weight > 0, sums.mean, sums.parts.argmax(-1)
    texture = np.zeros((size * size, 3), np.uint8)
    texture[texels.index] = _to_bytes(colour * seen[:, None])
    mask = np.zeros(size * size, bool)
    mask[texels.index] = seen.numpy()
    filled = fill_holes(colour, part, seen, texels, mesh, size)
    return Textures(texture.reshape(size, size, 3), mask.reshape(size, size), *filled)


def _to_bytes(colour: Tensor) -> UInt8[np.ndarray, "*k"]:
    return (colour * 255).round().clamp(0, 255).byte().numpy()


def add_view(
    sums: Sums, view: View, faces: Tensor, texels: Texels, face_vertices: Tensor | None
) -> None:
    """Adds what one frame shows to the sums."""
    frame, camera = view.frame, view.frame.camera
    vertices = view.vertices @ camera.cam_from_world[:3, :3].T + camera.cam_from_world[:3, 3]
    ray = -F.normalize(vertices, dim=-1)
    facing = texels.features((vertex_normals(vertices, faces) * ray).sum(-1))
    place = torch.nonzero(facing > MIN_FACING)[:, 0]
    points = texels[place].features(vertices)
    visible = _visible(points, vertices, faces, camera.local())
    place, points = place[visible], points[visible]
    pixels = camera.local().project(points)
    image = torch.from_numpy(frame.image).float() / 255
    mask = torch.from_numpy(frame.mask).float()[..., None]
    sampled = sample_image(torch.cat((image * mask, mask), -1), pixels)
    classes = torch.from_numpy(classes_from_colours(frame.seg)).long()
    column, row = pixels.long().unbind(-1)
    part = classes[row.clamp(0, camera.height - 1), column.clamp(0, camera.width - 1)]
    shown = (sampled[:, 3] > MIN_MASK) & (part > 0)
    place, points, sampled, part = place[shown], points[shown], sampled[shown], part[shown]
    colour = sampled[:, :3] / sampled[:, 3:]
    if face_vertices is not None and frame.patch is not None and frame.patch_box_px is not None:
        side = frame.patch.shape[0]
        box = torch.from_numpy(frame.patch_box_px).float()
        in_patch = camera.local().crop(box, side, side).project(points)
        inside = ((in_patch > 0) & (in_patch < side)).all(-1)
        face = inside & (texels[place].features(face_vertices.float()) > 0.999)
        patch = torch.from_numpy(frame.patch).float() / 255
        colour[face] = sample_image(patch, in_patch[face])
    weight = facing[place]
    sums.colour.index_add_(0, place, colour * weight[:, None])
    sums.weight.index_add_(0, place, weight)
    sums.parts.view(-1).index_add_(0, place * len(PART_NAMES) + part, weight)


def sample_image(
    image: Float[Tensor, "h w c"], pixels: Float[Tensor, "k 2"]
) -> Float[Tensor, "k c"]:
    """Bilinear values at pixel coordinates (centres at +0.5); zero outside."""
    size = torch.tensor([image.shape[1], image.shape[0]])
    grid = (2 * pixels / size - 1)[None, None]
    return F.grid_sample(image.permute(2, 0, 1)[None], grid, align_corners=False)[0, :, 0].T


def _visible(
    points: Float[Tensor, "k 3"],
    vertices: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    camera: Camera,
) -> Bool[Tensor, "k"]:
    """Which points on the mesh no other part of it hides."""
    scale = DEPTH_SIDE_PX / max(camera.height, camera.width)
    fine = camera.resize(round(camera.height * scale), round(camera.width * scale))
    depth = rasterize(vertices, faces, fine, cull_backfaces=True).depth
    column, row = fine.project(points).floor().long().unbind(-1)
    inside = (column >= 0) & (column < fine.width) & (row >= 0) & (row < fine.height)
    nearest = depth[row.clamp(0, fine.height - 1), column.clamp(0, fine.width - 1)]
    return inside & (nearest > 0) & (points[:, 2] < nearest + DEPTH_SLACK_M)


def fill_holes(
    colour: Float[Tensor, "k 3"],
    part: Int[Tensor, "k"],
    seen: Bool[Tensor, "k"],
    texels: Texels,
    mesh: UvMesh,
    size: int,
) -> tuple[UInt8[np.ndarray, "t t 3"], UInt8[np.ndarray, "t t 3"]]:
    """Colours and part colours of the whole texture.

    Unseen texels take the values of the nearest seen vertices, wherever these lie in the texture. A
    narrow band around the seen texels is inpainted (cv2 TELEA), and the space between charts
    repeats the nearest texel.
    """
    vertex_colour, vertex_part = _vertex_values(colour, part, seen, texels, mesh)
    filled = torch.where(seen[:, None], colour, texels.features(vertex_colour))
    heaviest = texels.corners.gather(1, texels.weights.argmax(1, keepdim=True))[:, 0]
    filled_part = torch.where(seen, part, vertex_part[heaviest])

    covered = np.zeros(size * size, bool)
    covered[texels.index] = True
    unseen = np.zeros((size, size), np.uint8)
    unseen.reshape(-1)[texels.index] = ~seen.numpy()
    nearest = nearest_marked(covered.reshape(size, size))
    image, parts = np.zeros((size, size, 3), np.uint8), np.zeros((size, size), np.int64)
    image.reshape(-1, 3)[texels.index] = _to_bytes(filled)
    parts.reshape(-1)[texels.index] = filled_part.numpy()
    known = (covered.reshape(size, size) & (unseen == 0)).astype(np.uint8)
    near = cv2.dilate(known, np.ones((2 * BLEND_PX + 1,) * 2, np.uint8))
    band = np.logical_and(near, unseen).astype(np.uint8)
    known_image = image[nearest]
    filled_image = cv2.inpaint(known_image, band, INPAINT_RADIUS_PX, cv2.INPAINT_TELEA)
    return np.asarray(filled_image)[nearest], colours_from_classes(parts[nearest])


def _vertex_values(
    colour: Tensor, part: Tensor, seen: Tensor, texels: Texels, mesh: UvMesh
) -> tuple[Float[Tensor, "p 3"], Int[Tensor, "p"]]:
    """Colour and part of each vertex, from its own texels or else from the nearest seen vertices.

    Raises:
        ValueError: no texel is seen at all.
    """
    if not seen.any():
        raise ValueError("no frame shows any of the body")
    one_hot = F.one_hot(part[seen], len(PART_NAMES)).to(colour)
    values = torch.cat((colour[seen], one_hot, torch.ones_like(colour[seen, :1])), -1)
    total = torch.zeros(len(mesh.rest), values.shape[1])
    for corner in range(3):
        weight = texels.weights[seen, corner]
        total.index_add_(0, texels.corners[seen, corner], values * weight[:, None])
    known = total[:, -1] > 1e-6
    mean = total[known] / total[known, -1:]
    count = min(8, len(mean))
    distance, index = cKDTree(mesh.rest[known].numpy()).query(mesh.rest.numpy(), count)
    near = torch.from_numpy(distance).float().view(-1, count) + 1e-6
    share = F.normalize(near.pow(-2), p=1, dim=-1)[..., None]
    spread = (mean[torch.from_numpy(index).view(-1, count)] * share).sum(1)
    spread[known] = mean
    return spread[:, :3], spread[:, 3:-1].argmax(-1)
