"""Compiles the CPU kernels into numba's cache, so that no run waits for it.

Called by `make setup`; harmless to repeat.
"""

from tempfile import TemporaryDirectory

import torch

from persona.modules.body.skinning import blend_skin
from persona.modules.body.skinning_field import SkinningField
from persona.modules.body.topology import (
    neighbours,
    uniform_laplacian,
    vertex_fans,
    vertex_normals,
)
from persona.modules.losses.functional import photometric
from persona.modules.render.cpu import CpuRenderer
from persona.modules.render.mesh import rasterize, rasterize_uv
from persona.types import Camera, Channel, Gaussians


def main() -> None:
    """Runs each kernel once on tiny inputs, in the types that training uses."""
    camera = Camera.identity(torch.full((2,), 32.0), torch.full((2,), 16.0), 32, 32)
    points = torch.randn(60, 3) * 0.3 + torch.tensor([0.0, 0.0, 2.0])
    scales = torch.full((60, 3), 0.05)
    leaves = [points.requires_grad_(), scales.requires_grad_()]
    quaternions = torch.tensor([[1.0, 0, 0, 0]]).repeat(60, 1)
    gaussians = Gaussians(leaves[0], leaves[1], quaternions, torch.ones(60))
    channels = {"rgb": Channel(torch.rand(60, 3)), "fixed": Channel(torch.rand(60, 3), False)}
    render = CpuRenderer()(gaussians, camera, channels)
    (render.alpha.sum() + sum(image.sum() for image in render.images.values())).backward()

    faces = torch.arange(60).reshape(20, 3)
    rasterize(points.detach(), faces, camera)
    rasterize_uv(torch.rand(60, 2), faces, 16)
    vertex_normals(points, faces, vertex_fans(faces, 60)).sum().backward()

    uniform_laplacian(points, neighbours(faces, 60)).sum().backward()
    image = torch.rand(3, 16, 16, requires_grad=True)
    for weight in (None, torch.ones(1, 16, 16)):
        photometric(image, torch.rand(3, 16, 16), weight, 0.8, 0.2).backward()

    weights = torch.eye(55)[torch.arange(60) % 55]
    with TemporaryDirectory() as folder:  # A cached field would not be built.
        field = SkinningField.build(
            points.detach(), weights, resolution=8, steps=2, cache_dir=folder
        )
    field(points.detach(), scales.detach()[:, 0])
    blend_skin(points, weights, torch.eye(4).repeat(55, 1, 1)).sum().backward()


if __name__ == "__main__":
    main()
