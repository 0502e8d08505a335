"""PERSONA's subject folder: where each file lies and what one frame holds.

Source: folder contract of PERSONA (arXiv:2508.09973), read from its public subjects.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from persona.types import BodyPose, Camera

CAPTURED, TEST = "captured", "test"
IDENTITY_FILES = {
    "betas": "smplx_optimized/shape_param.json",
    "face_offset": "smplx_optimized/face_offset.json",
    "joint_offset": "smplx_optimized/joint_offset.json",
}
FRAME_FILES = {
    "image": "images/{}.png",
    "mask": "masks/{}.png",
    "keypoints": "keypoints_whole_body/{}.json",
    "depth": "depths/{}.npy",
    "depth_mask": "depths/{}_mask.npy",
    "normal": "normals/{}.npy",
    "normal_mask": "normals/{}_mask.npy",
    "seg": "segs/{}.png",
    "seg_mask": "segs/{}.npy",
    "seg_classes": "segs/{}_seg.npy",
    "albedo": "image_intrinsics/{}_albedo.png",
    "patch": "face_patches/images/{}.png",
    "patch_box": "face_patches/bbox/{}.json",
    "camera": "cam_params/{}.json",
    "pose": "smplx_optimized/smplx_params/{}.json",
    "mesh": "smplx_optimized/meshes/{}.ply",
}
"""Path in a split by kind, for a frame number, as PERSONA has it."""

COMPACT_FILES = {
    "depth": "depths/{}.png",
    "depth_mask": "depths/{}_mask.png",
    "normal": "normals/{}.png",
    "normal_mask": "normals/{}_mask.png",
    "seg_mask": "segs/{}_mask.png",
}
"""The same for what is stored as PNG instead: see ``persona.data.compact``."""

TEXTURE_FILES = {
    "texture": "smplx_optimized/smplx_texture.png",
    "mask": "smplx_optimized/smplx_texture_mask.png",
    "inpaint": "smplx_optimized/smplx_texture_inpaint.png",
    "seg": "smplx_optimized/smplx_seg.png",
    "seg_mask": "smplx_optimized/smplx_seg_mask.png",
    "seg_inpaint": "smplx_optimized/smplx_seg_inpaint.png",
}
CROP_FILE = "images/{}_bbox_orig.json"
"""Box of a frame that was cut from a larger image; most splits have none."""

CANVAS_FILE = "images/img_shape_orig.json"
"""Height and width of that larger image."""

ORIGINAL_FILE = "frame_idx_orig.txt"
SUBJECT_FILE = "subject.json"
UNFINISHED_FILE = "unfinished"
"""Lies in the root while a folder is being made, so that an interruption shows."""

SCHEMA = 1


def frame_path(root: Path, split: str, kind: str, number: int) -> Path:
    """Path of one file of a frame."""
    return root / split / FRAME_FILES[kind].format(number)


@dataclass(frozen=True)
class FrameData:
    """One frame as it lies on disk."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    """The person."""
    camera: Camera
    pose: BodyPose
    depth: Float32[np.ndarray, "h w"]
    """Relative, larger is farther."""
    normal: Float32[np.ndarray, "h w 3"]
    """Unit, x right, y up, z to the camera."""
    seg: UInt8[np.ndarray, "h w 3"]
    """Part colours of ``palette.PALETTE``, background included."""
    depth_mask: Bool[np.ndarray, "h w"] | None = None
    """Where ``depth`` holds; None when writing: ``mask``."""
    normal_mask: Bool[np.ndarray, "h w"] | None = None
    """Where ``normal`` holds; None when writing: ``mask``."""
    seg_mask: Bool[np.ndarray, "h w"] | None = None
    """Foreground of ``seg``; None when writing: every class but the background."""
    albedo: UInt8[np.ndarray, "h w 3"] | None = None
    """Captured only."""
    patch: UInt8[np.ndarray, "q q 3"] | None = None
    """Face patch, captured only."""
    patch_box_px: Float32[np.ndarray, "4"] | None = None
    """(x, y, w, h) of the patch in the image."""
    keypoints: Float32[np.ndarray, "133 3"] | None = None
    """COCO-WholeBody x, y (pixels) and score; not read by training."""


class Textures(NamedTuple):
    """What the frames of one split show of the body, in uv space (row 0 is v = 1)."""

    texture: UInt8[np.ndarray, "t t 3"]
    """Mean colour of the frames that see a texel."""
    mask: Bool[np.ndarray, "t t"]
    """Texels that some frame sees."""
    inpaint: UInt8[np.ndarray, "t t 3"]
    """``texture`` with the unseen texels filled in."""
    seg_inpaint: UInt8[np.ndarray, "t t 3"]
    """Part colours, filled in the same way."""


@dataclass(frozen=True)
class SubjectInfo:
    """Our own root file ``subject.json``, which published folders do not have."""

    body: str
    """Name of the body file the parameters belong to."""
    body_digest: str
    provenance: str
    """Such as ``synthetic seed=0`` or ``photo me.jpg``."""
    generator: str
    """What made the ``generated_*`` frames."""
    config_digest: str = ""
    """Hash of the configuration that made the folder."""
    input_frames: str = ""
    """What of a dataset the avatar is made from, in the dataset's own names; empty elsewhere."""
    schema: int = SCHEMA


def resize_expression(pose: BodyPose, num_expression: int) -> BodyPose:
    """Fits the number of expression coefficients where nothing is lost.

    Raises:
        ValueError: the numbers differ and an expression is set.
    """
    given = pose.expression.shape[-1]
    if given == num_expression:
        return pose
    if pose.expression.any():
        raise ValueError(f"has {given} expression coefficients, the body has {num_expression}")
    zero = torch.zeros(*pose.expression.shape[:-1], num_expression)
    return BodyPose.from_joints(pose.joints, zero.to(pose.expression), pose.trans)
