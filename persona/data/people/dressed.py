"""Dressed bodies: the packaged body and what it wears as one mesh that has shape and pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.palette import PART_INDEX
from persona.data.people.wearable import Wearable
from persona.data.synthetic.person import skin_parts
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyPose, TensorTuple

SLOTS = ("skin", "upper", "lower", "shoes", "hair", "eyes")
"""Slots: parts that have colours of their own."""
_SLOT_OF_PART = {
    "Upper_Clothing": 1, "Lower_Clothing": 2, "Left_Shoe": 3, "Right_Shoe": 3, "Hair": 4,
}  # fmt: skip


@dataclass(frozen=True)
class Dressed(TensorTuple):
    """A mesh of skin and wearables on the template; metres, T-pose, y up, facing +z."""

    rest: Float[Tensor, "n 3"]
    shape_dirs: Float[Tensor, "n 3 b"]
    weights: Float[Tensor, "n j"]
    surface: Float[Tensor, "n 3"]
    """The nearest point of the bare template: which place of the body a vertex covers."""
    faces: Int[Tensor, "f 3"]
    coords: Float[Tensor, "f 3 2"]
    part: Int[Tensor, "f"]
    slot: Int[Tensor, "f"]
    """Index in ``SLOTS``."""


def dress(body: SmplxBody, wearables: Sequence[tuple[Wearable, int | None]]) -> Dressed:
    """Puts wearables on the template.

    Args:
        body: The packaged body.
        wearables: Each with the slot of all its faces, None where their parts say it.
    """
    hidden = torch.zeros(len(body.faces), dtype=torch.bool)
    for wearable, _ in wearables:
        hidden |= wearable.hides
    uv = torch.stack((body.uv[:, 0], 1 - body.uv[:, 1]), -1)
    part = skin_parts(body)[~hidden]
    columns = [(
        body.template, body.shape_dirs, body.weights, body.template, body.faces[~hidden],
        uv[body.uv_faces[~hidden]], part, torch.zeros_like(part),
    )]  # fmt: skip
    tree, first = cKDTree(body.template.numpy()), body.num_vertices
    table = torch.zeros(len(PART_INDEX), dtype=torch.int64)
    for name, usual in _SLOT_OF_PART.items():
        table[PART_INDEX[name]] = usual
    for wearable, slot in wearables:
        nearest = torch.from_numpy(tree.query(wearable.rest.numpy())[1])
        slots = table[wearable.part] if slot is None else torch.full_like(wearable.part, slot)
        columns.append((
            wearable.rest, wearable.shape_dirs, wearable.weights, body.template[nearest],
            wearable.faces + first, wearable.coords, wearable.part, slots,
        ))  # fmt: skip
        first += len(wearable.rest)
    return Dressed(*(torch.cat(column) for column in zip(*columns, strict=True)))


def pose_dressed(
    body: SmplxBody, dressed: Dressed, betas: Float[Tensor, "b"], pose: BodyPose
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "55 3"]]:
    """Posed vertices of skin and wearables, and joints; metres, in the frame of the pose.

    Expression is left out: it moves the face by millimetres.
    """
    identity = body.zero_identity()
    identity.betas[:] = betas
    _, joints = body.shape(identity)
    bones = body.joint_transforms(joints, body.full_pose(pose))
    rest = dressed.rest + dressed.shape_dirs @ betas
    blended = (dressed.weights @ bones[:, :3].flatten(1)).view(-1, 3, 4)
    vertices = (blended[..., :3] * rest[:, None]).sum(-1) + blended[..., 3] + pose.trans
    posed = (bones[:, :3, :3] @ joints[..., None])[..., 0] + bones[:, :3, 3] + pose.trans
    return vertices, posed
