"""An endless stream of random people for the perception network, rendered where it is trained.

Rendering a person costs more than a training step on it. So people go into a ring of the latest
renders, and each is seen several times: before other backgrounds, behind other things, in other
light, blurred and mirrored.
"""

from __future__ import annotations

import copy
import math
import queue
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from persona.data.palette import PART_NAMES
from persona.data.people.backdrop import backdrop
from persona.data.people.degrade import degrade
from persona.data.people.dressed import Dressed, pose_dressed
from persona.data.people.look import Look, random_look
from persona.data.people.render import render_person
from persona.data.people.scene import Casting, Person, frame_by, random_stance, stand
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import wholebody
from persona.modules.perception.losses import Truth
from persona.modules.perception.network import NUM_BETAS, NUM_ROTATIONS
from persona.modules.perception.prompt import detector_prompt
from persona.types import TensorTuple

SIZE = (512, 384)
_SHOTS_PER_OUTFIT = 40
_WAITING = 16
_MIRRORED_JOINTS = (
    0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20,
)  # fmt: skip


@dataclass(frozen=True)
class Sample(TensorTuple):
    """Rendered people, in small numbers."""

    colour: UInt8[Tensor, "b 3 h w"]
    part: UInt8[Tensor, "b h w"]
    surface: Float[Tensor, "b 3 h w"]
    normal: Float[Tensor, "b 3 h w"]
    depth: Float[Tensor, "b h w"]
    points: Float[Tensor, "b 133 2"]
    """Keypoints, pixels."""
    rotations: Float[Tensor, "b 22 3 3"]
    betas: Float[Tensor, "b 12"]
    cut: Int[Tensor, "b"]
    """Row from which on the photograph ends."""


@dataclass(frozen=True)
class Batch:
    """What the network sees and should give."""

    image: Float[Tensor, "b 3 h w"]
    prompt: Float[Tensor, "b p h w"]
    truth: Truth


class PeopleStream(torch.utils.data.IterableDataset):
    """See the module.

    Args:
        casting: Draws people and poses.
        batch_size: Samples per batch.
        seed: Of everything.
        num_outfits: Dressed meshes held at a time; they are replaced one by one.
        fresh: New renders that every batch waits for, beside what is there already.
        ring: Renders held.
        backdrops: Backgrounds held.
        device: Where it renders.
    """

    def __init__(
        self,
        casting: Casting,
        *,
        batch_size: int = 32,
        seed: int = 0,
        num_outfits: int = 96,
        fresh: int = 1,
        ring: int = 4096,
        backdrops: int = 400,
        device: str | torch.device = "cpu",
    ):
        super().__init__()
        self.casting, self.batch_size, self.seed = casting, batch_size, seed
        self.num_outfits, self.fresh, self.ring = num_outfits, fresh, ring
        self.num_backdrops, self.device = backdrops, torch.device(device)

    def __iter__(self) -> Iterator[Batch]:
        # A resumed run draws other people: chance is not a part of its state.
        rng = np.random.default_rng([self.seed, torch.initial_seed() % 2**31])
        grounds = torch.stack([
            torch.from_numpy((backdrop(rng, *SIZE) * 255).astype(np.uint8)).permute(2, 0, 1)
            for _ in range(self.num_backdrops)
        ]).to(self.device)  # fmt: skip
        shots: queue.Queue[Sample | Exception] = queue.Queue(_WAITING)
        over = threading.Event()
        maker = threading.Thread(target=self._render, args=(rng.spawn(1)[0], shots, over))
        maker.start()
        try:
            yield from self._batches(rng, shots, grounds)
        finally:
            over.set()
            maker.join()

    def _batches(
        self, rng: np.random.Generator, shots: queue.Queue, grounds: UInt8[Tensor, "g 3 h w"]
    ) -> Iterator[Batch]:
        """Fills the ring with what has been rendered meanwhile, and draws from it."""
        store: Sample | None = None
        made = 0
        while True:
            least = self.fresh if made else max(self.fresh, 2 * self.batch_size)
            while least > 0 or not shots.empty():
                shot = shots.get()
                if isinstance(shot, Exception):
                    raise shot
                if store is None:
                    store = shot._map(lambda t: t.new_zeros(self.ring, *t.shape[1:]))
                for name, value in vars(shot).items():
                    getattr(store, name)[made % self.ring] = value[0]
                    if value.is_cuda:
                        # Its memory belongs to the renderer's stream, which may not have it yet.
                        value.record_stream(torch.cuda.current_stream(value.device))
                made, least = made + 1, least - 1
            count = min(made, self.ring)
            rows = torch.from_numpy(rng.integers(0, count, self.batch_size)).to(self.device)
            yield compose(store._map(lambda t, r=rows: t[r]), grounds, rng)

    def _render(self, rng: np.random.Generator, shots: queue.Queue, over: threading.Event) -> None:
        """Renders people until the batches are over, on a CUDA stream of its own."""
        try:
            body = copy.deepcopy(self.casting.body).to(self.device)
            textures = self.casting.assets.textures.to(self.device)
            cast = [self._somebody(rng) for _ in range(self.num_outfits)]
            cuda = self.device.type == "cuda"
            lane = torch.cuda.Stream(self.device) if cuda else None
            made = 0
            with torch.no_grad(), torch.cuda.stream(lane) if cuda else nullcontext():
                while not over.is_set():
                    shot = self._shoot(rng, body, cast[int(rng.integers(len(cast)))], textures)
                    made += 1
                    if lane is not None:
                        lane.synchronize()
                    if made % _SHOTS_PER_OUTFIT == 0:
                        cast[int(rng.integers(len(cast)))] = self._somebody(rng)
                    while not over.is_set():
                        try:
                            shots.put(shot, timeout=0.2)
                            break
                        except queue.Full:
                            continue
        except Exception as error:  # Raised where the batches are drawn.
            shots.put(error)

    def _somebody(self, rng: np.random.Generator) -> tuple[Person, Dressed]:
        person = self.casting.person(rng, own=0.45)
        return person, person.outfit.mesh.to(self.device)

    def _shoot(
        self,
        rng: np.random.Generator,
        body: SmplxBody,
        who: tuple[Person, Dressed],
        textures: UInt8[Tensor, "t s s 4"],
    ) -> Sample:
        """One render; looks, shape and pose are drawn anew."""
        person, mesh = who
        look: Look = random_look(
            self.casting.assets, person.outfit, rng, plain_light=rng.uniform() < 0.3
        ).to(self.device)
        betas = torch.zeros(body.num_betas)
        betas[:NUM_BETAS] = torch.from_numpy(rng.normal(size=NUM_BETAS).clip(-2.2, 2.2) * 0.8)
        pose = stand(body, self.casting.pose(rng), random_stance(rng)).to(self.device)
        vertices, joints = pose_dressed(body, mesh, betas.to(self.device), pose)
        share, ends = _visible_share(rng)
        top, bottom = vertices[:, 1].amin(), vertices[:, 1].amax()
        shown = vertices[vertices[:, 1] < top + share * (bottom - top) + 1e-4]
        shift, camera = frame_by(shown, SIZE, rng.uniform(1.0, 3.0), rng.uniform(0.8, 0.93))
        camera = camera.to(self.device)
        vertices, joints = vertices + shift, joints + shift
        aside = torch.from_numpy(rng.normal(size=2)).float().to(self.device) * 12
        camera = replace(camera, center_px=camera.center_px + aside)
        maps = render_person(mesh, vertices, look, textures, camera)
        points = camera.project(body.keypoints(vertices[: body.num_vertices], joints))
        cut = SIZE[0]
        if ends:
            cut = int(min(SIZE[0], float(camera.project(shown).amax(0)[1]) + 1))
        inside = maps.mask
        return Sample(
            colour=(maps.colour * 255).round().byte()[None],
            part=maps.part.byte()[None],
            surface=maps.surface.half()[None],
            normal=maps.normal.half()[None],
            depth=((maps.depth - joints[0, 2]) * inside).half()[None],
            points=points[None],
            rotations=matrix_from_axis_angle(pose.joints[:NUM_ROTATIONS])[None],
            betas=betas[None, :NUM_BETAS].to(self.device),
            cut=torch.tensor([cut], device=self.device),
        )


def _visible_share(rng: np.random.Generator) -> tuple[float, bool]:
    """How much of the person's height the crop shows, and whether the photo ends there."""
    kind = rng.uniform()
    if kind < 0.55:
        return 1.0, False
    if kind < 0.75:
        return rng.uniform(0.35, 1.0), True
    return rng.uniform(0.13, 0.6), False


def compose(sample: Sample, grounds: UInt8[Tensor, "g 3 h w"], rng: np.random.Generator) -> Batch:
    """Puts people before backgrounds, among others, behind things; and mirrors, blurs, cuts."""
    device, count = sample.colour.device, len(sample.colour)
    height, width = SIZE
    mask = (sample.part > 0)[:, None].float()
    colour = sample.colour.float() / 255
    ground = _grounds(grounds, count, rng)
    ground = _with_strangers(ground, colour, mask, rng)
    image = colour * mask + ground * (1 - mask)
    image, cover = _with_occluders(image, grounds, sample.points, rng)
    alpha = mask * (1 - cover)
    row = torch.arange(height, device=device)[:, None]
    beyond = (row >= sample.cut[:, None, None, None]).float()
    image, alpha = torch.lerp(image, torch.ones_like(image), beyond), alpha * (1 - beyond)
    part = sample.part.long() * (alpha[:, 0] > 0.5)
    image, alpha = degrade(image, alpha, rng)
    x, y = sample.points.unbind(-1)
    seen = (x > 0) & (x < width) & (y > 0) & (y < torch.minimum(sample.cut[:, None], row.amax()))
    prompt = _prompt(alpha, sample.points, seen, rng)
    truth = Truth(
        alpha=alpha, parts=part, surface=sample.surface.float(), normal=sample.normal.float(),
        depth=sample.depth[:, None].float(), rotations=sample.rotations, betas=sample.betas,
    )  # fmt: skip
    batch = Batch(image.clamp(0, 1), prompt, truth)
    return mirror(batch) if rng.uniform() < 0.5 else batch


def _grounds(
    grounds: UInt8[Tensor, "g 3 h w"], count: int, rng: np.random.Generator
) -> Float[Tensor, "b 3 h w"]:
    rows = torch.from_numpy(rng.integers(0, len(grounds), count)).to(grounds.device)
    out = grounds[rows].float() / 255
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
    both = torch.cat((colour * mask, mask), 1).roll(1, 0)
    grid = F.affine_grid(theta.to(ground), list(both.shape), align_corners=False)
    moved = F.grid_sample(both, grid, align_corners=False)
    alpha = moved[:, 3:] * chosen[:, None, None, None]
    return ground * (1 - alpha) + moved[:, :3] * chosen[:, None, None, None]


def _with_occluders(
    image: Tensor, grounds: Tensor, points: Float[Tensor, "b 133 2"], rng: np.random.Generator
) -> tuple[Tensor, Float[Tensor, "b 1 h w"]]:
    """Bags at hands and things before the person; and where they are."""
    count, _, height, width = image.shape
    device = image.device
    grid_y = torch.arange(height, device=device)[:, None].float()
    grid_x = torch.arange(width, device=device).float()
    cover = torch.zeros(count, 1, height, width, device=device)
    rows = torch.from_numpy(rng.integers(0, len(grounds), count)).to(device)
    stuff = grounds[rows].flip(2).float() / 255
    wrist = points[:, [wholebody.LEFT_WRIST, wholebody.RIGHT_WRIST]]
    for turn in range(2):
        near = torch.from_numpy(rng.uniform(size=(count, 1)) < 0.6).to(device)
        anywhere = torch.from_numpy(rng.uniform(size=(count, 2)) * (width, height)).float()
        centre = torch.where(near, wrist[:, turn], anywhere.to(device))
        size = torch.from_numpy(rng.gamma(2.0, 14, (count, 2)) + 4).float().to(device)
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
    """What a detector would say: a coarse mask with errors, points that are off or missing."""
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
    sigma = torch.from_numpy(rng.gamma(1.5, 2.5, (count, 1, 1))).float().to(device)
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
    rotations = truth.rotations[:, list(_MIRRORED_JOINTS)] * sign[:, None] * sign
    return Batch(
        batch.image.flip(3),
        batch.prompt[:, channels].flip(3),
        Truth(
            alpha=truth.alpha.flip(3), parts=swap.to(device)[truth.parts].flip(2),
            surface=truth.surface.flip(3) * flip3, normal=truth.normal.flip(3) * flip3,
            depth=truth.depth.flip(3), rotations=rotations, betas=truth.betas,
        ),
    )  # fmt: skip
