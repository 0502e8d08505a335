"""How well the CUDA backends agree with the cpu backend, in values and gradients.

``python benchmarks/agreement.py [FILE.json]``, on a machine with CUDA. Two scenes in float32: an
avatar-like one (opaque Gaussians as large as their spacing on a capsule person) and a random cloud
of mixed opacity. A Gaussian whose share of a pixel is about 1/255, and one that would end a pixel,
are drawn or not by rounding: so the number of pixels that differ by more than 1e-3 is reported
beside the maximum.
"""

import sys
from dataclasses import fields
from pathlib import Path

import torch
from render import body_camera, body_cloud, channel_set
from rich.console import Console
from rich.table import Table
from speed import machine

from persona.data.io import write_json
from persona.errors import UserError
from persona.modules.render.factory import make_renderer
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Channel, Gaussians

COUNT = 4000
SIZE = 256, 192
BOUND = 1e-3
BACKENDS = "cuda", "gsplat"


def random_cloud(count: int) -> Gaussians:
    """Anisotropic Gaussians of any opacity before an identity camera, some beyond its edges."""
    g = torch.Generator().manual_seed(0)
    means = torch.randn(count, 3, generator=g) * torch.tensor([0.4, 0.5, 0.3])
    means[:, 2] += 2
    scales = 0.005 * 8 ** torch.rand(count, 3, generator=g)
    quaternions = torch.randn(count, 4, generator=g)
    return Gaussians(means, scales, quaternions, 0.05 + 0.95 * torch.rand(count, generator=g))


def random_camera(height: int, width: int) -> Camera:
    """Oblong pixels, principal point off the centre."""
    focal, centre = torch.tensor([200.0, 220.0]), torch.tensor([width * 0.47, height * 0.53])
    return Camera.identity(focal, centre, height, width)


def drawn(
    renderer: GaussianRenderer, gaussians: Gaussians, camera: Camera, channels: dict[str, Channel]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Images and gradients of a fixed random functional of them, on the host."""
    device = renderer.device_type
    leaves = {
        f.name: getattr(gaussians, f.name).detach().to(device).requires_grad_()
        for f in fields(Gaussians)
    }
    values = {n: c.values.detach().to(device).requires_grad_() for n, c in channels.items()}
    render = renderer(
        Gaussians(**leaves),
        camera.to(device),
        {n: Channel(values[n], c.geometry) for n, c in channels.items()},
    )
    images = {"alpha": render.alpha, **render.images}
    g, total = torch.Generator().manual_seed(2), 0.0
    for image in images.values():
        total = total + (image * torch.randn(image.shape, generator=g).to(device)).sum()
    total.backward()
    grads = {name: leaf.grad.cpu() for name, leaf in (leaves | values).items()}
    return {name: image.detach().cpu() for name, image in images.items()}, grads


def compare(backend: str, gaussians: Gaussians, camera: Camera) -> dict[str, object]:
    """Largest difference of each image and the cosine of each gradient, against the CPU's."""
    channels = channel_set(len(gaussians.means))
    (ours, a), (theirs, b) = (
        drawn(make_renderer(name).to(device), gaussians, camera, channels)
        for name, device in ((backend, "cuda"), ("cpu", "cpu"))
    )
    differences = {name: (ours[name] - theirs[name]).abs() for name in ours}
    stacked = torch.cat(list(differences.values())).amax(0)

    def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
        x, y = x.double().flatten(), y.double().flatten()
        return float(x @ y / (x.norm() * y.norm()).clamp_min(1e-30))

    return {
        "max_difference": {name: float(d.max()) for name, d in differences.items()},
        "pixels_above_bound": float((stacked > BOUND).float().mean()),
        "gradient_cosine": {name: cosine(a[name], b[name]) for name in a},
    }


def main(path: str | None = None) -> None:
    """Prints and, with a path, saves."""
    if not torch.cuda.is_available():
        raise UserError(
            "agreement.py compares CUDA's renderers with the CPU's: there is no CUDA here"
        )
    scenes = {
        "avatar-like": (body_cloud(COUNT, opaque=True), body_camera(*SIZE)),
        "random": (random_cloud(COUNT), random_camera(*SIZE)),
    }
    results = {
        f"{backend}, {name}": compare(backend, *scene)
        for backend in BACKENDS
        for name, scene in scenes.items()
    }
    title = f"against cpu, {COUNT} Gaussians, {SIZE[0]} x {SIZE[1]}"
    columns = (
        "backend, scene",
        "max image difference",
        "pixels above 1e-3",
        "lowest gradient cosine",
    )
    table = Table(*columns, title=title)
    for name, found in results.items():
        worst, cosine = (f(found[key].items(), key=lambda item: item[1]) for f, key in
                         ((max, "max_difference"), (min, "gradient_cosine")))  # fmt: skip
        table.add_row(name, f"{worst[1]:.1e} ({worst[0]})", f"{found['pixels_above_bound']:.3%}",
                      f"{cosine[1]:.6f} ({cosine[0]})")  # fmt: skip
    Console(width=100).print(table)
    if path is not None:
        result = {"command": "python benchmarks/agreement.py", "gaussians": COUNT, "size": SIZE,
                  "machine": machine(), "scenes": results}  # fmt: skip
        write_json(Path(path), result, indent=1)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
