"""Pose code: the part of the body's pose that a Gaussian's offset depends on."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.modules.body.rotation import sixd_from_matrix

NUM_BODY_JOINTS = 21
"""SMPL-X body joints without the root: joints 1 to 21."""


def kinematic_ring(parents: Int[Tensor, "j"], edges: int) -> Bool[Tensor, "j j"]:
    """Whether two joints are at most ``edges`` bones apart in the kinematic tree."""
    num_joints = len(parents)
    adjacent = torch.eye(num_joints, dtype=torch.bool)
    for child, parent in enumerate(parents.tolist()):
        if parent >= 0 and parent != child:
            adjacent[child, parent] = adjacent[parent, child] = True
    reach = torch.linalg.matrix_power(adjacent.double(), edges)
    return (reach > 0).to(parents.device)


def ring_mask(
    weights: Float[Tensor, "n j"], parents: Int[Tensor, "j"], edges: int = 4
) -> Float[Tensor, "n 21"]:
    """1 where a body joint lies within ``edges`` bones of a Gaussian's main skinning joint.

    Source: PERSONA, arXiv:2508.09973 (pose-driven deformation).
    """
    near = kinematic_ring(parents, edges)[:, 1 : 1 + NUM_BODY_JOINTS]
    return near[weights.argmax(-1)].to(weights.dtype)


def pose_code(rotations: Float[Tensor, "*b 21 3 3"]) -> Float[Tensor, "*b 21 6"]:
    """Body joints as 6D rotations, cut from the graph: offsets must not steer the pose."""
    return sixd_from_matrix(rotations.detach())
