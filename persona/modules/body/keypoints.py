"""The 133 COCO-WholeBody keypoints of a SMPL-X body.

Order: 17 body, 6 feet, 68 face (17 contour, then 51), 21 left hand, 21 right hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

NUM_KEYPOINTS = 133
SMPLX_VERTICES = 10475

_BODY_JOINTS = {5: 16, 7: 18, 9: 20, 11: 1, 13: 4, 15: 7}
"""Keypoint to joint, left side; the right one is the next of both."""
_HAND_STARTS = {91: (20, 25), 112: (21, 40)}
"""First keypoint of a hand to its wrist and first finger joint."""
_FINGER_OFFSETS = (12, 0, 3, 9, 6)
"""SMPL-X keeps index, middle, pinky, ring, thumb; COCO starts at the thumb, ends at the pinky."""
_LICENSED_VERTICES = {
    0: 9120, 1: 9448, 2: 9929, 3: 6, 4: 616,
    17: 5770, 18: 5780, 19: 8846, 20: 8463, 21: 8474, 22: 8635,
    95: 5361, 99: 4933, 103: 5058, 107: 5169, 111: 5286,
    116: 8079, 120: 7669, 124: 7794, 128: 7905, 132: 8022,
}  # fmt: skip
"""Keypoint to vertex of the licensed topology: nose, eyes, ears, toes and heels, finger tips."""


def keypoint_joints() -> Int[np.ndarray, "133"]:
    """Joint of each of the 133 keypoints, -1 for those on the surface."""
    joint = np.full(NUM_KEYPOINTS, -1, np.int32)
    for keypoint, left in _BODY_JOINTS.items():
        joint[[keypoint, keypoint + 1]] = left, left + 1
    for start, (wrist, fingers) in _HAND_STARTS.items():
        joint[start] = wrist
        for finger, offset in enumerate(_FINGER_OFFSETS):
            first = start + 1 + 4 * finger
            joint[first : first + 3] = fingers + offset + np.arange(3)
    return joint


class KeypointPicker(nn.Module):
    """Keypoints as joints or as points on the surface.

    Args:
        joint: Joint of each keypoint, -1 where it lies on the surface.
        corners: The three vertices of its triangle.
        barycentric: Its weights in the triangle, rows sum to 1.
    """

    joint: Int[Tensor, "133"]
    corners: Int[Tensor, "133 3"]
    barycentric: Float[Tensor, "133 3"]

    def __init__(
        self,
        joint: Int[Tensor, "133"],
        corners: Int[Tensor, "133 3"],
        barycentric: Float[Tensor, "133 3"],
    ):
        super().__init__()
        self.register_buffer("joint", joint, persistent=False)
        self.register_buffer("corners", corners, persistent=False)
        self.register_buffer("barycentric", barycentric, persistent=False)

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray], faces: Int[Tensor, "f 3"]) -> KeypointPicker:
        """From a body file: its own keypoints, else the licensed SMPL-X landmarks.

        Raises:
            KeyError: the file has neither.
        """
        if "keypoint_joint" in arrays:
            joint, corners, bary = (
                arrays["keypoint_joint"],
                faces.numpy()[arrays["keypoint_faces"].astype(int)],
                arrays["keypoint_bary"],
            )
        else:
            joint, corners, bary = _licensed(arrays, faces.numpy())
        return KeypointPicker(
            torch.as_tensor(joint.astype(np.int64)),
            torch.as_tensor(corners.astype(np.int64)),
            torch.as_tensor(bary.astype(np.float32)),
        )

    def forward(
        self, vertices: Float[Tensor, "*b p 3"], joints: Float[Tensor, "*b j 3"]
    ) -> Float[Tensor, "*b 133 3"]:
        """Positions in the frame of the vertices and joints."""
        surface = (vertices[..., self.corners, :] * self.barycentric[..., None]).sum(-2)
        return torch.where(
            self.joint[:, None] >= 0, joints[..., self.joint.clamp(min=0), :], surface
        )


def _licensed(
    arrays: Mapping[str, np.ndarray], faces: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joint, corners and barycentrics in a file without ``keypoint_*``."""
    if len(arrays["v_template"]) != SMPLX_VERTICES:
        raise KeyError("keypoint_joint")
    corners, bary = np.zeros((NUM_KEYPOINTS, 3), int), np.zeros((NUM_KEYPOINTS, 3))
    bary[:, 0] = 1
    for keypoint, vertex in _LICENSED_VERTICES.items():
        corners[keypoint] = vertex
    # The contour slides with the head's yaw; its place in the front view (row 0) is kept.
    corners[23:40] = faces[arrays["dynamic_lmk_faces_idx"][0].astype(int)]
    bary[23:40] = arrays["dynamic_lmk_bary_coords"][0]
    corners[40:91] = faces[arrays["lmk_faces_idx"].astype(int)]
    bary[40:91] = arrays["lmk_bary_coords"]
    return keypoint_joints(), corners, bary
