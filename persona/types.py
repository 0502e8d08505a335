"""Tensor types that every part of persona speaks, and the conventions, written once.

Units are metres, radians and pixels. Cameras are OpenCV (x right, y down, z forward). A pixel
(column, row) covers [column, column + 1) x [row, row + 1): its centre is at +0.5. Images are RGB
floats in [0, 1], masks floats in [0, 1]. Avatars take a ``Pose``: rotations of the joints that
their body has. Files hold a ``BodyPose``: axis-angle SMPL-X with 55 joints in SMPL-X order, and
hands relative to the mean hand (``flat_hand_mean=False``). Both are given in the coordinates of the
frame's camera. Dimension names: b batch, n gaussian, p vertex, f face, j joint, h w image,
c channel, e expression, s shape, l latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NUM_JOINTS = 55
"""SMPL-X: 22 body (pelvis first), jaw, left eye, right eye, 15 left hand, 15 right hand."""


@dataclass(frozen=True)
class TensorTuple:
    """Gives a frozen dataclass of tensors ``to``, ``detach`` and batch indexing."""

    def _map(self, function):
        """Applies ``function`` to each tensor field and to fields of named tensors."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: function(v) for k, v in values.items() if isinstance(v, Tensor)}
        for name, value in values.items():
            if isinstance(value, Mapping):
                moved[name] = {k: function(v) for k, v in value.items()}
        return replace(self, **moved)

    def to(self, *args, **kwargs):
        """Returns a copy with each tensor moved as ``Tensor.to`` does."""
        return self._map(lambda t: t.to(*args, **kwargs))

    def detach(self):
        """Returns a copy cut from the graph."""
        return self._map(Tensor.detach)

    def __getitem__(self, index):
        """Indexes the first dimension of each tensor."""
        return self._map(lambda t: t[index])

    def row(self, index: int | Int[Tensor, "1"]):
        """One row of each tensor; the host does not wait for an index that is on the device."""
        if isinstance(index, int):
            return self[index]
        return self._map(lambda t: t.index_select(0, index)[0])


@dataclass(frozen=True)
class Camera(TensorTuple):
    """Pinhole camera(s) with an explicit principal point."""

    cam_from_world: Float[Tensor, "*b 4 4"]
    """Rigid transform, metres."""
    focal_px: Float[Tensor, "*b 2"]
    center_px: Float[Tensor, "*b 2"]
    """Principal point; pixel centres lie at +0.5."""
    height: int
    width: int

    @staticmethod
    def identity(
        focal_px: Float[Tensor, "*b 2"], center_px: Float[Tensor, "*b 2"], height: int, width: int
    ) -> Camera:
        """Camera whose world is its own frame."""
        eye = torch.eye(4, dtype=focal_px.dtype, device=focal_px.device)
        return Camera(eye.expand(*focal_px.shape[:-1], 4, 4), focal_px, center_px, height, width)

    def local(self) -> Camera:
        """The same intrinsics seen from the camera's own frame (identity extrinsics)."""
        return Camera.identity(self.focal_px, self.center_px, self.height, self.width)

    def crop(self, box_px: Float[Tensor, "*b 4"], height: int, width: int) -> Camera:
        """Camera of the box (x, y, w, h), resized to height x width."""
        scale = torch.stack((width / box_px[..., 2], height / box_px[..., 3]), -1)
        return Camera(
            self.cam_from_world,
            self.focal_px * scale,
            (self.center_px - box_px[..., :2]) * scale,
            height,
            width,
        )

    def resize(self, height: int, width: int) -> Camera:
        """The same view on another pixel grid."""
        box = torch.tensor([0.0, 0.0, self.width, self.height]).to(self.focal_px)
        return self.crop(box.expand(*self.focal_px.shape[:-1], 4), height, width)

    def project(self, points: Float[Tensor, "*b p 3"]) -> Float[Tensor, "*b p 2"]:
        """World points (metres) to pixels."""
        rotation, shift = self.cam_from_world[..., :3, :3], self.cam_from_world[..., :3, 3]
        local = points @ rotation.transpose(-1, -2) + shift[..., None, :]
        return (
            local[..., :2] / local[..., 2:] * self.focal_px[..., None, :]
            + self.center_px[..., None, :]
        )


@dataclass(frozen=True)
class BodyPose(TensorTuple):
    """SMPL-X pose of one or more frames: axis-angle radians, ``trans`` in metres.

    ``trans`` is what SMPL-X adds after skinning (root position = trans + rest root).
    """

    root: Float[Tensor, "*b 3"]
    body: Float[Tensor, "*b 21 3"]
    jaw: Float[Tensor, "*b 3"]
    left_eye: Float[Tensor, "*b 3"]
    right_eye: Float[Tensor, "*b 3"]
    left_hand: Float[Tensor, "*b 15 3"]
    right_hand: Float[Tensor, "*b 15 3"]
    expression: Float[Tensor, "*b e"]
    trans: Float[Tensor, "*b 3"]

    @staticmethod
    def zero(num_expression: int, batch: tuple[int, ...] = ()) -> BodyPose:
        """Zero pose: T-pose with the mean hands."""
        z = torch.zeros
        return BodyPose(
            z(*batch, 3), z(*batch, 21, 3), z(*batch, 3), z(*batch, 3), z(*batch, 3),
            z(*batch, 15, 3), z(*batch, 15, 3), z(*batch, num_expression), z(*batch, 3),
        )  # fmt: skip

    @property
    def joints(self) -> Float[Tensor, "*b 55 3"]:
        """All joint rotations in SMPL-X order."""
        heads = [self.jaw, self.left_eye, self.right_eye]
        return torch.cat(
            [self.root[..., None, :], self.body, *[h[..., None, :] for h in heads],
             self.left_hand, self.right_hand], -2,
        )  # fmt: skip

    @staticmethod
    def from_joints(
        joints: Float[Tensor, "*b 55 3"],
        expression: Float[Tensor, "*b e"],
        trans: Float[Tensor, "*b 3"],
    ) -> BodyPose:
        """Inverse of ``joints``."""
        root, body, jaw, left_eye, right_eye, left, right = joints.split(
            [1, 21, 1, 1, 1, 15, 15], -2
        )
        root, jaw, left_eye, right_eye = (t[..., 0, :] for t in (root, jaw, left_eye, right_eye))
        return BodyPose(root, body, jaw, left_eye, right_eye, left, right, expression, trans)


@dataclass(frozen=True)
class Pose(TensorTuple):
    """Pose of any skeleton, of one frame or, batched, of a clip."""

    rotations: Float[Tensor, "*b j 3 3"]
    """Each joint's relative to its parent, mean hands included."""
    expression: Float[Tensor, "*b e"]
    trans: Float[Tensor, "*b 3"]
    """Metres; added after skinning (root position = trans + rest root)."""


@dataclass(frozen=True)
class View(TensorTuple):
    """What an avatar may depend on besides its pose; avatars ignore what they have no use for."""

    camera_rotation: Float[Tensor, "3 3"] | None = None
    """Rotation of cam_from_world, for shading by world normals; None: the camera's frame is the
    world.
    """
    subject: Int[Tensor, ""] | None = None
    """Number of the subject, for avatars of several; None shows the first, or the unedited one."""
    latent: Float[Tensor, "l"] | None = None
    """Latent code in place of the subject's own, for avatars that have one."""
    moment: Int[Tensor, ""] | None = None
    """Number of a training frame, for avatars that learn a difference for each frame; None leaves
    all differences out."""


PLAIN_VIEW = View()
"""The default view: the camera's frame is the world, and the avatar shows its own subject."""


@dataclass(frozen=True)
class Garment(TensorTuple):
    """A surface beside the body's skin that bones carry: a skirt, the lower half of a coat."""

    rest: Float[Tensor, "q 3"]
    """In the body's rest pose, metres: ring after ring, each as long, from the top to the hem."""
    faces: Int[Tensor, "g 3"]
    """Counter-clockwise seen from outside."""
    weights: Float[Tensor, "q j"]
    """Skinning weights."""
    uv: Float[Tensor, "t 2"]
    """Texture coordinates of its own, in [0, 1], v up."""
    uv_faces: Int[Tensor, "g 3"]
    """Per face the three rows of ``uv``."""

    @property
    def columns(self) -> int:
        """Vertices of a ring: the first face has two of the first ring and one of the next."""
        return int(self.faces[0, 2])


@dataclass(frozen=True)
class BodyIdentity(TensorTuple):
    """A person's shape: SMPL-X betas and PERSONA's two per-subject additions."""

    betas: Float[Tensor, "s"]
    face_offset: Float[Tensor, "p 3"]
    """Metres, added to the template before the shape basis."""
    joint_offset: Float[Tensor, "j 3"]
    """Metres, added to the regressed rest joints; the root row is zero."""
    garment: Garment | None = None
    """What hangs beside the body, for avatars that give it points of its own."""

    def _map(self, function):
        return replace(super()._map(function), garment=self.garment and self.garment._map(function))


@dataclass(frozen=True)
class Gaussians(TensorTuple):
    """A set of 3D Gaussians in one frame of reference."""

    means: Float[Tensor, "n 3"]
    """Metres."""
    scales: Float[Tensor, "n 3"]
    """Standard deviations, metres, positive."""
    quaternions: Float[Tensor, "n 4"]
    """(w, x, y, z), any length but zero."""
    opacities: Float[Tensor, "n"]
    """[0, 1]."""


@runtime_checkable
class Posed(Protocol):
    """An avatar in one pose, in the camera frame of the pose."""

    def gaussians(self, asset: str) -> Gaussians:
        """Gaussians of an asset. Asked twice, its means are the same tensor.

        Raises:
            UserError: the avatar is not made of Gaussians.
        """

    def colors(self, asset: str) -> Float[Tensor, "n 3"]:
        """Colours of the Gaussians of an asset, in [0, 1]."""


@dataclass(frozen=True)
class Channel:
    """Per-Gaussian values to composite, and whether their image moves the geometry.

    With ``geometry`` False the image's gradient reaches only ``values``.
    """

    values: Float[Tensor, "n c"]
    geometry: bool = True


@dataclass(frozen=True)
class Render:
    """What one rasterisation gives: sums of weight * value, not divided by the alpha."""

    images: Mapping[str, Float[Tensor, "c h w"]]
    alpha: Float[Tensor, "1 h w"]
    """Accumulated opacity [0, 1], with geometry gradient."""


@dataclass(frozen=True)
class MeshRender(TensorTuple):
    """Nearest surface of a triangle mesh per pixel."""

    face: Int[Tensor, "h w"]
    """Face index, -1 where empty."""
    barycentric: Float[Tensor, "h w 3"]
    """Perspective-correct, zero where empty."""
    depth: Float[Tensor, "h w"]
    """Camera z in metres, zero where empty."""

    @property
    def mask(self) -> Bool[Tensor, "h w"]:
        """Covered pixels."""
        return self.face >= 0


CAPTURED, GENERATED, REAL = "captured", "generated", "real"
"""Roles of a frame: the photographs that the avatar is made from, frames that a model generated
from them, and other real pictures of the person, such as test frames."""

FRAME_LISTS = ("name", "role", "person_px", "has_patch", "person_box_px", "weight")
"""Fields of a ``Frame`` that are not tensors: one entry a frame."""


@dataclass(frozen=True)
class Frame(TensorTuple):
    """A batch of frames, all of one image size; of several subjects where ``subject`` differs."""

    index: Int[Tensor, "b"]
    """Row of the per-frame pose table."""
    subject: Int[Tensor, "b"]
    """Number of the subject, in the order in which the data module has them."""
    camera: Camera
    image: Float[Tensor, "b 3 h w"]
    mask: Float[Tensor, "b 1 h w"]
    albedo: Float[Tensor, "b 3 h w"]
    """Ones where the split has none."""
    depth: Float[Tensor, "b 1 h w"]
    """Relative, larger is farther, zero outside the mask."""
    normal: Float[Tensor, "b 3 h w"]
    """(n + 1) / 2 with x right, y up, z to the camera; zero outside the mask."""
    seg: Float[Tensor, "b 3 h w"]
    """Part colours, zero outside the mask."""
    patch: Float[Tensor, "b 3 q q"]
    """Face patch; zeros where the split has none."""
    patch_box_px: Float[Tensor, "b 4"]
    """(x, y, w, h) of the patch in the image; w = 0 where the split has none."""
    name: tuple[str, ...] = field(default=())
    """``split/index`` of each frame, for tables and pictures."""
    role: tuple[str, ...] = field(default=())
    """``captured``, ``generated`` or ``real``. On the host: a device makes it wait."""
    person_px: tuple[float, ...] = field(default=())
    """Longer side of each mask's bounding box. On the host: a device makes it wait."""
    has_patch: tuple[bool, ...] = field(default=())
    person_box_px: tuple[tuple[int, int, int, int], ...] = field(default=())
    """Bounding box (x, y, w, h) of each mask; w = 0 where it is empty. On the host as well."""
    weight: tuple[float, ...] = field(default=())
    """Weight of each frame in the batch's loss, 1 on average over an epoch; empty where all weigh
    the same."""

    others: Mapping[str, Float[Tensor, "b c h w"]] = field(default_factory=dict)
    """Maps without a field of their own, by their name in ``persona.data.layout.MAPS``: uint8 as
    [0, 1], bool as 0 or 1; absent where the split has none."""

    @property
    def view(self) -> View:
        """How the first frame shows its subject."""
        return View(self.camera.cam_from_world[0, :3, :3], self.subject[0])

    @property
    def shares(self) -> list[float]:
        """Factor of each frame's loss in the batch's loss: its weight over the number of frames."""
        weights = self.weight or (1.0,) * len(self.name)
        return [weight / len(self.name) for weight in weights]

    def to(self, *args, **kwargs):
        """Moves the tensors and the camera."""
        return replace(super().to(*args, **kwargs), camera=self.camera.to(*args, **kwargs))

    def __getitem__(self, index: slice) -> Frame:
        """A sub-batch, by a slice."""
        lists = {k: getattr(self, k)[index] for k in FRAME_LISTS}
        return replace(super().__getitem__(index), camera=self.camera[index], **lists)
