"""Maps, limbs and keypoints of a picture by its fitted body, and a frame made from them.

Photographs, recordings and clips all get their frames' maps here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from scipy import ndimage
from torch import Tensor

from persona.data.layout import FrameData
from persona.data.palette import colours_from_classes
from persona.data.preprocess.maps import BodyMaps, body_maps, face_labels, near_occlusion
from persona.modules.body.skinning import blend_bones
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.detect import Annotator, annotate, wholebody
from persona.types import BodyIdentity, BodyPose, Camera

EDGE = 0.01
"""Assumed misalignment of a fitted body, as a share of the frame's height."""
MIN_FACING = 0.25
"""Cosine below which a pixel is too oblique to give its colour to a texture."""
_FACE_SEEN, _FACE_SLACK_M = 0.5, 0.02
"""Share of the face's keypoints on the visible surface that makes a face seen, and how near."""


@dataclass(frozen=True)
class BodyView:
    """Renders of a posed body in one camera."""

    pose: BodyPose
    camera: Camera
    vertices: Float[Tensor, "p 3"]
    joints: Float[Tensor, "j 3"]
    maps: BodyMaps
    limbs: Int[ndarray, "h w"]
    """Index in ``parts.PARTS`` of each pixel, -1 where no body is."""


def view_body(
    body: SmplxBody,
    limb_of_vertex: Int[Tensor, "p"],
    identity: BodyIdentity,
    pose: BodyPose,
    camera: Camera,
    offset: Float[Tensor, "p 3"] | None = None,
) -> BodyView:
    """Poses the body and looks at it.

    Args:
        body: Body model.
        limb_of_vertex: See ``parts.limb_of_vertices``.
        identity: The person.
        pose: One pose, in the world of the camera.
        camera: One camera.
        offset: Added to the rest pose, metres; no joint moves by it.
    """
    vertices, joints = posed_body(body, identity, pose, offset)
    maps = body_maps(vertices, body.faces, camera)
    limbs = face_labels(maps.render, body.faces, limb_of_vertex)
    return BodyView(pose, camera, vertices, joints, maps, limbs)


def posed_body(
    body: SmplxBody,
    identity: BodyIdentity,
    pose: BodyPose,
    offset: Float[Tensor, "p 3"] | None = None,
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "j 3"]]:
    """Vertices and joints in one pose, metres; ``offset`` as of ``view_body``."""
    vertices, joints = body(identity, pose)
    if offset is None:
        return vertices, joints
    bones = body.joint_transforms(body.shape(identity)[1], body.full_pose(pose))
    moves = offset.any(-1)
    turns = blend_bones(body.weights[moves], bones[:, :3])[..., :3]
    vertices[moves] += (turns * offset[moves, None]).sum(-1)
    return vertices, joints


def body_keypoints(body: SmplxBody, view: BodyView) -> Float[Tensor, "133 3"]:
    """The body's own keypoints in the picture; a face that is turned away scores 0."""
    points, camera = body.keypoints(view.vertices, view.joints), view.camera
    pixels = camera.project(points)
    scores = torch.ones(len(points), 1)
    face = wholebody.FACE
    column, row = pixels[face].long().unbind(-1)
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    column, row = column.clamp(0, camera.width - 1), row.clamp(0, camera.height - 1)
    depth = torch.from_numpy(view.maps.depth)[row, column]
    seen = inside & (points[face, 2] < depth + _FACE_SLACK_M)
    scores[face] = float(seen.float().mean() > _FACE_SEEN)
    return torch.cat((pixels, scores), -1)


def annotate_frame(
    annotators: Sequence[Annotator],
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    keypoints: Float[Tensor, "133 3"],
    view: BodyView,
) -> FrameData:
    """A frame with the maps of annotators, and the body's depth and normals where they give none.

    Args:
        annotators: Together they give parts; a later one's maps win.
        image: RGB.
        mask: The person, as far as it is known; an annotator's matte replaces it.
        keypoints: COCO-WholeBody (x, y, score) in pixels of ``image``.
        view: The fitted body in the frame's camera.
    """
    maps: dict[str, ndarray] = {}
    for annotator in annotators:
        alpha = maps.get("alpha", mask.astype(np.float32))
        maps |= annotate(annotator, image, alpha, keypoints, view.limbs)
    if "alpha" in maps:
        mask = maps["alpha"] > 0.5
    return frame_with(image, mask, maps, keypoints, view)


def frame_with(
    image: UInt8[ndarray, "h w 3"],
    mask: Bool[ndarray, "h w"],
    maps: Mapping[str, ndarray],
    keypoints: Float[Tensor, "133 3"] | None,
    view: BodyView,
) -> FrameData:
    """A frame of given maps; depth and normals that are not among them are the body's.

    Args:
        image: RGB.
        mask: The person.
        maps: By the names of ``persona.modules.detect.annotator.MAPS``; ``parts`` at least.
        keypoints: None leaves them out.
        view: The fitted body in the frame's camera.
    """
    depth, normal = maps.get("depth", view.maps.depth), maps.get("normal", view.maps.normal)
    both = mask & view.maps.mask
    return FrameData(
        image=np.ascontiguousarray(image), mask=mask, camera=view.camera, pose=view.pose,
        depth=depth, normal=normal.astype(np.float32),
        seg=colours_from_classes(np.where(mask, maps["parts"], 0).astype(np.uint8)),
        depth_mask=mask & (depth != 0) if "depth" in maps else both,
        normal_mask=mask & (normal != 0).any(-1) if "normal" in maps else both,
        keypoints=None if keypoints is None else keypoints.numpy(),
    )  # fmt: skip


def trusted(mask: Bool[ndarray, "h w"], maps: BodyMaps) -> Bool[ndarray, "h w"]:
    """Pixels of a person that surely show the surface of the body that is rendered there."""
    edge = max(1, round(EDGE * mask.shape[0]))
    # The outermost pixels mix with the background.
    inner = ndimage.binary_erosion(mask, iterations=max(1, edge // 4))
    return inner & (maps.facing > MIN_FACING) & ~near_occlusion(maps.depth, maps.mask, edge)
