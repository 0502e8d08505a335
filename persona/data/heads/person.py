"""A synthetic head: its mesh, hair and accessories, and their textures."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.data.heads.pieces import Piece, RestHead, dress_head
from persona.data.heads.traits import Traits, shape_coefficients
from persona.data.preprocess.unwrap import UvMesh
from persona.data.synthetic import paint
from persona.data.synthetic.face import Head, Makeup, paint_skin
from persona.data.synthetic.studio import Look, Surface
from persona.modules.body.head_body import LEFT_EYE, NECK, RIGHT_EYE, HeadBody
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.topology import vertex_normals
from persona.modules.head.attributes import LABEL_INDEX
from persona.types import NUM_JOINTS, BodyIdentity, BodyPose

SKIN_SIDE = 1024
NOSE, EAR = 0.3, 0.25
"""Least weight of nose and ear vertices, as a share of the region's largest weight."""
LASHES = np.array([0.16, 0.11, 0.08])


def rest_head(body: HeadBody, identity: BodyIdentity) -> RestHead:
    """The mean head and a person's, at rest."""
    (rest, joints), (mean, _) = body.shape(identity), body.shape(body.zero_identity())
    return RestHead(
        mean=mean.double().numpy(),
        mean_points=body.landmarks(mean).double().numpy(),
        rest=rest.double().numpy(),
        points=body.landmarks(rest).double().numpy(),
        eyes=joints[[LEFT_EYE, RIGHT_EYE]].double().numpy(),
        ear=body.regions["ear"].double().numpy(),
        faces=body.faces.numpy(),
    )


class HeadPerson:
    """A seeded head.

    Args:
        body: With texture coordinates, landmarks and regions: the packaged head.
        traits: Traits of the person.
    """

    def __init__(self, body: HeadBody, traits: Traits) -> None:
        self.body, self.traits = body, traits
        self.identity = replace(body.zero_identity(), betas=shape_coefficients(body, traits))
        self.rest, self.rest_joints = body.shape(self.identity)
        mean, mean_joints = body.shape(body.zero_identity())
        self.rest_head = rest_head(body, self.identity)
        self.pieces = dress_head(self.rest_head, traits)
        self.surface = self._surface()
        self.look = self._look(mean, mean_joints)

    def pose(self, pose: BodyPose) -> Float[Tensor, "n 3"]:
        """Vertices of skin and pieces, in the frame of the pose (one frame, unbatched)."""
        body = self.body
        rotations = matrix_from_axis_angle(body.full_pose(pose))
        skin, bones = body.deform(self.rest, self.rest_joints, rotations, pose.expression)
        normals = vertex_normals(skin, body.faces)
        skull = bones[NECK]
        parts = [skin]
        for piece in self.pieces:
            if piece.sheet is None or piece.lift is None:
                rest = torch.from_numpy(piece.rest).float()
                parts.append(rest @ skull[:3, :3].T + skull[:3, 3])
            else:
                feet, up = (piece.sheet.features(t.numpy()) for t in (skin, normals))
                lifted = feet + piece.lift[:, None] * up
                parts.append(torch.from_numpy(lifted).float())
        return torch.cat(parts) + pose.trans

    def uv_mesh(self) -> UvMesh:
        """The bare head with its texture layout."""
        body = self.body
        return UvMesh(self.rest, body.faces, body.uv, body.uv_faces)

    def _skin_labels(self) -> Int[Tensor, "f"]:
        """Label of each face of the skin."""
        body, head = self.body, self.rest_head
        label = torch.full((len(body.faces),), LABEL_INDEX["skin"])

        def mark(name: str, inside: Tensor) -> None:
            label[inside[body.faces].float().mean(1) > 0.5] = LABEL_INDEX[name]

        mark("ears", body.regions["ear"] > EAR)
        mark("nose", body.regions["nose"] > NOSE)
        outline = (head.mean_points[48:60, :2] * 1e4).astype(np.float32)
        inside = [cv2.pointPolygonTest(outline, p, False) >= 0 for p in head.mean[:, :2] * 1e4]
        front = head.mean[:, 2] > 0.03
        mark("mouth", torch.from_numpy(np.array(inside) & front))
        mark("eyes", body.weights[:, [LEFT_EYE, RIGHT_EYE]].sum(1) > 0.5)
        return label

    def _surface(self) -> Surface:
        """Skin and pieces as one mesh; each piece has its attribute's texture."""
        body = self.body
        uv = torch.stack((body.uv[:, 0], 1 - body.uv[:, 1]), -1)
        faces, coords, part = [body.faces], [uv[body.uv_faces]], [self._skin_labels()]
        texture = [torch.zeros(len(body.faces), dtype=torch.int64)]
        first = body.num_vertices
        for number, piece in enumerate(self.pieces, 1):
            count = len(piece.faces)
            faces.append(torch.from_numpy(piece.faces).long() + first)
            coords.append(torch.from_numpy(piece.coords).float())
            texture.append(torch.full((count,), number))
            part.append(torch.full((count,), LABEL_INDEX[piece.attribute]))
            first += len(piece.rest)
        return Surface(*(torch.cat(t) for t in (faces, coords, texture, part)))

    def _look(self, mean: Float[Tensor, "p 3"], joints: Float[Tensor, "5 3"]) -> Look:
        """Textures: the skin's, painted on the mean head, and each piece's."""
        body, traits = self.body, self.traits
        makeup = Makeup(
            skin=traits["identity"].rgb,
            hair=LASHES,
            lips=traits["identity"].rgb * 0.35 + traits["mouth"].rgb * 0.65,
            iris=traits["eyes"].rgb,
            brow_width=0.0,  # Brows are pieces of their own.
        )
        keypoints, person_joints = np.zeros((133, 3)), np.zeros((NUM_JOINTS, 3))
        keypoints[23:91] = self.rest_head.mean_points
        person_joints[[23, 24]] = joints[[LEFT_EYE, RIGHT_EYE]].double().numpy()
        eyes = body.weights[:, [LEFT_EYE, RIGHT_EYE]].sum(1)
        head = Head(keypoints, person_joints, torch.ones(body.num_vertices), eyes)
        rng = np.random.default_rng([traits["identity"].seed, 2])
        mesh = self.uv_mesh()._replace(rest=mean)
        skin = paint_skin(mesh, head, makeup, SKIN_SIDE, rng)
        return Look([skin, *(self._texture(piece) for piece in self.pieces)])

    def _texture(self, piece: Piece) -> np.ndarray:
        trait = self.traits[piece.attribute]
        rng = np.random.default_rng([trait.seed, 3])
        if piece.attribute in ("hair", "eyebrows", "beard"):
            base = trait.rgb
            if trait.style == "stubble":
                base = 0.5 * base + 0.5 * self.traits["identity"].rgb
            # Strands of short hair are finer than a pixel: what is seen of them is their mean.
            strength = 1.0 if piece.attribute == "hair" else 0.3
            strands = paint.hair(rng, base)[::2, ::2]
            return (base + strength * (strands - base)).clip(0, 1).astype(np.float32)
        image = np.broadcast_to(trait.rgb, (256, 256, 3)).astype(np.float32)
        if piece.attribute in ("hat", "cloth"):
            stripes = np.arange(256) // 32 % 2 == 0
            image = np.where(stripes[:, None, None], image, image * 0.7)
        return image.copy()
