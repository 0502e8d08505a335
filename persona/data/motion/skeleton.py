"""A recorded skeleton before it becomes SMPL-X."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class SkeletonClip:
    """Motion of any rig: global rotations and positions of its joints and end sites.

    The unit of length and the up axis are the file's own; retargeting needs neither.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    """-1 for the root; parents come first."""
    offsets: Float[Tensor, "j 3"]
    """From the parent's origin, in the parent's frame."""
    rotations: Float[Tensor, "t j 3 3"]
    """World from joint."""
    positions: Float[Tensor, "t j 3"]
    fps: float | int
    source: str
    """The file, for messages."""

    def rest_positions(self) -> Float[Tensor, "j 3"]:
        """Joint positions where every rotation is the identity, root at the origin."""
        positions = [torch.zeros(3, dtype=self.offsets.dtype)]
        for parent, offset in zip(self.parents[1:], self.offsets[1:], strict=True):
            positions.append(positions[parent] + offset)
        return torch.stack(positions)


def forward_kinematics(
    parents: tuple[int, ...],
    offsets: Float[Tensor, "t j 3"],
    local_rotations: Float[Tensor, "t j 3 3"],
) -> tuple[Float[Tensor, "t j 3 3"], Float[Tensor, "t j 3"]]:
    """World rotations and positions; a root's offset is its world position."""
    rotations, positions = [], []
    for j, parent in enumerate(parents):
        if parent < 0:
            rotations.append(local_rotations[:, j])
            positions.append(offsets[:, j])
            continue
        rotations.append(rotations[parent] @ local_rotations[:, j])
        moved = (rotations[parent] @ offsets[:, j, :, None])[..., 0]
        positions.append(positions[parent] + moved)
    return torch.stack(rotations, 1), torch.stack(positions, 1)
