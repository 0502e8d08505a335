"""Times the Gaussian renderers on a cloud the size and shape of an avatar.

Run ``python benchmarks/render.py``: forward + backward of 14 K Gaussians with 16 channels at
256 x 192, and the forward pass of 219 K at 1024 x 576 (PERSONA's training resolution).
"""

import os
import statistics
import time
from functools import partial

import torch
from rich.console import Console
from rich.table import Table

from persona.modules.render.factory import make_renderer
from persona.types import Camera, Channel, Gaussians

REPEATS = 30
# Ends (metres, y up) and radii of the capsules of a 1.7 m person.
CAPSULES = [
    ((0.0, 1.58, 0.0), (0.0, 1.62, 0.0), 0.10),
    ((0.0, 1.0, 0.0), (0.0, 1.38, 0.0), 0.16),
    *(((side * 0.2, 1.4, 0.0), (side * 0.45, 0.95, 0.0), 0.045) for side in (-1, 1)),
    *(((side * 0.1, 0.95, 0.0), (side * 0.14, 0.08, 0.0), 0.075) for side in (-1, 1)),
]


def body_cloud(count: int, opaque: bool) -> Gaussians:
    """Gaussians on a capsule person, as large as their spacing.

    Args:
        count: Number of Gaussians.
        opaque: Opacity 1 as in PERSONA, else uniform in [0.05, 1].
    """
    g = torch.Generator().manual_seed(0)
    start, end = (torch.tensor([c[i] for c in CAPSULES]) for i in (0, 1))
    radius = torch.tensor([c[2] for c in CAPSULES])
    length = (end - start).norm(dim=-1)
    area = 2 * torch.pi * radius * (length + 2 * radius)
    part = torch.multinomial(area, count, replacement=True, generator=g)
    axis = ((end - start) / length[:, None])[part]
    # A uniform point of the cylinder or of the ball that caps it, by their areas.
    along = (torch.rand(count, generator=g) * (length + 2 * radius)[part]) - radius[part]
    beyond = (along - along.clamp(min=torch.zeros(()), max=length[part])) / radius[part]
    out = torch.randn(count, 3, generator=g)
    out = out - (out * axis).sum(-1, keepdim=True) * axis
    out = out / out.norm(dim=-1, keepdim=True) * (1 - beyond[:, None] ** 2).clamp_min(0).sqrt()
    shaft = start[part] + axis * along.clamp(min=torch.zeros(()), max=length[part])[:, None]
    means = shaft + radius[part][:, None] * (out + axis * beyond[:, None])
    spacing = (area.sum() / count).sqrt()
    scales = spacing * (0.4 + 0.5 * torch.rand(count, 3, generator=g))
    opacities = torch.ones(count) if opaque else 0.05 + 0.95 * torch.rand(count, generator=g)
    return Gaussians(means, scales, torch.randn(count, 4, generator=g), opacities)


def body_camera(height: int, width: int) -> Camera:
    """Camera 3 m in front of the person, who fills nine tenths of its height."""
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose[:3, 3] = torch.tensor([0.0, 0.86, 3.0])
    focal = torch.tensor([1.0, 1.0]) * height * 0.9 * 3 / 1.75
    return Camera(pose, focal, torch.tensor([width / 2, height / 2]), height, width)


def channel_set(count: int) -> dict[str, Channel]:
    """Sixteen channels, ten of which move the geometry."""
    g = torch.Generator().manual_seed(1)
    sizes = {"rgb": 3, "normal": 3, "seg": 3, "depth": 1, "rgb_still": 3, "rgb_aux": 3}
    return {
        name: Channel(torch.rand(count, size, generator=g), name not in ("rgb_still", "rgb_aux"))
        for name, size in sizes.items()
    }


def timed(function, device: str) -> tuple[float, float]:
    """Wall and process-CPU milliseconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def measure(table: Table, case: str, function, device: str) -> None:
    """Adds the median of many runs after a warm-up."""
    for _ in range(3):
        function()
    runs = [timed(function, device) for _ in range(REPEATS)]
    wall, cpu = zip(*runs, strict=True)
    figures = (statistics.median(wall), min(wall), statistics.median(cpu))
    table.add_row(case, *(f"{f:.1f}" for f in figures))


def step(renderer, gaussians, camera, channels):
    """One forward and backward pass with a gradient everywhere."""
    render = renderer(gaussians, camera, channels)
    images = [render.alpha, *render.images.values()]
    torch.autograd.backward(images, [torch.ones_like(i) for i in images])


def place(gaussians: Gaussians, channels: dict[str, Channel], device: str):
    """Moves to the device as leaves that require gradients."""
    tensors = [gaussians.means, gaussians.scales, gaussians.quaternions, gaussians.opacities]
    leaves = Gaussians(*(t.to(device).requires_grad_() for t in tensors))
    values = {
        n: Channel(c.values.to(device).requires_grad_(), c.geometry) for n, c in channels.items()
    }
    return leaves, values


def main() -> None:
    """Prints the table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    renderer = make_renderer()
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores"
    title = f"{renderer.name} renderer, {machine}, load {os.getloadavg()[0]:.1f}"
    table = Table("case", "wall ms", "lowest ms", "cpu ms", title=title)
    for opaque in (False, True):
        kind = "opacity 1" if opaque else "opacity 0.05-1"
        scene = place(body_cloud(14_000, opaque), channel_set(14_000), device)
        large = place(body_cloud(219_000, opaque), {"rgb": Channel(torch.rand(219_000, 3))}, device)
        views = [body_camera(*size).to(device) for size in ((256, 192), (1024, 576))]
        train = partial(step, renderer, scene[0], views[0], scene[1])
        measure(table, f"14 K, 256 x 192, forward + backward, {kind}", train, device)
        with torch.no_grad():
            small = partial(renderer, scene[0], views[0], scene[1])
            measure(table, f"14 K, 256 x 192, forward, {kind}", small, device)
            full = partial(renderer, large[0], views[1], large[1])
            measure(table, f"219 K, 1024 x 576, forward, {kind}", full, device)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
