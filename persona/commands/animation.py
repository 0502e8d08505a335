"""Rendering an avatar along a motion, to frames."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from persona.commands.video_file import Background
from persona.data.motion.camera import fit_camera, place_in_camera
from persona.modules.avatar.driver import ClipDrawer
from persona.modules.avatar.pose_table import matrix_pose
from persona.modules.body.joints import HEAD_JOINTS
from persona.runtime.clip_graph import ClipGraph
from persona.systems.fit import Fit
from persona.types import BodyPose, Camera

"""Head, jaw and eyes in SMPL-X order."""
BATCH = 8
"""Frames that are copied from the GPU together."""


def render_motion(
    system: Fit,
    poses: BodyPose,
    cameras: Camera,
    asset: str | None = None,
    background: Background | None = None,
    fps: float | int | None = None,
    cloth: Float[Tensor, "n q 3"] | None = None,
) -> Iterator[UInt8[ndarray, "h w c"]]:
    """Renders every pose to a frame on the host: over a background, or RGBA with straight alpha.

    On CUDA the host waits only for the batch before the one that is being rendered.

    Args:
        system: Renders.
        poses: Batched, in the world of ``cameras``.
        cameras: One camera, or one per pose.
        asset: One of the system's; by default its result.
        background: What the avatar is composited over; None gives RGBA.
        fps: Frames a second, which an avatar with a history must know; None is its training's.
        cloth: How a garment hangs in each pose, as of ``Drape.offset``; None leaves it skinned.
    """
    frames = draw_frames(system, poses, cameras, asset, background, fps, cloth)
    if system.device.type != "cuda":
        yield from (frame.numpy() for frame in frames)
        return
    copies: deque[tuple[Tensor, torch.cuda.Event]] = deque()
    while batch := list(islice(frames, BATCH)):
        copies.append(copy_out(torch.stack(batch)))
        if len(copies) > 1:
            yield from arrived(*copies.popleft())
    for copy in copies:
        yield from arrived(*copy)


@torch.no_grad()
def draw_frames(
    system: Fit,
    poses: BodyPose,
    cameras: Camera,
    asset: str | None = None,
    background: Background | None = None,
    fps: float | int | None = None,
    cloth: Float[Tensor, "n q 3"] | None = None,
) -> Iterator[UInt8[Tensor, "h w c"]]:
    """The frames of ``render_motion``, left on the system's device.

    On CUDA, methods that can be captured draw by replaying a CUDA graph (``system.cuda_graph``).
    """
    system.eval()
    device = system.device
    cameras = cameras.to(device)
    batched = cameras.focal_px.dim() == 2
    pose = matrix_pose(system.body, poses.to(device))
    if system.avatar.history is not None:
        pose = system.avatar.history.follow(pose, fps)
    draw = system.clip(pose, asset)
    if cloth is not None and isinstance(draw, ClipDrawer):
        draw.hang(cloth)
    under = None
    if background is not None:
        under = torch.as_tensor(np.asarray(background, np.float32) / 255, device=device)
        under = under.view(-1, 1, 1) if under.dim() == 1 else under.permute(2, 0, 1)

    def picture(row: int | Int[Tensor, "1"]) -> UInt8[Tensor, "h w c"]:
        camera = cameras.row(row) if batched else cameras
        return to_pixels(*draw(row, camera), under)

    count = len(poses.trans)
    if (
        system.cuda_graph
        and device.type == "cuda"
        and isinstance(draw, ClipDrawer)
        and count > BATCH  # A capture draws some frames in any case.
    ):
        yield from ClipGraph(picture, system.renderer, count, device).frames(BATCH)
    else:
        yield from map(picture, range(count))


def to_pixels(
    color: Float[Tensor, "3 h w"],
    alpha: Float[Tensor, "1 h w"],
    under: Float[Tensor, "3 #h #w"] | None,
) -> UInt8[Tensor, "h w c"]:
    """8-bit pixels of a premultiplied render, over a background or as RGBA with straight alpha."""
    if under is None:
        image = torch.cat([color / alpha.clamp_min(1e-6), alpha])
    else:
        image = torch.addcmul(color, 1 - alpha, under)
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous()


def copy_out(batch: UInt8[Tensor, "b h w c"]) -> tuple[Tensor, torch.cuda.Event]:
    """Starts to copy a CUDA tensor to the host; returns the copy and the event of its completion.

    The pinned memory is torch's, which reuses it once the last frame is dropped.
    """
    host = torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True)
    host.copy_(batch, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event


def arrived(host: UInt8[Tensor, "b h w c"], event: torch.cuda.Event) -> Iterator[ndarray]:
    """Waits for a copy to complete and yields its frames."""
    event.synchronize()
    yield from host.numpy()


def frame_motion(
    system: Fit,
    pose: BodyPose,
    height: int,
    width: int,
    *,
    face: bool = False,
    num_looks: int = 24,
) -> tuple[BodyPose, Camera]:
    """Camera poses and a camera that see a whole world motion, or the head through all of it.

    Looks at ``num_looks`` poses of the dressed body, evenly spread, to find its bounds.
    """
    body, identity = system.body.dressed(system.identity.to(system.device))
    vertices, joints = body.shape(identity)
    placed = place_in_camera(pose, joints[0].cpu())
    rows = torch.linspace(0, len(pose.trans) - 1, min(num_looks, len(pose.trans))).long()
    looks = placed[rows].to(vertices.device)
    points = body(identity, looks)[0]
    if face and body.num_joints > max(HEAD_JOINTS):  # A head's camera always frames the face.
        head = torch.tensor(HEAD_JOINTS, device=points.device)
        points = points[:, torch.isin(body.weights.argmax(1), head)]
    camera, shift = fit_camera(points.cpu(), height, width)
    return replace(placed, trans=placed.trans + shift), camera
