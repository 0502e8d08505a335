"""Compiles kernels into the caches of numba, Triton and persona, so that no run waits for it.

Called by `make setup`; harmless to repeat. The CPU's parts are compiled side by side; then, on
CUDA, a few steps compile what `create.py` needs with its own settings.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hydra import initialize_config_dir

from persona.modules.body.skinning import blend_skin
from persona.modules.body.skinning_field import SkinningField
from persona.modules.body.topology import (
    neighbours,
    uniform_laplacian,
    vertex_fans,
    vertex_normals,
)
from persona.modules.cloth import xpbd
from persona.modules.losses.functional import photometric
from persona.modules.render.cpu import CpuRenderer
from persona.modules.render.mesh import rasterize, rasterize_uv
from persona.runtime.cores import available_cores
from persona.types import Camera, Channel, Gaussians


def camera() -> Camera:
    """Of a tiny image."""
    return Camera.identity(torch.full((2,), 32.0), torch.full((2,), 16.0), 32, 32)


def mesh() -> tuple[torch.Tensor, torch.Tensor]:
    """Sixty points before the camera, and twenty faces of them."""
    points = torch.randn(60, 3) * 0.3 + torch.tensor([0.0, 0.0, 2.0])
    return points.requires_grad_(), torch.arange(60).reshape(20, 3)


def gaussians() -> None:
    """Draws some, with gradients."""
    points, scales = mesh()[0], torch.full((60, 3), 0.05).requires_grad_()
    quaternions = torch.tensor([[1.0, 0, 0, 0]]).repeat(60, 1)
    channels = {"rgb": Channel(torch.rand(60, 3)), "fixed": Channel(torch.rand(60, 3), False)}
    shown = Gaussians(points, scales, quaternions, torch.ones(60))
    render = CpuRenderer()(shown, camera(), channels)
    (render.alpha.sum() + sum(image.sum() for image in render.images.values())).backward()


def meshes() -> None:
    """Draws one, and its texture; its normals and its smoothness, with gradients."""
    points, faces = mesh()
    rasterize(points.detach(), faces, camera())
    rasterize_uv(torch.rand(60, 2), faces, 16)
    vertex_normals(points, faces, vertex_fans(faces, 60)).sum().backward()
    uniform_laplacian(points, neighbours(faces, 60)).sum().backward()


def losses() -> None:
    """Compares images, with gradients."""
    image = torch.rand(3, 16, 16, requires_grad=True)
    for weight in (None, torch.ones(1, 16, 16)):
        photometric(image, torch.rand(3, 16, 16), weight, 0.8, 0.2).backward()


def skinning() -> None:
    """Builds a field, reads it, and moves points, with gradients."""
    points = mesh()[0]
    weights = torch.eye(55)[torch.arange(60) % 55]
    with TemporaryDirectory() as folder:  # A cached field would not be built.
        field = SkinningField.build(
            points.detach(), weights, resolution=8, steps=2, cache_dir=folder
        )
    field(points.detach(), torch.full((60,), 0.05))
    blend_skin(points, weights, torch.eye(4).repeat(55, 1, 1)).sum().backward()


def cloth() -> None:
    """Lets two particles on a thread fall."""
    x = np.array([[0.0, 0, 0], [0, -1, 0]])
    springs = xpbd.springs_of(np.array([[0, 1]]), x, np.zeros(1))
    drive = xpbd.Drive(np.stack((x, x)), np.zeros_like(x), np.zeros((2, 1, 8)))
    xpbd.step(x, np.zeros_like(x), np.array([0.0, 1]), springs, drive, xpbd.Air(), (0.1, 2))


PARTS: tuple[Callable[[], None], ...] = (gaussians, skinning, cloth, losses, meshes)
"""Each runs its kernels once on tiny inputs, in the types that training uses; longest first."""


def call(part: Callable[[], None]) -> None:
    """Calls a part, in the process that is given it."""
    part()


def on_gpu() -> None:
    """Trains a few steps as `create.py` does by default; nothing without CUDA."""
    # Not above: each process of a part would import them.
    from persona.commands.compile_ahead import compiled_ahead
    from persona.commands.compose import composed
    from persona.commands.create import train_overrides

    conf = Path(__file__).resolve().parents[1] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = composed("create", ["photo=none", "name=none"])
        size = config.preprocess.height, config.preprocess.width
        with compiled_ahead(train_overrides(config), *size, to_the_end=True):
            pass


def main() -> None:
    """Compiles all parts."""
    workers = min(len(PARTS), available_cores())
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for _ in pool.map(call, PARTS):
            pass
    on_gpu()


if __name__ == "__main__":
    main()
