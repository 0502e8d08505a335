"""Times PERSE's training step and frames, ours and in the order in which its public code computes.

Both have the same networks with the same weights, on the same random head. The public code differs
in two ways, read from its sources: it copies a latent to every point and multiplies it there, and
it computes the derivative of the warp by the points, with one forward-mode product per axis, and
then does not use it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from persona.modules.body.head_body import HeadBody
from persona.modules.device import pick_device
from persona.modules.head import layers
from persona.modules.head.avatar import HeadAvatar
from persona.modules.head.builder import PerseBuilder
from persona.modules.head.layers import point_jacobian
from persona.modules.losses.functional import ssim_map
from persona.modules.render.factory import make_renderer
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Channel, Pose, View

DISTANCE_M = 0.9
FOCAL_SIDES = 3.0


def compare_speed(options: Mapping[str, Any]) -> dict[str, float | int | str]:
    """Milliseconds per training step and frames per second, ours and in the public order.

    Args:
        options: ``points``; ``side`` of the square image in pixels; ``steps`` that are timed of
            each way, in turn, after two that are not timed.

    Returns:
        Medians, their ratios, and the size.
    """
    torch.manual_seed(0)
    device = pick_device("auto")
    points, side, steps = (int(options[name]) for name in ("points", "side", "steps"))
    bench = _Bench(points, side, device)
    ways = {"ours": _as_is, "public_order": _public_order}
    times: dict[str, list[float]] = {}
    for turn in range(steps + 2):
        # Alternate the two, so that other load on the machine slows both equally.
        for name, way in ways.items():
            with way(bench.avatar):
                for kind, work in (("step_ms", bench.step), ("frame_ms", bench.frame)):
                    seconds = _timed(work, device)
                    if turn >= 2:
                        times.setdefault(f"{name}_{kind}", []).append(1000 * seconds)
    median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    found: dict[str, float | int | str] = {
        "points": points, "side": side, "steps": steps, "device": _name(device),
    }  # fmt: skip
    for name in ways:
        found[f"{name}_step_ms"] = median[f"{name}_step_ms"]
        found[f"{name}_fps"] = 1000 / median[f"{name}_frame_ms"]
    found["step_ratio"] = median["public_order_step_ms"] / median["ours_step_ms"]
    found["fps_ratio"] = median["public_order_frame_ms"] / median["ours_frame_ms"]
    return found


class _Bench:
    """PERSE at its published widths, with a pose and a random picture.

    The perceptual loss is left out: its weights may be absent, and it costs both the same.
    """

    def __init__(self, points: int, side: int, device: torch.device) -> None:
        body = HeadBody()
        builder = PerseBuilder(rates={"avatar": 1e-4}, start_points=points, radius=0.15)
        avatar = builder.build(body, body.zero_identity(), edits=2)
        spare = points - len(avatar.points)
        rows = torch.randint(len(avatar.points), (spare,))
        fresh = avatar.points.detach()[rows] + 0.02 * torch.randn(spare, 3)
        avatar.resize(torch.arange(len(avatar.points)), {"points": fresh})
        # The radius that a published run has at 130,000 points.
        avatar.radius.fill_(0.002)
        avatar.edits.describe(1, "hair", torch.zeros_like(avatar.edits.betas[1]))
        self.avatar: HeadAvatar = avatar.to(device)
        self.renderer: GaussianRenderer = make_renderer("auto").to(device)
        self.optimizer = torch.optim.Adam(avatar.parameters(), 1e-4, fused=True)
        unit = torch.eye(3, device=device).repeat(5, 1, 1)
        # The head is upright before the camera, whose y points down.
        unit[0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
        trans = torch.tensor([0.0, float(body.template[:, 1].mean()), DISTANCE_M]).to(device)
        self.pose = Pose(unit, torch.zeros(body.num_expression, device=device), trans)
        focal = torch.full((2,), FOCAL_SIDES * side, device=device)
        center = torch.full((2,), side / 2, device=device)
        self.camera = Camera.identity(focal, center, side, side)
        self.truth = torch.rand(3, side, side, device=device)
        self.edit = torch.ones((), dtype=torch.long, device=device)

    def draw(self) -> Float[Tensor, "3 h w"]:
        """Renders the head on white."""
        posed = self.avatar(self.pose, View(subject=self.edit))
        drawn = self.renderer(posed.points, self.camera, {"rgb": Channel(posed.drawn.rgb)})
        return drawn.images["rgb"] + 1 - drawn.alpha

    def step(self) -> None:
        """One training step: render, loss, gradients, update."""
        image = self.draw()
        loss = (image - self.truth).abs().mean()
        loss = loss + 0.25 * (1 - ssim_map(image, self.truth, border="zero").mean())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def frame(self) -> None:
        """Poses and renders the head."""
        self.draw()


@contextmanager
def _as_is(avatar: HeadAvatar) -> Iterator[None]:
    yield


@contextmanager
def _public_order(avatar: HeadAvatar) -> Iterator[None]:
    """Copies latents to every point, and computes the derivative of the warp without using it."""
    look = avatar.look.forward

    def with_jacobian(warped: Any) -> Any:
        point_jacobian(warped.warp, warped.points)
        return look(warped)

    with (
        patch.object(layers, "split_linear", copied_linear),
        patch.object(avatar.look, "forward", with_jacobian),
    ):
        yield


def copied_linear(
    weight: Float[Tensor, "o i"], x: Float[Tensor, "*n k"], shared: Float[Tensor, "l"] | None
) -> Float[Tensor, "*n o"]:
    """``layers.split_linear`` with the shared inputs copied to every row."""
    if shared is None:
        return F.linear(x, weight)
    return F.linear(torch.cat([x, shared.expand(*x.shape[:-1], -1)], -1), weight)


def _timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call, including the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
