"""The synthetic person: a body, its clothes, how they move, and how all of it looks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.data.preprocess.unwrap import UvMesh
from persona.data.synthetic import paint
from persona.data.synthetic.face import Head, Makeup, paint_skin
from persona.data.synthetic.fitting import fold_field, hang_field
from persona.data.synthetic.folds import Folds
from persona.data.synthetic.studio import Look, Surface
from persona.data.synthetic.swing import swung
from persona.data.synthetic.wardrobe import Piece, RestBody, Style, dress, dressed_faces
from persona.modules.body.joints import EYES, HEAD_JOINTS, LIMBS
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyIdentity, BodyPose

TEXTURES = ("skin", "shirt", "sleeve", "trousers", "shoes", "hair")
SKIN_SIDE = 1536
SKIN_PARTS = {
    "Face_Neck": (*LIMBS["Neck"], *LIMBS["Face_Neck"]),
    **{name: joints for name, joints in LIMBS.items() if name not in ("Neck", "Face_Neck")},
}
"""Joints whose skin belongs to a part."""


@dataclass(frozen=True)
class Posed:
    """The person in one pose, in the frame of the pose."""

    vertices: Float[Tensor, "n 3"]
    """Skin first, then the clothes."""
    body: Float[Tensor, "p 3"]
    joints: Float[Tensor, "55 3"]


class Person:
    """A seeded person."""

    def __init__(self, body: SmplxBody, seed: int, outfit: str = "tunic", shape: float = 0.6):
        """Draws shape, clothes and colours; the settings are ``SyntheticConfig``'s."""
        rng = np.random.default_rng([seed, 0])
        self.body, self.outfit = body, outfit
        self.identity = _random_identity(body, rng, shape)
        self.style = Style.random(rng, outfit)
        rest, self.rest_joints = body.shape(self.identity)
        self.rest_body = RestBody(
            rest.double().numpy(),
            self.rest_joints.double().numpy(),
            body.weights.double().numpy(),
            body.faces.numpy(),
            body.keypoints(rest, self.rest_joints).double().numpy(),
        )
        pieces = dress(self.rest_body, self.style)
        self.cloth_rest = _tensor([p.vertices for p in pieces])
        self.cloth_weights = _tensor([p.weights for p in pieces])
        self.folds: Folds = fold_field(self.rest_body, pieces)
        self.hang = hang_field(self.rest_body, pieces)
        self.cloth_faces = _cloth_faces(pieces)
        hidden = torch.from_numpy(dressed_faces(self.rest_body, self.style))
        self.surface = _surface(body, pieces, hidden)
        self.rest = torch.cat((rest, self.cloth_rest))
        self.look, self.drifted_look = self._looks(rng)

    def pose(self, pose: BodyPose, dynamic: bool = True) -> Posed:
        """Poses skin and clothes.

        Args:
            pose: One frame (unbatched).
            dynamic: False leaves the clothes to linear blend skinning alone.
        """
        vertices, joints = self.body(self.identity, pose)
        rotations = self.body.full_pose(pose)
        bones = self.body.joint_transforms(self.rest_joints, rotations)
        cloth = self.cloth_rest
        if dynamic:
            cloth = cloth + self.folds.displacement(rotations)
        cloth = blend_skin(cloth, self.cloth_weights, bones) + pose.trans
        return Posed(torch.cat((vertices, cloth)), vertices, joints)

    def move(self, clip: BodyPose, fps: float, swing: float) -> Float[Tensor, "t n 3"]:
        """Vertices in each frame of a clip, as ``Posed`` has them, with what swings behind.

        Args:
            clip: Batched, in order.
            fps: Frames a second.
            swing: Strength; 0 gives the poses alone.
        """
        frames = torch.stack([self.pose(clip[i]).vertices for i in range(len(clip.root))])
        skin = len(self.body.template)
        if swing:
            cloth = swung(frames[:, skin:], self.cloth_faces, self.hang, fps, swing)
            frames = torch.cat([frames[:, :skin], cloth], 1)
        return frames

    def uv_mesh(self) -> UvMesh:
        """The bare body with its texture layout."""
        body = self.body
        return UvMesh(self.rest[: len(body.template)], body.faces, body.uv, body.uv_faces)

    def face_vertices(self) -> Bool[Tensor, "p"]:
        """Vertices that mostly follow the head, the jaw or the eyes."""
        return self.body.weights[:, list(HEAD_JOINTS)].sum(1) > 0.9

    def _looks(self, rng: np.random.Generator) -> tuple[Look, Look]:
        """How the person looks, and how a video model's identity drift changes it."""
        hue = rng.uniform()
        hair = paint.colour(rng.uniform(0.04, 0.1), rng.uniform(0.4, 0.7), rng.uniform(0.12, 0.5))
        makeup = Makeup(
            skin=paint.colour(
                rng.uniform(0.05, 0.075), rng.uniform(0.3, 0.45), rng.uniform(0.7, 0.92)
            ),
            hair=hair,
            lips=paint.colour(rng.uniform(0.97, 1.01), 0.5, 0.68),
            iris=paint.colour(rng.uniform(0.08, 0.6), 0.55, 0.5),
            brow_width=rng.uniform(0.004, 0.0065),
        )
        leg_hue, shoe_hue = rng.uniform(0.55, 0.68), rng.uniform()
        # Both looks have the same grain and letters; only the drift differs.
        seed = int(rng.integers(1 << 31))
        looks = []
        for drift, person in ((0.0, makeup), (1.0, makeup.drifted())):
            again = np.random.default_rng(seed)
            looks.append(Look([
                paint_skin(self.uv_mesh(), self._head(), person, SKIN_SIDE, again),
                paint.shirt(again, hue + 0.05 * drift, self.outfit),
                paint.sleeve(again, hue - 0.03 * drift, self.outfit),
                paint.trousers(again, leg_hue - 0.06 * drift),
                paint.shoes(again, shoe_hue + 0.1 * drift),
                paint.hair(again, person.hair),
            ]))  # fmt: skip
        return looks[0], looks[1]

    def _head(self) -> Head:
        weights = self.body.weights
        return Head(
            self.rest_body.keypoints,
            self.rest_body.joints,
            weights[:, list(HEAD_JOINTS)].sum(1),
            weights[:, list(EYES)].sum(1),
        )


def _cloth_faces(pieces: list[Piece]) -> Int[Tensor, "f 3"]:
    """Faces of all garments, whose vertices lie end to end."""
    firsts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    faces = [piece.faces + first for piece, first in zip(pieces, firsts, strict=False)]
    return torch.from_numpy(np.concatenate(faces)).long()


def _tensor(parts: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).float()


def _random_identity(body: SmplxBody, rng: np.random.Generator, reach: float) -> BodyIdentity:
    """Shape coefficients up to ``reach``, no offsets."""
    identity = body.zero_identity()
    count = min(10, body.num_betas)
    identity.betas[:count] = torch.from_numpy(rng.uniform(-reach, reach, count)).float()
    return identity


def skin_parts(body: SmplxBody) -> Int[Tensor, "f"]:
    """Class of each face of the bare body, by the joint that moves it most."""
    table = torch.zeros(body.weights.shape[1], dtype=torch.int64)
    for name, joints in SKIN_PARTS.items():
        table[list(joints)] = PART_INDEX[name]
    return table[body.weights[body.faces].sum(1).argmax(-1)]


def _surface(body: SmplxBody, pieces: list[Piece], hidden: Bool[Tensor, "f"]) -> Surface:
    """Skin that shows and all clothes as one mesh."""
    uv = torch.stack((body.uv[:, 0], 1 - body.uv[:, 1]), -1)
    faces, coords = [body.faces[~hidden]], [uv[body.uv_faces[~hidden]]]
    texture, part = [torch.zeros(len(faces[0]), dtype=torch.int64)], [skin_parts(body)[~hidden]]
    first = len(body.template)
    for piece in pieces:
        faces.append(torch.from_numpy(piece.faces).long() + first)
        coords.append(torch.from_numpy(piece.coords).float())
        texture.append(torch.tensor([TEXTURES.index(name) for name in piece.texture]))
        part.append(torch.from_numpy(piece.part).long())
        first += len(piece.vertices)
    return Surface(*(torch.cat(t) for t in (faces, coords, texture, part)))
