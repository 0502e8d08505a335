"""PERSONA's subject folder: where each file lies and what one frame holds.

Source: folder contract of PERSONA (arXiv:2508.09973), read from its public subjects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Shaped, UInt8

from persona.data.palette import PALETTE
from persona.types import BodyPose, Camera

CAPTURED, TEST = "captured", "test"
IDENTITY_FILES = {
    "betas": "smplx_optimized/shape_param.json",
    "face_offset": "smplx_optimized/face_offset.json",
    "joint_offset": "smplx_optimized/joint_offset.json",
}


@dataclass(frozen=True, kw_only=True)
class MapSpec:
    """One map of every frame: where it lies, and how it is read, shrunk, pasted and served.

    A new map needs only a row in ``MAPS``, and code that makes it.
    """

    name: str
    channels: int
    dtype: np.dtype
    """On disk: uint8 (0 to 255), bool or float32."""
    file: str
    """Path in a split, for a frame number: PNG, or .npy for float32."""
    compact: str = ""
    """The same in 16-bit PNG; empty where the map has one form."""
    unit: bool = False
    """Whether it holds unit vectors, which are served as (n + 1) / 2."""
    resize: int = cv2.INTER_NEAREST_EXACT
    """How it is shrunk."""
    around: int | tuple[int, int, int] = 0
    """Value outside of a crop that is pasted onto its whole image."""
    masked_by: tuple[str, ...] = ()
    """Masks; outside of them the map is served as 0."""
    optional: bool = False
    """Whether a split may lack it."""
    served: bool = True
    """Whether training sees it."""


_U8, _BOOL, _F32 = np.dtype(np.uint8), np.dtype(bool), np.dtype(np.float32)
WHITE = 255
MAPS = {spec.name: spec for spec in (
    MapSpec(name="image", channels=3, dtype=_U8, file="images/{}.png",
            resize=cv2.INTER_AREA, around=WHITE),
    MapSpec(name="mask", channels=1, dtype=_BOOL, file="masks/{}.png"),
    MapSpec(name="depth", channels=1, dtype=_F32, file="depths/{}.npy", compact="depths/{}.png",
            masked_by=("mask", "depth_mask")),
    MapSpec(name="depth_mask", channels=1, dtype=_BOOL, file="depths/{}_mask.npy",
            compact="depths/{}_mask.png", served=False),
    MapSpec(name="normal", channels=3, dtype=_F32, file="normals/{}.npy", compact="normals/{}.png",
            unit=True, masked_by=("mask", "normal_mask")),
    MapSpec(name="normal_mask", channels=1, dtype=_BOOL, file="normals/{}_mask.npy",
            compact="normals/{}_mask.png", served=False),
    MapSpec(name="seg", channels=3, dtype=_U8, file="segs/{}.png",
            around=PALETTE["Background"], masked_by=("mask", "seg_mask")),
    MapSpec(name="seg_mask", channels=1, dtype=_BOOL, file="segs/{}.npy",
            compact="segs/{}_mask.png", served=False),
    MapSpec(name="albedo", channels=3, dtype=_U8, file="image_intrinsics/{}_albedo.png",
            resize=cv2.INTER_AREA, around=WHITE, optional=True),
    MapSpec(name="labels", channels=1, dtype=_U8, file="labels/{}.png", optional=True),
    MapSpec(name="edit", channels=1, dtype=_BOOL, file="mask_object/{}.png", optional=True),
    MapSpec(name="own_colour", channels=1, dtype=_BOOL, file="own_colours/{}.png",
            optional=True, served=False),
)}  # fmt: skip
"""Every map of a frame, by name."""

FRAME_FILES = {name: spec.file for name, spec in MAPS.items()} | {
    "keypoints": "keypoints_whole_body/{}.json",
    "seg_classes": "segs/{}_seg.npy",
    "patch": "face_patches/images/{}.png",
    "patch_box": "face_patches/bbox/{}.json",
    "camera": "cam_params/{}.json",
    "pose": "smplx_optimized/smplx_params/{}.json",
    "mesh": "smplx_optimized/meshes/{}.ply",
    "surface_offset": "surface_offsets/{}.npz",
}
"""Path in a split by kind, for a frame number, as PERSONA has it."""

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

IMAGE_SIZE_FILE = "images/img_shape_orig.json"
"""Height and width of that larger image."""

ORIGINAL_FILE = "frame_idx_orig.txt"
SUBJECT_FILE = "subject.json"
UNFINISHED_FILE = "unfinished"
"""Marks a folder that is being made, so that an interruption is noticed."""

SPLITS = ("generated_*", CAPTURED, TEST)
"""Patterns of the folders of a subject's splits."""
EARLIER = (*SPLITS, SUBJECT_FILE, UNFINISHED_FILE)
"""Patterns of the files that a new subject replaces; other files do not belong to it."""

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
    others: Mapping[str, Shaped[np.ndarray, "h w *c"]] = field(default_factory=dict)
    """Maps of ``MAPS`` that have no field of their own, by name."""

    def map(self, name: str) -> Shaped[np.ndarray, "h w *c"] | None:
        """A map of ``MAPS``; None where the frame lacks it."""
        return getattr(self, name) if name in MAP_FIELDS else self.others.get(name)

    @property
    def maps(self) -> dict[str, Shaped[np.ndarray, "h w *c"]]:
        """All maps that the frame has, by name, in the order of ``MAPS``."""
        found = {name: self.map(name) for name in MAPS}
        return {name: values for name, values in found.items() if values is not None}


MAP_FIELDS = frozenset(f.name for f in fields(FrameData)) & frozenset(MAPS)
"""Maps that are fields of ``FrameData``."""


def map_arguments(maps: Mapping[str, Shaped[np.ndarray, "h w *c"]]) -> dict[str, Any]:
    """Maps by name as arguments of ``FrameData``, which are of several types."""
    own: dict[str, Any] = {name: values for name, values in maps.items() if name in MAP_FIELDS}
    return own | {"others": {k: v for k, v in maps.items() if k not in MAP_FIELDS}}


class Textures(NamedTuple):
    """Textures of the body from the frames of one split, in uv space (row 0 is v = 1)."""

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
    """This project's root file ``subject.json``, which published folders do not have."""

    body: str
    """Name of the body file the parameters belong to."""
    body_digest: str
    provenance: str
    """Where the subject comes from, such as ``synthetic seed=0`` or ``photo me.jpg``."""
    generator: str
    """What made the ``generated_*`` frames; empty where there are none."""
    config_digest: str = ""
    """Hash of the configuration that made the folder."""
    input_frames: str = ""
    """Frames of a dataset that the avatar is made from, by the dataset's names; else empty."""
    textured: bool = True
    """False where only the photograph and the body in it are there, for a method that reads no
    more."""
    schema: int = SCHEMA

    @property
    def from_photo(self) -> bool:
        """Whether it was made of a photograph."""
        return self.provenance.startswith("photo ")


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
