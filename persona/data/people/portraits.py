"""Training samples of a feed-forward network: a photograph and other views of a person.

The photograph is prepared as at inference, by the body in it, at a ``PhotoSize``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.lhm.sight import Photo, posed_body, read_photo
from persona.modules.lhm.template import PointTemplate, sample_points, template_on
from persona.types import BodyIdentity, BodyPose, Camera, TensorTuple

VIEW = (384, 288)
"""Height and width of the views that are learnt from, pixels."""


@runtime_checkable
class PhotoSize(Protocol):
    """Sizes of a network's inputs."""

    @property
    def num_points(self) -> int:
        """Gaussians."""

    @property
    def photo_px(self) -> int:
        """Width of the body's image; its height is 5/3 of it."""

    @property
    def head_px(self) -> int:
        """Side of the head's crop."""

    @property
    def sees(self) -> bool:
        """Whether the network's input says which points the photograph shows."""


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
    joints: Float[Tensor, "b j 3"]
    """In the rest pose, metres."""

    @property
    def photo(self) -> Photo:
        """What the network sees."""
        image, head = self.image.float() / 255, self.head.float() / 255
        return Photo(image, head, self.sight.float())

    @property
    def camera(self) -> Camera:
        """Camera of each view, all of a person, then the next's; the body is in its frame."""
        focal, centre = self.focal_px.flatten(0, 1), self.center_px.flatten(0, 1)
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
        body: Body model of all people.
        size: Size of the network's input.
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
        _, joints = self.body.shape(identity)

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
            joints=joints[None],
        )  # fmt: skip


def _bytes(values: Float[Tensor, "*b"]) -> UInt8[Tensor, "*b"]:
    return (values.clamp(0, 1) * 255).round().byte()


@runtime_checkable
class PortraitSource(Protocol):
    """A source of people."""

    body: SmplxBody

    def dataset(
        self, reader: PortraitReader, views: int, seed: int, start: int = 0
    ) -> torch.utils.data.IterableDataset:
        """Endless ``Portraits`` of one person each, from the person of number ``start`` on.

        Workers take turns, so that the order is the same for any number of them.
        """


def turns(start: int) -> Iterator[int]:
    """Numbers of the people that this worker makes, from ``start`` on."""
    worker = torch.utils.data.get_worker_info()
    return itertools.count(
        start + (worker.id if worker else 0), worker.num_workers if worker else 1
    )
