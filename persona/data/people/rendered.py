"""Random people for a feed-forward network, rendered as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from persona.data.people.dressed import pose_dressed
from persona.data.people.look import random_look
from persona.data.people.portraits import VIEW, Picture, PortraitReader, Portraits, turns
from persona.data.people.render import render_person
from persona.data.people.scene import (
    NUM_BETAS,
    Casting,
    Person,
    Stance,
    frame_by,
    random_betas,
    random_stance,
    stand,
)
from persona.data.people.shots import SIZE
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.threads import use_threads
from persona.types import BodyIdentity

_SUPERSAMPLED = 2
"""Pixels of a render to one of the picture, along each side: of outlines with steps, a perceptual
loss teaches a network to set dark specks along its own."""
_FIT_TURN, _FIT_SHIFT_M, _FIT_BETAS = 0.06, 0.006, 0.3
"""Largest simulated errors of a fitted body: standard deviations of each joint's rotation
(radians), of its place in the picture, and of its shape."""


class RenderedPortraits(torch.utils.data.IterableDataset):
    """Endless random people, each a function of the seed and its number alone.

    Args:
        casting: Draws people and poses.
        reader: Reader of their photographs.
        views: Views of each person, the photograph's included.
        seed: Seed of everything.
        start: Number of the first.
    """

    def __init__(
        self, casting: Casting, reader: PortraitReader, views: int, seed: int, start: int = 0
    ) -> None:
        super().__init__()
        self.casting, self.reader, self.views = casting, reader, views
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[Portraits]:
        if torch.utils.data.get_worker_info():
            use_threads(1)  # One thread: there is already one process for each core.
        for number in turns(self.start):
            yield self.person(number)

    @torch.no_grad()
    def person(self, number: int) -> Portraits:
        """A random person; drawn again until a photograph is possible."""
        rng = np.random.default_rng([self.seed, number])
        while True:
            found = self._portraits(rng)
            if found is not None:
                return found

    def _portraits(self, rng: np.random.Generator) -> Portraits | None:
        """A random person in random clothes; None if no photograph is possible."""
        outfit = self.casting.person(rng, own=0.5).outfit
        look = random_look(self.casting.assets, outfit, rng, plain_light=rng.uniform() < 0.7)
        betas = random_betas(self.casting.body, rng)
        person = Person(outfit, look, betas)
        identity = replace(self.casting.body.zero_identity(), betas=betas)
        source = self._picture(rng, person, random_stance(rng, front=1.0), SIZE)
        try:
            photo = self.reader.photo(*as_fitted(source, identity, rng))
        except UserError:  # People who sit or spread their arms can be wider than tall.
            return None
        around = [Stance(rng.uniform(-np.pi, np.pi), rng.normal() * 0.1) for _ in range(self.views)]
        others = [self._picture(rng, person, stance, VIEW) for stance in around[1:]]
        return self.reader(photo, [source, *others], identity)

    def _picture(
        self, rng: np.random.Generator, person: Person, stance: Stance, size: tuple[int, int]
    ) -> Picture:
        mesh, body = person.outfit.mesh, self.casting.body
        pose = stand(body, self.casting.pose(rng), stance)
        vertices, _ = pose_dressed(body, mesh, person.betas, pose)
        fine = (_SUPERSAMPLED * size[0], _SUPERSAMPLED * size[1])
        shift, camera = frame_by(vertices, fine, rng.uniform(1.2, 3.0), rng.uniform(0.8, 0.93))
        pose = replace(pose, trans=pose.trans + shift)
        textures = self.casting.assets.textures
        maps = render_person(mesh, vertices + shift, person.look, textures, camera)
        return Picture(maps.colour, maps.mask[None].float(), camera, pose).resized(*size)


def as_fitted(
    picture: Picture, identity: BodyIdentity, rng: np.random.Generator
) -> tuple[Picture, BodyIdentity]:
    """A picture with the body that a fit might find in it, a background and a hard mask.

    A network that has seen true bodies and masks alone puts the background's colours on people.
    Errors range from none to the largest ones, ``_FIT_TURN`` and the others.
    """
    much = rng.uniform()

    def noise(values: torch.Tensor, deviation: float) -> torch.Tensor:
        return values + much * deviation * torch.from_numpy(rng.normal(size=values.shape)).to(
            values
        )

    pose = picture.pose
    across = torch.tensor([1.0, 1.0, 0.0])
    found = replace(
        pose, root=noise(pose.root, _FIT_TURN / 2), body=noise(pose.body, _FIT_TURN),
        left_hand=noise(pose.left_hand, 2 * _FIT_TURN),
        right_hand=noise(pose.right_hand, 2 * _FIT_TURN),
        trans=pose.trans + across * noise(torch.zeros(3), _FIT_SHIFT_M),
    )  # fmt: skip
    betas = identity.betas.clone()
    betas[:NUM_BETAS] = noise(betas[:NUM_BETAS], _FIT_BETAS)
    background = torch.from_numpy(rng.uniform(size=(3, 1, 1))).to(picture.image)
    image = torch.lerp(background, picture.image, picture.mask)
    mask = (picture.mask > rng.uniform(0.2, 0.8)).float()
    return replace(picture, image=image, pose=found, mask=mask), replace(identity, betas=betas)


@dataclass(frozen=True)
class RenderedPeople:
    """People who are drawn at random and rendered.

    Attributes:
        casting: Draws people and poses.
    """

    casting: Casting

    @property
    def body(self) -> SmplxBody:
        """The packaged one."""
        return self.casting.body

    def dataset(
        self, reader: PortraitReader, views: int, seed: int, start: int = 0
    ) -> RenderedPortraits:
        """See ``PortraitSource``."""
        return RenderedPortraits(self.casting, reader, views, seed, start)
