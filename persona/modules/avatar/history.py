"""How the body has moved, as an input of the offset network beside the pose."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.avatar.pose_code import NUM_BODY_JOINTS
from persona.modules.body.rotation import axis_angle_from_matrix
from persona.types import Pose

TIME_CONSTANTS_S = (0.06, 0.2, 0.6)
"""Time constants of the low-pass filters for velocities. The last one remembers about a second; the
differences of their outputs are accelerations."""
NUM_MOTION = 3 * len(TIME_CONSTANTS_S)
NUM_ROOT = 3
"""Rows behind those of the joints: turning and travel of the root, and where down is."""
TURN_SCALE = 0.3
"""Scales radians per second so that a fast joint has a value of about 1."""


def code_shape(history: "History | None") -> tuple[int, int]:
    """Rows and numbers a row of the offset network's code."""
    if history is None:
        return NUM_BODY_JOINTS, 6
    return history.num_rows, 6 + NUM_MOTION


@dataclass(frozen=True)
class MovingPose(Pose):
    """A pose with what came before it."""

    motion: Float[Tensor, "*b k c"]
    """The motion, as ``History.motion`` computes it."""


@dataclass(frozen=True)
class History:
    """Filtered velocities of a clip's poses; the same motion gives the same at every frame rate.

    A clip begins at rest. Velocities are those of the joints relative to their parents, and of the
    root in its own frame, in which ``down`` is told too: turning person and camera together
    changes nothing but where down is. Compare DynaAvatar, whose input is the last second of poses.

    Args:
        fps: frames a second of the training clips.
        down: in the frame of the poses; that of an upright camera.
    """

    fps: float
    down: tuple[float, float, float] = (0.0, 1.0, 0.0)

    @property
    def num_rows(self) -> int:
        """Rows of a pose's motion: one a body joint, and the root's."""
        return NUM_BODY_JOINTS + NUM_ROOT

    def motion(
        self, pose: Pose, fps: float | int | None = None, lengths: Sequence[int] | None = None
    ) -> Float[Tensor, "b k c"]:
        """Motion of the poses of clips that lie end to end.

        Args:
            pose: batched, the frames in their order.
            fps: frames a second; None is that of the training clips.
            lengths: of the clips; None is one clip.
        """
        parts = [len(pose.trans)] if lengths is None else list(lengths)
        found, start = [], 0
        for length in parts:
            found.append(self._of_clip(pose[start : start + length], fps or self.fps))
            start += length
        return torch.cat(found)

    def follow(self, pose: Pose, fps: float | int | None = None) -> MovingPose:
        """A clip's poses with their motion."""
        return MovingPose(pose.rotations, pose.expression, pose.trans, self.motion(pose, fps))

    def code(
        self, joints: Float[Tensor, "*b 21 6"], motion: Float[Tensor, "*b k c"]
    ) -> Float[Tensor, "*b k d"]:
        """The offset network's input: how each joint stands, and how it moves."""
        root = joints.new_zeros(*joints.shape[:-2], NUM_ROOT, joints.shape[-1])
        return torch.cat([torch.cat([joints, root], -2), motion], -1)

    def at_rest(self, pose: Pose) -> Float[Tensor, "*b k c"]:
        """Motion of a person who has stood still in this pose for a long time."""
        root = pose.rotations[..., 0, :, :]
        rows = root.new_zeros(*root.shape[:-2], self.num_rows, NUM_MOTION)
        rows[..., -1, :3] = root.new_tensor(self.down) @ root
        return rows

    @torch.no_grad()
    def _of_clip(self, pose: Pose, fps: float | int) -> Float[Tensor, "b k c"]:
        rows = self.at_rest(pose)
        turns = pose.rotations[:, : 1 + NUM_BODY_JOINTS]
        spin = TURN_SCALE * fps * axis_angle_from_matrix(turns[:-1].mT @ turns[1:])
        travel = fps * (pose.trans[1:] - pose.trans[:-1])
        travel = (travel[:, None] @ turns[:-1, 0])[:, 0]
        velocity = torch.cat([spin[:, 1:], spin[:, :1], travel[:, None]], 1)
        times = velocity.new_tensor(TIME_CONSTANTS_S)[:, None]
        keep = torch.exp(-1 / (fps * times))
        state = velocity.new_zeros(self.num_rows - 1, len(times), 3)
        for frame, now in enumerate(velocity, 1):
            state = keep * state + (1 - keep) * now[:, None]
            rows[frame, :-1] = state.flatten(1)
        return rows
