"""Endless renders of random people, for the workers of a ``DataLoader``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from persona.data.people.dressed import Dressed, pose_dressed
from persona.data.people.look import Look, random_look
from persona.data.people.render import render_person
from persona.data.people.scene import Casting, Person, frame_by, random_betas, random_stance, stand
from persona.modules.perception.network import NUM_JOINTS
from persona.modules.threads import use_threads
from persona.types import TensorTuple

SIZE = (512, 384)
_PER_OUTFIT = 40
"""Renders after which one of the dressed bodies is replaced."""


@dataclass(frozen=True)
class Sample(TensorTuple):
    """Rendered people, in small numbers."""

    colour: UInt8[Tensor, "b 3 h w"]
    """Black where nobody is."""
    part: UInt8[Tensor, "b h w"]
    surface: Float[Tensor, "b 3 h w"]
    normal: Float[Tensor, "b 3 h w"]
    depth: Float[Tensor, "b h w"]
    """Metres behind the pelvis."""
    points: Float[Tensor, "b 133 2"]
    """Keypoints, pixels."""
    joints: Float[Tensor, "b 22 3"]
    """x, y in pixels; metres behind the pelvis."""
    cut: Int[Tensor, "b"]
    """Row from which on the photograph ends."""


class Shots(torch.utils.data.IterableDataset):
    """Renders people one by one, others in every worker.

    Args:
        casting: Draws people and poses.
        seed: Seed of everything.
        num_outfits: Dressed meshes that a worker holds at a time; they are replaced one by one.
    """

    def __init__(self, casting: Casting, seed: int = 0, num_outfits: int = 24):
        super().__init__()
        self.casting, self.seed, self.num_outfits = casting, seed, num_outfits

    @torch.no_grad()
    def __iter__(self) -> Iterator[Sample]:
        worker = torch.utils.data.get_worker_info()
        if worker:
            use_threads(1)  # As many processes as cores are at work already.
        # A resumed run draws other people, since random states are not saved.
        rng = np.random.default_rng(
            [self.seed, torch.initial_seed() % 2**31, worker.id if worker else 0]
        )
        cast = [self._somebody(rng) for _ in range(self.num_outfits)]
        made = 0
        while True:
            yield self._shoot(rng, *cast[int(rng.integers(len(cast)))])
            made += 1
            if made % _PER_OUTFIT == 0:
                cast[int(rng.integers(len(cast)))] = self._somebody(rng)

    def _somebody(self, rng: np.random.Generator) -> tuple[Person, Dressed]:
        person = self.casting.person(rng, own=0.45)
        return person, person.outfit.mesh

    def _shoot(self, rng: np.random.Generator, person: Person, mesh: Dressed) -> Sample:
        """One render; looks, shape and pose are drawn anew."""
        body = self.casting.body
        look: Look = random_look(
            self.casting.assets, person.outfit, rng, plain_light=rng.uniform() < 0.3
        )
        betas = random_betas(body, rng)
        pose = stand(body, self.casting.pose(rng), random_stance(rng))
        vertices, joints = pose_dressed(body, mesh, betas, pose)
        share, ends = _visible_share(rng)
        top, bottom = vertices[:, 1].amin(), vertices[:, 1].amax()
        shown = vertices[vertices[:, 1] < top + share * (bottom - top) + 1e-4]
        shift, camera = frame_by(shown, SIZE, rng.uniform(1.0, 3.0), rng.uniform(0.8, 0.93))
        vertices, joints = vertices + shift, joints + shift
        aside = torch.from_numpy(rng.normal(size=2)).float() * 12
        camera = replace(camera, center_px=camera.center_px + aside)
        maps = render_person(mesh, vertices, look, self.casting.assets.textures, camera)
        points = camera.project(body.keypoints(vertices[: body.num_vertices], joints))
        cut = SIZE[0]
        if ends:
            cut = int(min(SIZE[0], float(camera.project(shown).amax(0)[1]) + 1))
        joints = joints[:NUM_JOINTS]
        depth = joints[:, 2:] - joints[:1, 2:]
        return Sample(
            colour=(maps.colour * 255).round().byte()[None],
            part=maps.part.byte()[None],
            surface=maps.surface.half()[None],
            normal=maps.normal.half()[None],
            depth=((maps.depth - joints[0, 2]) * maps.mask).half()[None],
            points=points[None],
            joints=torch.cat((camera.project(joints), depth), -1)[None],
            cut=torch.tensor([cut]),
        )


def _visible_share(rng: np.random.Generator) -> tuple[float, bool]:
    """How much of the person's height the crop shows, and whether the photo ends there."""
    kind = rng.uniform()
    if kind < 0.55:
        return 1.0, False
    if kind < 0.75:
        return rng.uniform(0.35, 1.0), True
    return rng.uniform(0.13, 0.6), False
