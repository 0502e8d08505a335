"""Photographs of the textured, posed person under a directional light that casts shadows.

Shots are made from the triangle mesh, supersampled, in linear light; the maps beside them (albedo,
mask, depth, normal, parts) are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int, Integer, UInt8
from torch import Tensor

from persona.data.layout import FrameData
from persona.data.palette import colours_from_classes
from persona.modules.avatar.light import GAMMA
from persona.modules.body.topology import vertex_normals
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyPose, Camera, MeshRender

LIGHT_DISTANCE_M = 12.0
LIGHT_REACH_M = 1.5
"""Half side of what the shadow map covers around the person."""
SHADOW_SIDE_PX = 640
SHADOW_BIAS_M = 0.012
SHADOW_SOFT_M = 0.02


@dataclass(frozen=True)
class Surface:
    """The part of the mesh that does not change with the pose."""

    faces: Int[Tensor, "f 3"]
    coords: Float[Tensor, "f 3 2"]
    """Texture coordinates per corner: u right, second downwards; they wrap."""
    texture: Int[Tensor, "f"]
    """Index into the textures of a look."""
    part: Int[Tensor, "f"]
    """Class in the palette."""


@dataclass(frozen=True)
class Light:
    """Sun and sky, in the camera's frame."""

    direction: Float[Tensor, "3"]
    """Unit, towards the sun."""
    sun: float = 0.75
    sky: float = 0.45


@dataclass(frozen=True)
class Shot:
    """A photograph without background, and its truth."""

    image: Float32[np.ndarray, "h w 3"]
    """Shaded colour times coverage."""
    albedo: Float32[np.ndarray, "h w 3"]
    """Unshaded colour times coverage."""
    coverage: Float32[np.ndarray, "h w"]
    depth: Float32[np.ndarray, "h w"]
    """Metres, zero outside the mask."""
    normal: Float32[np.ndarray, "h w 3"]
    """Unit, x right, y up, z to the camera; zero outside the mask."""
    part: Int[np.ndarray, "h w"]
    """Class in the palette, zero outside the mask."""

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """Pixels at least half covered."""
        return self.coverage >= 0.5


def shot_frame(
    shot: Shot,
    image: Float32[np.ndarray, "h w 3"],
    camera: Camera,
    pose: BodyPose,
    parts: Integer[np.ndarray, "h w"],
    keypoints: Float32[np.ndarray, "133 3"],
    others: Mapping[str, np.ndarray] | None = None,
) -> FrameData:
    """A shot as a subject's frame: the picture, its maps, and where these are known.

    Args:
        shot: Gives the maps.
        image: The shot with a background, RGB in [0, 1].
        camera: That took it.
        pose: On file.
        parts: Class of the palette at each pixel.
        keypoints: See ``FrameData``.
        others: Likewise.
    """
    filled = shot.mask & (shot.part > 0)
    return FrameData(
        image=as_bytes(image), mask=shot.mask, camera=camera, pose=pose, depth=shot.depth,
        normal=shot.normal, seg=colours_from_classes(parts), depth_mask=filled, normal_mask=filled,
        seg_mask=filled, keypoints=keypoints, others=others or {},
    )  # fmt: skip


def as_bytes(image: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Bytes of a picture in [0, 1]."""
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


class Look:
    """The person's textures, each as a pyramid of halved sizes."""

    def __init__(self, textures: list[Float32[np.ndarray, "_ _ 3"]]):
        """``textures``: square, RGB in [0, 1]."""
        self.sides = [len(texture) for texture in textures]
        self._pyramids = [_pyramid(texture) for texture in textures]

    def level(self, texture: int, level: int) -> Float[Tensor, "1 3 h w"]:
        """A texture halved ``level`` times (or as often as it goes), with a texel of wrapping."""
        pyramid = self._pyramids[texture]
        return pyramid[min(level, len(pyramid) - 1)]

    def blend(self, other: Look, share: float) -> Look:
        """This look, ``share`` of the way to the other."""
        return _Blend(self, other, share)


class _Blend(Look):
    """Mixes two looks when and where it is asked."""

    def __init__(self, one: Look, two: Look, share: float):
        self.one, self.two, self.share = one, two, share
        self.sides = one.sides

    def level(self, texture: int, level: int) -> Float[Tensor, "1 3 h w"]:
        one, two = (look.level(texture, level) for look in (self.one, self.two))
        return torch.lerp(one, two, self.share)


def _pyramid(texture: Float32[np.ndarray, "t t 3"]) -> list[Float[Tensor, "1 3 h w"]]:
    levels = [_padded(texture)]
    while len(texture) > 16:
        texture = cv2.resize(texture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        levels.append(_padded(texture))
    return levels


def _padded(texture: np.ndarray) -> Float[Tensor, "1 3 h w"]:
    """With one texel of wrapping around it, channels first."""
    return F.pad(torch.from_numpy(texture).permute(2, 0, 1)[None], (1, 1, 1, 1), mode="circular")


def texels_per_m(surface: Surface, rest: Float[Tensor, "p 3"], look: Look) -> list[float]:
    """Median texture resolution on the surface, per texture."""
    a, b, c = rest[surface.faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1).clamp(min=1e-12)
    one = surface.coords[:, 1] - surface.coords[:, 0]
    two = surface.coords[:, 2] - surface.coords[:, 0]
    ratio = (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs() / area
    return [
        float(ratio[surface.texture == i].median().sqrt()) * side
        for i, side in enumerate(look.sides)
    ]


class Studio:
    """Renders one person's surface."""

    def __init__(self, surface: Surface, rest: Float[Tensor, "p 3"], look: Look, supersample: int):
        """Prepares.

        Args:
            surface: The static part of the mesh.
            rest: Its unposed vertices, from which the detail of the textures is judged.
            look: Any look; all have the same sizes.
            supersample: Rays per pixel side.
        """
        self.surface = surface
        self.supersample = supersample
        self._density = texels_per_m(surface, rest, look)

    def shoot(
        self,
        vertices: Float[Tensor, "p 3"],
        camera: Camera,
        light: Light | Float[Tensor, "p"],
        look: Look,
    ) -> Shot:
        """Photographs posed vertices (camera coordinates, metres; identity extrinsics).

        light: Light of the room; or what falls on each vertex, as ``shade`` gives it.
        """
        s, surface = self.supersample, self.surface
        fine = camera.resize(camera.height * s, camera.width * s)
        render = rasterize(vertices, surface.faces, fine)
        row, column = torch.nonzero(render.mask, as_tuple=True)
        hit = MeshRender(
            render.face[row, column][:, None],
            render.barycentric[row, column][:, None],
            render.depth[row, column][:, None],
        )
        normals = vertex_normals(vertices, surface.faces)
        values = interpolate(hit, surface.faces, torch.cat((vertices, normals), -1))[:, 0]
        point, normal = values[:, :3], F.normalize(values[:, 3:], dim=-1)
        # Cloth is seen from both sides.
        normal = torch.where((normal * point).sum(-1, keepdim=True) > 0, -normal, normal)
        albedo = self._albedo(hit, fine, look)
        if isinstance(light, Light):
            shade = self.shade(vertices, point, normal, light)
        else:
            shade = interpolate(hit, surface.faces, light[:, None])[:, 0, 0]
        image = (albedo.clamp(min=0) ** GAMMA * shade[:, None]).clamp(0, 1) ** (1 / GAMMA)
        outward = normal * torch.tensor([1.0, -1.0, -1.0])
        ones = torch.ones_like(shade)[:, None]
        layers = torch.cat((image, albedo, ones, hit.depth, outward), -1)
        layered = torch.zeros(fine.height, fine.width, layers.shape[-1])
        layered[row, column] = layers
        rays = [layered[i::s, j::s] for i in range(s) for j in range(s)]
        mean = sum(rays, torch.zeros_like(rays[0])) / s**2
        parts = torch.zeros(fine.height, fine.width, dtype=torch.int64)
        parts[row, column] = surface.part[hit.face[:, 0]]
        return _shot(mean, parts, s)

    def _albedo(self, hit: MeshRender, camera: Camera, look: Look) -> Float[Tensor, "k 3"]:
        """Texture colours, from the pyramid level whose texels are about as large as a ray."""
        face = hit.face[:, 0]
        coords = (self.surface.coords[face] * hit.barycentric[:, 0, :, None]).sum(1)
        coords = coords - coords.floor()
        texture = self.surface.texture[face]
        colours = torch.zeros(len(face), 3)
        distance = float(hit.depth.median()) if len(face) else 1.0
        rays_per_m = float(camera.focal_px.mean()) / distance
        for index, density in enumerate(self._density):
            chosen = torch.nonzero(texture == index)[:, 0]
            image = look.level(index, int(math.log2(max(1.0, density / rays_per_m)) + 0.3))
            size = torch.tensor([image.shape[-1], image.shape[-2]])
            grid = 2 * (coords[chosen] * (size - 2) + 1) / size - 1
            sampled = F.grid_sample(image, grid[None, None], align_corners=False)
            colours[chosen] = sampled[0, :, 0].T
        return colours

    def shade(
        self,
        vertices: Float[Tensor, "p 3"],
        point: Float[Tensor, "k 3"],
        normal: Float[Tensor, "k 3"],
        light: Light,
    ) -> Float[Tensor, "k"]:
        """Light that falls on points of a posed surface, linear, 1 being full."""
        camera = _light_camera(light, vertices.mean(0))
        depth = rasterize(vertices, self.surface.faces, camera).depth
        depth = torch.where(depth > 0, depth, torch.inf)
        facing = (normal @ light.direction).clamp(min=0)
        moved = point + 0.006 * normal
        view = camera.cam_from_world
        z = moved @ view[2, :3] + view[2, 3]
        pixel = camera.project(moved) - 0.5
        low, share = pixel.floor(), pixel - pixel.floor()
        shadow = torch.zeros_like(z)
        for dx in (0, 1):
            for dy in (0, 1):
                column, row = (low + torch.tensor([dx, dy])).long().clamp(0, SHADOW_SIDE_PX - 1).T
                hidden = ((z - depth[row, column] - SHADOW_BIAS_M) / SHADOW_SOFT_M).clamp(0, 1)
                weight = (share[:, 0] if dx else 1 - share[:, 0]) * (
                    share[:, 1] if dy else 1 - share[:, 1]
                )
                shadow += weight * hidden
        sky = light.sky * (0.8 - 0.2 * normal[:, 1])
        return sky + light.sun * facing * (1 - shadow)


def _light_camera(light: Light, target: Float[Tensor, "3"]) -> Camera:
    """A far camera that looks along the light at the person."""
    forward = -light.direction
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]), forward), dim=-1)
    rotation = torch.stack((right, torch.linalg.cross(forward, right), forward))
    view = torch.eye(4)
    view[:3, :3] = rotation
    view[:3, 3] = -rotation @ (target + light.direction * LIGHT_DISTANCE_M)
    half = SHADOW_SIDE_PX / 2
    focal = half * LIGHT_DISTANCE_M / LIGHT_REACH_M
    return Camera(
        view,
        torch.tensor([focal, focal]),
        torch.tensor([half, half]),
        SHADOW_SIDE_PX,
        SHADOW_SIDE_PX,
    )


def _shot(mean: Float[Tensor, "h w c"], parts: Int[Tensor, "g v"], s: int) -> Shot:
    """Pixel values from means over the rays and the part that most rays hit."""
    coverage = mean[..., 6]
    mask = coverage >= 0.5
    depth = torch.where(mask, mean[..., 7] / coverage.clamp(min=1e-6), 0)
    normal = F.normalize(mean[..., 8:11], dim=-1) * mask[..., None]
    height, width = mask.shape
    rays = parts.view(height, s, width, s).transpose(1, 2).reshape(height, width, s * s)
    votes = (rays[..., None] == rays[..., None, :]).sum(-1) * (rays > 0)
    part = rays.gather(-1, votes.argmax(-1, keepdim=True))[..., 0] * mask
    arrays = (mean[..., :3], mean[..., 3:6], coverage, depth, normal, part)
    return Shot(*(a.contiguous().numpy() for a in arrays))
