"""The interface of a body: a skeleton, a skinned mesh, and a shape basis for both."""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.body.rotation import matrix_from_axis_angle
from persona.types import BodyIdentity, BodyPose

B = TypeVar("B", bound="Body")


class Body(nn.Module):
    """A kinematic tree of j joints that moves p vertices by linear blend skinning.

    A subclass declares ``weights`` and ``faces``, and says what shape a person has.

    Args:
        parents: Joint above each joint, -1 for the root, which is the first.
    """

    faces: Int[Tensor, "f 3"]
    weights: Float[Tensor, "p j"]
    name: str
    """Name of its file."""
    digest: str
    """Hash of the file's bytes."""
    num_betas: int
    """Coefficients of the shape."""
    num_expression: int
    """Coefficients of the face; 0 for a body without."""
    expression_names: tuple[str, ...] | None = None
    """Names of the coefficients of the face, where they have names."""
    first_hand: int
    """First of the joints that learn more slowly; they are the last ones. The number of joints
    if all learn at the same rate."""
    parents: Int[Tensor, "j"]
    """-1 for the root."""
    _jumps: Int[Tensor, "k j"]
    _has_parent: Float[Tensor, "j 1"]

    def __init__(self, parents: list[int]) -> None:
        super().__init__()
        jumps = ancestor_jumps(parents)
        has_parent = (jumps[0] < len(parents)).float() if len(jumps) else torch.zeros(len(parents))
        self.register_buffer("parents", torch.tensor(parents), persistent=False)
        self.register_buffer("_jumps", jumps, persistent=False)
        self.register_buffer("_has_parent", has_parent[:, None], persistent=False)

    @property
    def num_joints(self) -> int:
        """Number of joints of the skeleton."""
        return len(self.parents)

    @property
    def num_vertices(self) -> int:
        """Number of vertices of the mesh."""
        return len(self.weights)

    def shape(self, identity: BodyIdentity) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "j 3"]]:
        """Rest vertices and joints of a person, metres."""
        raise NotImplementedError

    def dressed(self: B, identity: BodyIdentity) -> tuple[B, BodyIdentity]:
        """The body with the garment that a person may have, and the person for it."""
        return self, identity

    def full_pose(self, pose: BodyPose) -> Float[Tensor, "*b j 3"]:
        """Axis-angle of all joints, of a pose as subject folders hold it."""
        raise NotImplementedError

    def canonical(
        self, identity: BodyIdentity
    ) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "j 3"], Float[Tensor, "j 4 4"]]:
        """The pose in which an avatar is stored: vertices, joints, posed_from_rest.

        The rest pose, unless a body has a better one.
        """
        vertices, joints = self.shape(identity)
        unmoved = torch.eye(4, dtype=joints.dtype, device=joints.device)
        return vertices, joints, unmoved.expand(self.num_joints, 4, 4)

    def transforms_from_matrices(
        self, rest_joints: Float[Tensor, "*#b j 3"], rotations: Float[Tensor, "*b j 3 3"]
    ) -> Float[Tensor, "*b j 4 4"]:
        """Forward kinematics: posed_from_rest per joint, rotations relative to the parent."""
        above = rest_joints.index_select(-2, self.parents.clamp(min=0))
        offset = (rest_joints - above * self._has_parent)[..., None]
        chain = torch.cat([rotations, offset.expand(*rotations.shape[:-1], 1)], -1)
        chain = torch.cat([chain, _bottom_row(chain)], -2)
        # Each joint times the product above it, which doubles in length every time.
        identity = torch.eye(4, dtype=chain.dtype, device=chain.device)
        identity = identity.expand(*chain.shape[:-3], 1, 4, 4)
        for jump in self._jumps:
            above = torch.cat([chain, identity], -3).index_select(-3, jump)
            chain = above @ chain
        rotation, posed = chain[..., :3, :3], chain[..., :3, 3]
        shift = posed - (rotation @ rest_joints[..., None])[..., 0]
        top = torch.cat([rotation, shift[..., None]], -1)
        return torch.cat([top, _bottom_row(top)], -2)

    def joint_transforms(
        self, rest_joints: Float[Tensor, "j 3"], joints_axis_angle: Float[Tensor, "*b j 3"]
    ) -> Float[Tensor, "*b j 4 4"]:
        """As ``transforms_from_matrices``, from axis-angle radians (no mean hands added)."""
        return self.transforms_from_matrices(rest_joints, matrix_from_axis_angle(joints_axis_angle))


def _bottom_row(transforms: Float[Tensor, "*b 3 4"]) -> Float[Tensor, "*b 1 4"]:
    """(0, 0, 0, 1), made on the device: a copy from the host would wait."""
    row = torch.zeros_like(transforms[..., :1, :])
    row[..., 3] = 1
    return row


def ancestor_jumps(parents: list[int]) -> Int[Tensor, "k j"]:
    """Tables of the joint 1, 2, 4, ... above each joint; the number of joints where there is none.

    Forward kinematics is a product down the tree; with these it takes as many steps as the
    logarithm of its depth. Source: Hillis and Steele 1986, pointer jumping.
    """
    none = len(parents)
    jump = [
        none if parent < 0 or parent == joint else parent for joint, parent in enumerate(parents)
    ]
    tables = []
    while any(parent != none for parent in jump):
        tables.append(jump)
        beyond = [*jump, none]
        jump = [beyond[parent] for parent in jump]
    return torch.tensor(tables, dtype=torch.long).view(len(tables), none)
