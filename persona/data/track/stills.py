"""Chooses the frames of a tracked video that together show a person best, as photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from torch import Tensor

from persona.data.io import read_json, write_png
from persona.data.motion.persona_json import ABOUT_FILE
from persona.data.parameters import read_camera, read_pose
from persona.data.preprocess.several import sharpness
from persona.data.track.video import Video
from persona.errors import UserError
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.types import BodyPose, Camera

FOLDER = "stills"
_LOOKS = 240
"""Most frames that are examined."""
_APART_DEG = 25.0
"""A frame turned by less than this from a chosen one shows nothing new."""
_LEAST_WHOLE = 0.25
"""Least share of the person's box within a photograph: about head and chest."""
_MARGIN = 0.12
"""How far head, hands and clothes reach beyond the joints, as a share of the joints' height."""


@dataclass(frozen=True)
class Look:
    """What makes a frame a good or a bad photograph."""

    frame: int
    """Number of the frame in the motion, from 0."""
    yaw_deg: float
    """Turn of the trunk about the vertical; 0 faces the camera."""
    sharp: float
    whole: float
    """Share of the person's box that lies within the picture."""

    @property
    def usable(self) -> bool:
        """Whether the person can be seen well enough for a photograph."""
        return self.sharp > 0 and self.whole >= _LEAST_WHOLE


def write_stills(root: Path, video: Video, body: SmplxBody, count: int) -> list[Path]:
    """Writes the best frames of a tracked video. Returns the files, the main photograph first.

    Args:
        root: Folder of the tracked motion; the files go into ``stills`` there.
        video: The tracked video.
        body: Body model.
        count: Most frames.

    Raises:
        UserError: the person is well seen in none.
    """
    looks = [look for look in read_looks(root, video, body) if look.usable]
    if not looks:
        raise UserError(
            f"{video.path}: no frame shows enough of the person to be a photograph; give another "
            "part of it by track=[start=N], or photo= in place of video="
        )
    first = int(read_json(root / ABOUT_FILE)["first_frame"])
    paths = []
    for look in choose(looks, count):
        image = video.frame(first + look.frame)
        assert image is not None  # ``read_looks`` has read this frame.
        paths.append(root / FOLDER / f"{look.frame:06d}.png")
        write_png(paths[-1], image)
    return paths


def read_looks(root: Path, video: Video, body: SmplxBody) -> list[Look]:
    """Rates frames in which the person was seen, spread over the motion."""
    about = read_json(root / ABOUT_FILE)
    first, total = int(about["first_frame"]), int(about["frames"])
    blind = {i for low, high in about["bridged"] for i in range(low, high + 1)}
    seen = [i for i in range(total) if i not in blind]
    wanted = set(seen[:: max(1, len(seen) // _LOOKS)])
    looks = []
    for i, image in enumerate(video.frames(first, first + total)):
        if i not in wanted:
            continue
        pose = read_pose(root / f"smplx/params/{i}.json")
        camera = read_camera(root / f"cam_params/{i}.json", *image.shape[:2])
        looks.append(_look(i, image, pose, camera, body))
    return looks


def _look(
    frame: int, image: UInt8[ndarray, "h w 3"], pose: BodyPose, camera: Camera, body: SmplxBody
) -> Look:
    _, joints = body(body.zero_identity(), pose)
    box, whole = person_box(camera.project(joints), camera)
    return Look(frame, yaw_deg(pose), sharpness(image, box), whole)


def yaw_deg(pose: BodyPose) -> float:
    """Turn of a person about the camera's vertical: 0 faces the camera, 180 is seen from behind."""
    forward = matrix_from_axis_angle(pose.root)[:, 2]
    return float(torch.atan2(forward[0], -forward[2]).rad2deg())


def person_box(pixels: Float[Tensor, "j 2"], camera: Camera) -> tuple[Bool[ndarray, "h w"], float]:
    """Mask of the person's box in the picture, and the share of the box inside the picture."""
    low, high = pixels.amin(0), pixels.amax(0)
    margin = _MARGIN * float(high[1] - low[1])
    low, high = low - margin, high + margin
    size = torch.tensor([float(camera.width), float(camera.height)])
    inside_low, inside_high = low.clamp(min=0).minimum(size), high.clamp(min=0).minimum(size)
    mask = np.zeros((camera.height, camera.width), bool)
    (x0, y0), (x1, y1) = inside_low.int().tolist(), inside_high.int().tolist()
    mask[y0:y1, x0:x1] = True
    return mask, float((inside_high - inside_low).prod() / (high - low).prod().clamp(min=1e-6))


def choose(looks: Sequence[Look], count: int) -> list[Look]:
    """Chooses sharp frames of the whole person, from sides as different as possible.

    The first one faces the camera best; each further one is turned farthest from those chosen
    before it. Both choices are weighted by how sharp and whole a frame is.
    """
    if not looks:
        return []
    best = max(look.sharp for look in looks)
    quality = {look.frame: look.whole**2 * look.sharp / best for look in looks}
    facing = {look.frame: 0.5 + 0.5 * np.cos(np.radians(look.yaw_deg)) for look in looks}
    chosen = [max(looks, key=lambda look: facing[look.frame] ** 4 * quality[look.frame])]
    while len(chosen) < count:
        apart = {look.frame: min(_between(look, other) for other in chosen) for look in looks}
        new = [look for look in looks if apart[look.frame] >= _APART_DEG]
        if not new:
            break
        chosen.append(max(new, key=lambda look: apart[look.frame] * quality[look.frame]))
    return chosen


def _between(a: Look, b: Look) -> float:
    """Angle between two turns, degrees from 0 to 180."""
    return abs((a.yaw_deg - b.yaw_deg + 180) % 360 - 180)
