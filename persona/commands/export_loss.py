"""How far a rig's picture is from the avatar's own: its offsets cannot follow the pose."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.data.motion.camera import fit_camera
from persona.modules.avatar.bake import BakedMesh, bake_mesh
from persona.modules.avatar.rig import Rig
from persona.modules.body.skinning import blend_skin
from persona.modules.render.textured import draw_textured
from persona.systems.fit import Fit
from persona.types import Camera, Channel, Pose

MOST_FRAMES = 5
SIZE = (384, 288)
"""Height and width of the pictures that are compared."""
SUPERSAMPLE = 2
"""Rays per pixel side of a mesh."""


@torch.no_grad()
def rig_losses(
    system: Fit,
    poses: Callable[[int], Pose],
    count: int,
    rigs: Mapping[str, Rig],
    meshed: Rig,
    texture_px: int,
) -> dict[str, float]:
    """PSNR in dB of each rig, and of the textured mesh of one, over frames spread evenly.

    Whole pictures on white, which shows the avatar ``SIZE`` pixels large; the mean over frames.

    Args:
        system: With the avatar.
        poses: Gives a frame's pose in the axes of a camera, at any place.
        count: Number of the frames.
        rigs: Rigs by name.
        meshed: The rig whose mesh is compared as well, if it has a surface.
        texture_px: Side of the mesh's texture.
    """
    rows = torch.linspace(0, count - 1, min(MOST_FRAMES, count)).long().unique().tolist()
    mesh = None if meshed.surface is None else bake_mesh(meshed, texture_px)
    squares: dict[str, list[Tensor]] = {}
    for pose in map(poses, rows):
        pose, camera = in_view(system, pose)
        own = over_white(*system.render(pose, camera))
        shown = {name: draw_rig(system, rig, pose, camera) for name, rig in rigs.items()}
        if mesh is not None:
            shown["textured mesh"] = draw_mesh(system, meshed, mesh, pose, camera)
        for name, image in shown.items():
            squares.setdefault(name, []).append((image - own).square().mean())
    return {n: float(-10 * torch.stack(s).log10().mean()) for n, s in squares.items()}


def in_view(system: Fit, pose: Pose) -> tuple[Pose, Camera]:
    """The pose before a camera that sees all of it."""
    body, identity = system.body.dressed(system.identity)
    vertices, joints = body.shape(identity)
    bones = body.transforms_from_matrices(joints, pose.rotations)
    points = blend_skin(vertices, body.weights, bones)
    camera, shift = fit_camera(points, *SIZE)
    return replace(pose, trans=shift), camera


def draw_rig(system: Fit, rig: Rig, pose: Pose, camera: Camera) -> Float[Tensor, "3 h w"]:
    """The rig's Gaussians on white, in its light."""
    bones = system.body.transforms_from_matrices(rig.joints, pose.rotations)
    points = rig.posed(bones, pose.expression, pose.trans)
    render = system.renderer(points, camera, {"rgb": Channel(rig.lit(bones))})
    return over_white(render.images["rgb"], render.alpha)


def draw_mesh(
    system: Fit, rig: Rig, mesh: BakedMesh, pose: Pose, camera: Camera
) -> Float[Tensor, "3 h w"]:
    """The textured mesh on white."""
    bones = system.body.transforms_from_matrices(rig.joints, pose.rotations)
    raised = mesh.vertices + (rig.expr_dirs @ pose.expression)[mesh.source]
    weights = rig.weights[mesh.source]
    vertices = blend_skin(raised, weights, bones @ rig.rest_from_bind) + pose.trans
    drawn = mesh.faces, mesh.uv, mesh.faces, mesh.texture
    return over_white(*draw_textured(vertices, *drawn, camera, SUPERSAMPLE))


def over_white(
    color: Float[Tensor, "3 h w"], alpha: Float[Tensor, "1 h w"]
) -> Float[Tensor, "3 h w"]:
    """A premultiplied render composited over white."""
    return (color + 1 - alpha).clamp(0, 1)
