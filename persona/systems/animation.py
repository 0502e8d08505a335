"""Rendering an avatar along a motion, to video and PNG frames."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from persona.data.io import atomic_path
from persona.data.motion.camera import fit_camera, place_in_camera
from persona.modules.avatar.pose_table import pose_state
from persona.systems.avatar_system import AvatarSystem
from persona.types import BodyPose, Camera

HEAD_JOINTS = torch.tensor([15, 22, 23, 24])
"""Head, jaw and eyes in SMPL-X order."""


@torch.no_grad()
def render_motion(
    system: AvatarSystem, poses: BodyPose, cameras: Camera, asset: str | None = None
) -> Iterator[UInt8[ndarray, "h w 4"]]:
    """RGBA frames (straight alpha) of every pose.

    poses: batched, in the world of ``cameras``, which hold one camera or one per pose.
    """
    system.eval()
    count = len(poses.trans)
    batched = cameras.focal_px.dim() == 2
    for i in range(count):
        state = pose_state(system.body, poses[i].to(system.device))
        camera = (cameras[i] if batched else cameras).to(system.device)
        color, alpha = system.render(state, camera, asset)
        rgba = torch.cat([color / alpha.clamp_min(1e-6), alpha]).clamp(0, 1)
        yield (rgba * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def frame_motion(
    system: AvatarSystem,
    pose: BodyPose,
    height: int,
    width: int,
    *,
    face: bool = False,
    num_looks: int = 24,
) -> tuple[BodyPose, Camera]:
    """Camera poses and a camera that see a whole world motion, or the head through all of it.

    Looks at ``num_looks`` poses of the body mesh, evenly spread, to find its bounds.
    """
    body, identity = system.body, system.identity.to(system.device)
    vertices, joints = body.shape(identity)
    placed = place_in_camera(pose, joints[0].cpu())
    rows = torch.linspace(0, len(pose.trans) - 1, min(num_looks, len(pose.trans))).long()
    looks = placed[rows].to(vertices.device)
    points = body(identity, looks)[0]
    if face:
        points = points[:, torch.isin(body.weights.argmax(1), HEAD_JOINTS.to(points.device))]
    camera, shift = fit_camera(points.cpu(), height, width)
    return replace(placed, trans=placed.trans + shift), camera


def composite(
    rgba: UInt8[ndarray, "h w 4"], background: UInt8[ndarray, "h w 3"] | tuple[int, int, int]
) -> UInt8[ndarray, "h w 3"]:
    """Frame over a background image or colour."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    under = np.broadcast_to(np.asarray(background, np.float32), (*rgba.shape[:2], 3))
    return (rgba[..., :3] * alpha + under * (1 - alpha)).round().astype(np.uint8)


def write_video(path: Path, frames: Iterable[UInt8[ndarray, "h w 3"]], fps: float | int) -> int:
    """H.264 mp4, written whole or not at all. Returns the number of frames.

    Odd sides are padded by a row or column of white: the codec wants even ones.
    """
    count = 0
    with atomic_path(path) as temporary:
        writer = imageio.get_writer(
            temporary, format="FFMPEG", fps=fps, codec="libx264", quality=8, macro_block_size=2
        )
        with closing(writer):
            for frame in frames:
                height, width = frame.shape[:2]
                pad = ((0, height % 2), (0, width % 2), (0, 0))
                writer.append_data(np.pad(frame, pad, constant_values=255))
                count += 1
    return count
