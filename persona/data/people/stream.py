"""An endless stream of random people for the perception network.

Rendering a person costs more than a training step on it. So worker processes render into a ring of
the latest people, and each is seen several times: before other backgrounds, behind other things, in
other light, blurred and mirrored, large and small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from persona.data.palette import PART_NAMES
from persona.data.people.backdrop import backdrop
from persona.data.people.degrade import degrade
from persona.data.people.ring import Ring
from persona.data.people.scene import Casting
from persona.data.people.shots import SIZE, Sample, Shots
from persona.modules.detect import wholebody
from persona.modules.perception.losses import Truth
from persona.modules.perception.network import MIRRORED_JOINTS
from persona.modules.perception.prompt import detector_prompt

_MOST_FRESH = 4
"""New renders taken in for a batch at most: the training waits while they are copied."""


@dataclass(frozen=True)
class Batch:
    """The network's inputs and targets."""

    image: Float[Tensor, "b 3 h w"]
    prompt: Float[Tensor, "b p h w"]
    truth: Truth


class PeopleStream(torch.utils.data.IterableDataset):
    """See the module.

    Args:
        casting: Draws people and poses.
        batch_size: Samples per batch.
        small_share: Share of the batches that have half the height and width, and four times the
            samples for that.
        seed: Seed of everything.
        num_outfits: Dressed meshes that each worker holds at a time.
        fresh: New renders that every batch waits for, beside what is there already.
        ring: Renders held.
        backdrops: Backgrounds held.
        workers: Processes that render; 0 renders in a thread.
        device: Where the batches are made.
    """

    def __init__(  # noqa: PLR0913 (by keyword)
        self,
        casting: Casting,
        *,
        batch_size: int = 32,
        small_share: float = 0.6,
        seed: int = 0,
        num_outfits: int = 24,
        fresh: int = 1,
        ring: int = 4096,
        backdrops: int = 400,
        workers: int = 0,
        device: str | torch.device = "cpu",
    ):
        super().__init__()
        self.casting, self.batch_size, self.small_share = casting, batch_size, small_share
        self.seed, self.num_outfits, self.workers = seed, num_outfits, workers
        self.fresh, self.ring = fresh, ring
        self.num_backdrops, self.device = backdrops, torch.device(device)

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng([self.seed, torch.initial_seed() % 2**31])
        shots = Shots(self.casting, self.seed, self.num_outfits)
        with Ring(shots, room=self.ring, workers=self.workers, device=self.device) as ring:
            grounds = torch.stack([
                torch.from_numpy((backdrop(rng, *SIZE) * 255).astype(np.uint8)).permute(2, 0, 1)
                for _ in range(self.num_backdrops)
            ]).to(self.device)  # fmt: skip
            while True:
                least = self.fresh if ring.made else max(self.fresh, 2 * self.batch_size)
                ring.take_in(least, max(least, _MOST_FRESH))
                small = rng.uniform() < self.small_share
                size = self.batch_size * (4 if small else 1)
                sample = ring.rows(torch.from_numpy(rng.integers(0, len(ring), size)))
                yield compose(sample, grounds, rng, 2 if small else 1)


def compose(
    sample: Sample, grounds: UInt8[Tensor, "g 3 h w"], rng: np.random.Generator, stride: int = 1
) -> Batch:
    """Composites people with backgrounds, other people and occluders; mirrors, blurs and crops.

    Args:
        sample: Rendered people.
        grounds: Backgrounds of the same size.
        rng: Chance.
        stride: Pixels of the render, down and across, for a pixel of the batch.
    """
    device, count = sample.colour.device, len(sample.colour)
    height, width = (s // stride for s in SIZE)
    mask = _shrunk((sample.part > 0)[:, None].float(), stride)
    colour = _shrunk(sample.colour.float() / 255, stride)
    points, cut = sample.points / stride, sample.cut // stride
    ground = _grounds(grounds, count, stride, rng)
    ground = _with_strangers(ground, colour, mask, rng)
    image = colour + ground * (1 - mask)
    image, cover = _with_occluders(image, _grounds(grounds, count, stride, rng), points, rng)
    alpha = mask * (1 - cover)
    row = torch.arange(height, device=device)[:, None]
    beyond = (row >= cut[:, None, None, None]).float()
    image, alpha = torch.lerp(image, torch.ones_like(image), beyond), alpha * (1 - beyond)
    part = sample.part[:, ::stride, ::stride].long() * (alpha[:, 0] > 0.5)
    image, alpha = degrade(image, alpha, rng)
    x, y = points.unbind(-1)
    seen = (x > 0) & (x < width) & (y > 0) & (y < torch.minimum(cut[:, None], row.amax()))
    prompt = _prompt(alpha, points, seen, rng)
    truth = Truth(
        alpha=alpha, parts=part, surface=sample.surface[..., ::stride, ::stride].float(),
        normal=sample.normal[..., ::stride, ::stride].float(),
        depth=sample.depth[:, None, ::stride, ::stride].float(),
        joints=sample.joints / sample.joints.new_tensor([SIZE[1], SIZE[0], 1]),
    )  # fmt: skip
    batch = Batch(image.clamp(0, 1), prompt, truth)
    return mirror(batch) if rng.uniform() < 0.5 else batch


def _shrunk(values: Float[Tensor, "b c h w"], stride: int) -> Float[Tensor, "b c h2 w2"]:
    return values if stride == 1 else F.avg_pool2d(values, stride)


def _grounds(
    grounds: UInt8[Tensor, "g 3 h w"], count: int, stride: int, rng: np.random.Generator
) -> Float[Tensor, "b 3 h2 w2"]:
    rows = torch.from_numpy(rng.integers(0, len(grounds), count)).to(grounds.device)
    out = _shrunk(grounds[rows].float() / 255, stride)
    gain = torch.from_numpy(rng.uniform(0.8, 1.25, (count, 3, 1, 1))).float().to(out)
    gain[::3] = 1
    out = (out * gain).clamp(0, 1)
    return out.flip(3) if rng.uniform() < 0.5 else out


def _with_strangers(
    ground: Tensor, colour: Tensor, mask: Tensor, rng: np.random.Generator
) -> Tensor:
    """Other people of the batch in the background, aside and smaller or larger."""
    count = len(ground)
    scale = rng.uniform(0.5, 1.3, count)
    shift = rng.choice([-1, 1], count) * rng.uniform(0.5, 1.3, count)
    chosen = torch.from_numpy(rng.uniform(size=count) < 0.2).to(ground)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = torch.from_numpy(1 / scale)
    theta[:, 0, 2] = torch.from_numpy(shift / scale)
    theta[:, 1, 2] = torch.from_numpy(rng.normal(size=count) * 0.15)
    both = torch.cat((colour, mask), 1).roll(1, 0)
    grid = F.affine_grid(theta.to(ground), list(both.shape), align_corners=False)
    moved = F.grid_sample(both, grid, align_corners=False)
    alpha = moved[:, 3:] * chosen[:, None, None, None]
    return ground * (1 - alpha) + moved[:, :3] * chosen[:, None, None, None]


def _with_occluders(
    image: Tensor, stuff: Tensor, points: Float[Tensor, "b 133 2"], rng: np.random.Generator
) -> tuple[Tensor, Float[Tensor, "b 1 h w"]]:
    """Bags at hands and things before the person, that look like ``stuff``; and where they are."""
    count, _, height, width = image.shape
    device = image.device
    grid_y = torch.arange(height, device=device)[:, None].float()
    grid_x = torch.arange(width, device=device).float()
    cover = torch.zeros(count, 1, height, width, device=device)
    stuff = stuff.flip(2)
    wrist = points[:, [wholebody.LEFT_WRIST, wholebody.RIGHT_WRIST]]
    for turn in range(2):
        near = torch.from_numpy(rng.uniform(size=(count, 1)) < 0.6).to(device)
        anywhere = torch.from_numpy(rng.uniform(size=(count, 2)) * (width, height)).float()
        centre = torch.where(near, wrist[:, turn], anywhere.to(device))
        size = (
            torch.from_numpy((rng.gamma(2.0, 14, (count, 2)) + 4) * height / SIZE[0])
            .float()
            .to(device)
        )
        angle = torch.from_numpy(rng.uniform(0, math.pi, count)).float().to(device)
        dx = grid_x - centre[:, 0, None, None]
        dy = grid_y - centre[:, 1, None, None]
        cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
        u = (cos * dx + sin * dy) / size[:, 0, None, None]
        v = (cos * dy - sin * dx) / size[:, 1, None, None]
        box = torch.from_numpy(rng.uniform(size=count) < 0.5).to(device)[:, None, None]
        inside = torch.where(box, torch.maximum(u.abs(), v.abs()) < 1, u * u + v * v < 1)
        chosen = torch.from_numpy(rng.uniform(size=count) < 0.18).to(device)[:, None, None]
        cover[:, 0] = torch.maximum(cover[:, 0], (inside & chosen).float())
    return torch.lerp(image, stuff, cover), cover


def _prompt(
    alpha: Float[Tensor, "b 1 h w"],
    points: Float[Tensor, "b 133 2"],
    seen: Tensor,
    rng: np.random.Generator,
) -> Float[Tensor, "b p h w"]:
    """Simulates a detector: a coarse mask with errors, points that are displaced or missing."""
    device, (count, _, height, width) = alpha.device, alpha.shape

    def chance(share: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(size=(count, *shape)) < share).to(device)

    coarse = F.avg_pool2d(alpha, 8)
    kernel = int(rng.choice([1, 3, 5]))
    coarse = F.avg_pool2d(coarse, kernel, 1, kernel // 2)
    bias = torch.from_numpy(rng.normal(size=(count, 1, 1, 1)) * 0.15).float().to(device)
    noise = torch.from_numpy(rng.normal(size=(count, 1, height // 64, width // 64))).float()
    noise = F.interpolate(noise.to(device), size=coarse.shape[2:], mode="bilinear")
    coarse = coarse + bias + 0.3 * noise * chance(0.4, 1, 1, 1)
    soft = (F.interpolate(coarse, size=(height, width), mode="bilinear") - 0.5) * 4 + 0.5
    soft = torch.where(chance(0.25, 1, 1, 1), alpha, soft.clamp(0, 1))
    soft = soft * ~chance(0.2, 1, 1, 1)
    sigma = (
        torch.from_numpy(rng.gamma(1.5, 2.5 * height / SIZE[0], (count, 1, 1))).float().to(device)
    )
    jitter = torch.from_numpy(rng.normal(size=(count, 133, 2))).float().to(device)
    moved = points + sigma * jitter
    order = torch.tensor(wholebody.flip_order(), device=device)
    moved = torch.where(chance(0.06, 1, 1), moved[:, order], moved)
    seen = seen & ~chance(0.12, 133) & ~chance(0.2, 1)
    for group in (wholebody.LEFT_HAND, wholebody.RIGHT_HAND):
        seen[:, group] &= ~chance(0.4, 1)
    return detector_prompt(soft[:, 0], moved, seen)


def mirror(batch: Batch) -> Batch:
    """The same people seen in a mirror: left is right."""
    truth = batch.truth
    swap = torch.arange(len(PART_NAMES))
    for index, name in enumerate(PART_NAMES):
        other = name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
        swap[index] = PART_NAMES.index(other)
    device = batch.image.device
    sign = torch.tensor([-1.0, 1, 1], device=device)
    flip3 = sign[:, None, None]
    # Channels of the prompt: mask, head, then pairs of left and right.
    channels = [0, 1, 3, 2, 5, 4, 7, 6]
    joints = truth.joints[:, list(MIRRORED_JOINTS)] * sign + (1 - sign) / 2
    return Batch(
        batch.image.flip(3),
        batch.prompt[:, channels].flip(3),
        Truth(
            alpha=truth.alpha.flip(3), parts=swap.to(device)[truth.parts].flip(2),
            surface=truth.surface.flip(3) * flip3, normal=truth.normal.flip(3) * flip3,
            depth=truth.depth.flip(3), joints=joints,
        ),
    )  # fmt: skip
