"""People as a feed-forward network learns them: a photograph, and others of the same person.

The photograph is read as at inference, by the body that stands in it; ``PhotoSize`` says how.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numba
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from persona.data.people.dressed import pose_dressed
from persona.data.people.look import random_look
from persona.data.people.render import render_person
from persona.data.people.ring import Ring
from persona.data.people.scene import Casting, Person, Stance, frame_by, random_stance, stand
from persona.data.people.shots import SIZE
from persona.errors import UserError
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm.sight import Photo, posed_body, read_photo
from persona.modules.lhm.template import PointTemplate, sample_points, template_on
from persona.types import BodyIdentity, BodyPose, Camera, TensorTuple

_PER_OUTFIT = 12
"""People after which one of the dressed bodies is replaced."""
_NUM_BETAS = 12
_MOST_FRESH = 8
_RANKS_APART = 1_000_003
"""Between the seeds of two processes, which see different people."""
VIEW = (384, 288)
"""Height and width of the views that are learnt from, pixels."""


@runtime_checkable
class PhotoSize(Protocol):
    """How large a network takes photographs and bodies."""

    num_points: int
    photo_px: int
    head_px: int
    sees: bool


@dataclass(frozen=True)
class Portraits(TensorTuple):
    """A batch of people; v views each, the photograph's own first."""

    image: UInt8[Tensor, "b 3 h w"]
    head: UInt8[Tensor, "b 3 s s"]
    sight: Float[Tensor, "b n k"]
    """These three make a ``Photo``, once they are floats in [0, 1]."""
    colour: UInt8[Tensor, "b v 3 y x"]
    """On white."""
    mask: UInt8[Tensor, "b v y x"]
    focal_px: Float[Tensor, "b v 2"]
    center_px: Float[Tensor, "b v 2"]
    rotations: Float[Tensor, "b v j 3 3"]
    trans: Float[Tensor, "b v 3"]
    betas: Float[Tensor, "b e"]

    @property
    def photo(self) -> Photo:
        """What the network sees."""
        image, head = self.image.float() / 255, self.head.float() / 255
        return Photo(image, head, self.sight.float())

    def camera(self, person: int, view: int) -> Camera:
        """Of one view; the body is in its frame."""
        focal, centre = self.focal_px[person, view], self.center_px[person, view]
        return Camera.identity(focal, centre, *self.colour.shape[3:])


@dataclass(frozen=True)
class Picture:
    """One picture of a person, and the body in it."""

    image: Float[Tensor, "3 h w"]
    """[0, 1]; what it shows outside of the mask does not count."""
    mask: Float[Tensor, "1 h w"]
    camera: Camera
    """Its world is its own frame."""
    pose: BodyPose

    def resized(self, height: int, width: int) -> Picture:
        """At another size; where the shape differs, people are neither stretched nor cut."""
        scale = min(height / self.camera.height, width / self.camera.width)
        inner = [max(1, round(s * scale)) for s in self.mask.shape[1:]]
        layers = torch.cat((self.image * self.mask, self.mask))[None]
        layers = F.interpolate(layers, inner, mode="bilinear", antialias=True)[0]
        camera = self.camera.resize(*inner)
        layers = F.pad(layers, (0, width - inner[1], 0, height - inner[0]))
        image, mask = layers[:3] / layers[3:].clamp(min=1e-3), layers[3:]
        return Picture(
            image.clamp(0, 1), mask, replace(camera, height=height, width=width), self.pose
        )


class PortraitReader:
    """Makes ``Portraits`` of one person from pictures with bodies in them.

    Args:
        body: Of all people.
        size: Of the network's input.
    """

    template: PointTemplate

    def __init__(self, body: SmplxBody, size: PhotoSize) -> None:
        self.body, self.size = body, size
        self.template, self.vertex = template_on(body, sample_points(body, size.num_points))

    def photo(self, picture: Picture, identity: BodyIdentity) -> Photo:
        """A photograph as the network takes it."""
        pose = matrix_pose(self.body, picture.pose)
        there = posed_body(self.body, identity, self.template, self.vertex, pose)
        return read_photo(
            picture.image, picture.mask, picture.camera, there, photo_px=self.size.photo_px,
            head_px=self.size.head_px, sees=self.size.sees,
        )  # fmt: skip

    def __call__(self, photo: Photo, views: list[Picture], identity: BodyIdentity) -> Portraits:
        """One person, as a batch of one."""
        small = [view.resized(*VIEW) for view in views]
        poses = [matrix_pose(self.body, view.pose) for view in small]

        def stacked(values: list[Tensor]) -> Tensor:
            return torch.stack(values)[None]

        return Portraits(
            image=_bytes(photo.image)[None], head=_bytes(photo.head)[None],
            sight=photo.sight.half()[None],
            colour=stacked([_bytes(v.image * v.mask + 1 - v.mask) for v in small]),
            mask=stacked([_bytes(v.mask[0]) for v in small]),
            focal_px=stacked([v.camera.focal_px for v in small]),
            center_px=stacked([v.camera.center_px for v in small]),
            rotations=stacked([p.rotations for p in poses]),
            trans=stacked([p.trans for p in poses]), betas=identity.betas[None],
        )  # fmt: skip


def _bytes(values: Float[Tensor, "*b"]) -> UInt8[Tensor, "*b"]:
    return (values.clamp(0, 1) * 255).round().byte()


class RenderedPortraits(torch.utils.data.IterableDataset):
    """Endless random people, others in every worker.

    Args:
        casting: Draws people and poses.
        reader: Of their photographs.
        views: Of each person, the photograph's included.
        seed: Of everything.
        num_outfits: Dressed meshes that a worker holds at a time; they are replaced one by one.
    """

    def __init__(
        self, casting: Casting, reader: PortraitReader, views: int, seed: int, num_outfits: int
    ) -> None:
        super().__init__()
        self.casting, self.reader, self.views = casting, reader, views
        self.seed, self.num_outfits = seed, num_outfits

    @torch.no_grad()
    def __iter__(self) -> Iterator[Portraits]:
        worker = torch.utils.data.get_worker_info()
        if worker:
            numba.set_num_threads(1)  # As many processes as cores are at work already.
            torch.set_num_threads(1)
        rng = np.random.default_rng(
            [self.seed, torch.initial_seed() % 2**31, worker.id if worker else 0]
        )
        cast = [self.casting.person(rng, own=0.5) for _ in range(self.num_outfits)]
        made = 0
        while True:
            found = self._portraits(rng, cast[int(rng.integers(len(cast)))])
            if found is None:
                continue
            yield found
            made += 1
            if made % _PER_OUTFIT == 0:
                cast[int(rng.integers(len(cast)))] = self.casting.person(rng, own=0.5)

    def _portraits(self, rng: np.random.Generator, person: Person) -> Portraits | None:
        """Somebody in new looks and shape; None where the photograph cannot be taken."""
        look = random_look(self.casting.assets, person.outfit, rng, plain_light=rng.uniform() < 0.7)
        betas = torch.zeros(self.casting.body.num_betas)
        betas[:_NUM_BETAS] = torch.from_numpy(rng.normal(size=_NUM_BETAS).clip(-2.2, 2.2) * 0.8)
        person = Person(person.outfit, look, betas)
        identity = replace(self.casting.body.zero_identity(), betas=betas)
        source = self._picture(rng, person, random_stance(rng, front=1.0), SIZE)
        try:
            photo = self.reader.photo(source, identity)
        except UserError:  # Who sits or spreads the arms is wider than tall.
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
        shift, camera = frame_by(vertices, size, rng.uniform(1.2, 3.0), rng.uniform(0.8, 0.93))
        pose = replace(pose, trans=pose.trans + shift)
        textures = self.casting.assets.textures
        maps = render_person(mesh, vertices + shift, person.look, textures, camera)
        return Picture(maps.colour, maps.mask[None].float(), camera, pose)


@runtime_checkable
class PortraitSource(Protocol):
    """Where people come from."""

    body: SmplxBody

    def dataset(
        self, reader: PortraitReader, views: int, seed: int
    ) -> torch.utils.data.IterableDataset:
        """Endless ``Portraits`` of one person each, others in every worker."""


@dataclass(frozen=True)
class RenderedPeople:
    """People who are drawn at random and rendered.

    Attributes:
        casting: Draws people and poses.
        num_outfits: Dressed meshes that each worker holds at a time.
    """

    casting: Casting
    num_outfits: int = 16

    @property
    def body(self) -> SmplxBody:
        """The packaged one."""
        return self.casting.body

    def dataset(self, reader: PortraitReader, views: int, seed: int) -> RenderedPortraits:
        """See ``PortraitSource``."""
        return RenderedPortraits(self.casting, reader, views, seed, self.num_outfits)


class PortraitStream(torch.utils.data.IterableDataset):
    """Batches of people, each seen several times.

    Args:
        source: Where people come from.
        batch_size: People a batch.
        views: Of each person, the photograph's included.
        seed: Of everything.
        fresh: New people that every batch waits for, beside who is there already.
        ring: People held.
        workers: Processes that make them; 0 is a thread.
    """

    def __init__(
        self,
        source: PortraitSource,
        *,
        batch_size: int = 8,
        views: int = 4,
        seed: int = 0,
        fresh: int = 1,
        ring: int = 2048,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.batch_size, self.views = source, batch_size, views
        self.seed, self.workers, self.fresh, self.ring = seed, workers, fresh, ring
        self.reader: PortraitReader | None = None
        self.device, self.rank = torch.device("cpu"), 0

    def aim(self, size: PhotoSize, device: torch.device, rank: int = 0) -> None:
        """Says for which network batches are made, where, and for which process."""
        self.reader = PortraitReader(self.source.body, size)
        self.device, self.rank = device, rank

    def one_by_one(self, seed: int) -> torch.utils.data.IterableDataset:
        """People in the order of their making, each once."""
        if self.reader is None:
            raise RuntimeError("aim it at a network first")
        return self.source.dataset(self.reader, self.views, seed)

    def __iter__(self) -> Iterator[Portraits]:
        seed = self.seed + _RANKS_APART * self.rank
        rng = np.random.default_rng([seed, torch.initial_seed() % 2**31])
        people = self.one_by_one(seed)
        with Ring(people, room=self.ring, workers=self.workers, device=self.device) as ring:
            while True:
                least = self.fresh if ring.made else max(self.fresh, self.batch_size)
                ring.take_in(least, max(least, _MOST_FRESH))
                rows = rng.integers(0, len(ring), self.batch_size)
                yield ring.rows(torch.from_numpy(rows))
