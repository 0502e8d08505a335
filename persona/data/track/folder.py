"""The folder of a tracked motion: PERSONA's pose_track, AMASS, BVH and a film to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.io import write_json
from persona.data.motion.amass import write_amass
from persona.data.motion.bvh_writer import write_bvh
from persona.data.motion.motion import Motion
from persona.data.motion.persona_json import ABOUT_FILE
from persona.data.motion.settle import settle
from persona.data.motion.target import TargetSkeleton
from persona.data.parameters import write_camera, write_pose
from persona.data.track.clip_fit import chained
from persona.data.track.video import Video
from persona.data.track.windows import bridged, read_fitted
from persona.data.track.world import turned, upward, world_from_camera
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import vertex_normals
from persona.modules.render.mesh import interpolate, rasterize
from persona.types import BodyIdentity, BodyPose, Camera

NPZ, BVH, PICTURE, LOOK = "motion.npz", "motion.bvh", "compare.mp4", "compare.png"
PANEL_PX = 480
"""Height of each of the three pictures side by side."""
_SEEN, _BRIDGED = (0.6, 1.0, 0.7), (0.75, 0.75, 0.75)


@dataclass(frozen=True)
class Tracked:
    """A motion that was tracked in a video.

    Attributes:
        video: The file.
        frames: The tracked frames.
        camera: Camera of its frames, about the person.
        identity: The person's shape.
        paths: Files of what was fitted, in order.
        notes: One line each: what the user should know.
    """

    video: Video
    frames: range
    camera: Camera
    identity: BodyIdentity
    paths: tuple[Path, ...]
    notes: tuple[str, ...]


def write_motion(root: Path, tracked: Tracked, body: SmplxBody) -> Motion:
    """Writes everything but the film. ``motion.npz`` comes last: with it the folder is whole."""
    parts = [read_fitted(path) for path in tracked.paths]
    poses = [part.pose() for part in parts]
    joints = torch.cat([pose.joints for pose in poses])
    pose = BodyPose.from_joints(
        joints, torch.cat([p.expression for p in poses]), torch.cat([p.trans for p in poses])
    )
    turns, seen = chained(torch.cat([p.turn for p in parts])), torch.cat([p.seen for p in parts])
    _write_frames(root, tracked, pose, turns)
    target = TargetSkeleton.from_body(body, tracked.identity)
    motion = settle(_in_world(tracked, body, pose, turns), target)
    write_json(root / ABOUT_FILE, _about(tracked, seen, turns), indent=1)
    write_bvh(root / BVH, motion, target)
    write_amass(root / NPZ, motion, target, tracked.identity.betas, "neutral")
    return motion


def _write_frames(
    root: Path, tracked: Tracked, pose: BodyPose, turns: Float[Tensor, "t 3 3"]
) -> None:
    """PERSONA's files: each frame's pose in its camera, and the camera."""
    (root / "smplx/params").mkdir(parents=True, exist_ok=True)
    (root / "cam_params").mkdir(parents=True, exist_ok=True)
    for i in range(len(turns)):
        write_pose(root / f"smplx/params/{i}.json", pose[i])
        write_camera(root / f"cam_params/{i}.json", tracked.camera)


def _in_world(
    tracked: Tracked, body: SmplxBody, pose: BodyPose, turns: Float[Tensor, "t 3 3"]
) -> Motion:
    """The motion before a world that stands still, y up."""
    rest = body.shape(tracked.identity)[1]
    still = turned(pose, turns.mT, rest[0])
    bones = body.joint_transforms(rest, body.full_pose(still))
    joints = (bones[..., :3, :3] @ rest[..., None])[..., 0] + bones[..., :3, 3]
    world = world_from_camera(upward(joints))
    placed = turned(still, world.expand(len(turns), 3, 3), rest[0])
    return Motion(placed, tracked.video.fps, str(tracked.video.path))


def _about(tracked: Tracked, seen: Bool[Tensor, "t"], turns: Float[Tensor, "t 3 3"]) -> dict:
    """Metadata of the motion."""
    cosine = ((turns.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1)
    return {
        "video": tracked.video.path.name, "fps": tracked.video.fps,
        "first_frame": tracked.frames.start, "frames": len(seen),
        "bridged": bridged(seen), "camera_turns_deg": float(cosine.min().arccos().rad2deg()),
        "focal_px": tracked.camera.focal_px.tolist(), "notes": list(tracked.notes),
    }  # fmt: skip


def film(
    tracked: Tracked, body: SmplxBody, advance: Callable[[int], None]
) -> Iterator[UInt8[ndarray, "h w 3"]]:
    """Frame by frame: video, body on the video, body alone; bridged frames have a grey body."""
    frames = tracked.video.frames(tracked.frames.start, tracked.frames.stop)
    scale = PANEL_PX / tracked.camera.height
    width = 2 * round(tracked.camera.width * scale / 2)
    camera = tracked.camera.resize(PANEL_PX, width)
    for path in tracked.paths:
        fitted = read_fitted(path)
        pose = fitted.pose()
        for i in range(len(fitted.trans)):
            frame = next(frames, None)
            if frame is None:
                return
            small = cv2.resize(frame, (width, PANEL_PX), interpolation=cv2.INTER_AREA)
            vertices, _ = body(tracked.identity, pose[i])
            tint = _SEEN if fitted.seen[i] else _BRIDGED
            mask, shaded = shade(vertices, body.faces, camera, tint)
            over, alone = small.copy(), np.full_like(small, 255)
            over[mask] = (0.35 * over[mask] + 0.65 * shaded[mask]).astype(np.uint8)
            alone[mask] = shaded[mask]
            yield np.concatenate((small, over, alone), 1)
            advance(1)


def shade(
    vertices: Float[Tensor, "p 3"],
    faces: Tensor,
    camera: Camera,
    tint: tuple[float, float, float],
) -> tuple[Bool[ndarray, "h w"], UInt8[ndarray, "h w 3"]]:
    """The body lit from the camera, and where it is."""
    render = rasterize(vertices, faces, camera)
    light = 60 - 160 * interpolate(render, faces, vertex_normals(vertices, faces))[..., 2:].numpy()
    return render.mask.numpy(), (light.clip(40, 230) * np.array(tint)).astype(np.uint8)


def strip(frames: list[UInt8[ndarray, "h w 3"]]) -> UInt8[ndarray, "h2 w 3"]:
    """Some frames of the film, one below the other."""
    return np.concatenate(frames)
