"""Where the eyes look, by the pupils between the corners of the eyes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from persona.modules.detect import wholebody

_PUPILS = (wholebody.LEFT_EYE, wholebody.RIGHT_EYE)
"""Where a face is found, these points are its pupils."""
_CORNERS = ((65, 68), (62, 59))
"""Inner and outer corner of the left and the right eye."""
_WIDTH_BY_RADIUS = 2.5
"""An eye is 30 mm wide and its ball has a radius of 12 mm."""
_MOST_RAD = 0.5
_USUAL_RAD, _PUPIL_PX = 0.17, 0.7
"""How far eyes turn as a rule, and by how much the mean of two pupils is misplaced."""
_STEADY_S = 0.06
"""Standard deviation over which frames are averaged, seconds."""


def gaze(keypoints: Float[Tensor, "t 133 3"], fps: float) -> Float[Tensor, "t 3"]:
    """Rotation of both eyes against the head, axis-angle: x is down, y to the person's left.

    Zero where no face is found. Both eyes turn together: points of two pixels show no squint. A
    reading counts by how sure it is (Wiener's filter), so the eyes of a small face turn little.
    """
    across, down, widths = [], [], []
    right, left = keypoints[:, 59, :2], keypoints[:, 68, :2]
    axis = torch.nn.functional.normalize(left - right, dim=-1)
    below = torch.stack((-axis[:, 1], axis[:, 0]), -1)
    for pupil, corners in zip(_PUPILS, _CORNERS, strict=True):
        ends = keypoints[:, list(corners), :2]
        width = (ends[:, 0] - ends[:, 1]).norm(dim=-1).clamp(min=1.0)
        widths.append(width)
        off = (keypoints[:, pupil, :2] - ends.mean(1)) / width[:, None] * _WIDTH_BY_RADIUS
        across.append((off * axis).sum(-1))
        down.append((off * below).sum(-1))
    turn = torch.stack((torch.stack(down).mean(0), torch.stack(across).mean(0)), -1)
    seen = (keypoints[:, wholebody.FACE, 2] > 0).all(-1)
    turn = torch.asin(turn.clamp(-1, 1)).clamp(-_MOST_RAD, _MOST_RAD) * seen[:, None]
    noise_rad = _PUPIL_PX / torch.stack(widths).mean(0) * _WIDTH_BY_RADIUS
    turn = turn * (_USUAL_RAD**2 / (_USUAL_RAD**2 + noise_rad**2))[:, None]
    steady = gaussian_filter1d(turn.numpy(), _STEADY_S * fps, axis=0, mode="nearest")
    return torch.cat((torch.from_numpy(steady), torch.zeros(len(turn), 1)), -1)
