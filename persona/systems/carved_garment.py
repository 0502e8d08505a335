"""The garment that training frames show, as a surface beside the body."""

import numpy as np
import torch

from persona.data.datamodule import spread
from persona.data.frames import FrameDataset
from persona.data.palette import PART_INDEX, classes_from_colours
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.carve import carve
from persona.types import BodyIdentity, Garment

CLOTH = ("Upper_Clothing", "Lower_Clothing", "Apparel")
HIDING = tuple(f"{side}_{part}" for side in ("Left", "Right")
               for part in ("Hand", "Lower_Arm", "Upper_Arm"))  # fmt: skip
"""Parts that are in front of a garment without being its end."""
FRAMES = 48


def carve_garment(
    body: SmplxBody, identity: BodyIdentity, frames: FrameDataset
) -> Garment | None:
    """What hangs around the person's legs; None where nothing does.

    Args:
        body: Body model.
        identity: The person.
        frames: All training frames; as many as ``FRAMES``, evenly spread, are looked at.
    """
    rows = spread(len(frames), FRAMES)
    poses = frames.poses(body.num_expression).to("cpu")[torch.tensor(rows)]
    cameras, classes = [], []
    for row in rows:
        frame = frames[[row]]
        colours = (frame.seg[0].permute(1, 2, 0).cpu() * 255).round().byte().numpy()
        colours[~colours.any(-1) | (frame.mask[0, 0].cpu().numpy() < 0.5)] = (50, 50, 50)
        classes.append(torch.from_numpy(classes_from_colours(colours).astype(np.int64)))
        cameras.append(frame.camera[0].to("cpu"))
    return carve(
        body, identity, poses, cameras, classes,
        cloth=tuple(PART_INDEX[name] for name in CLOTH),
        unknown=(-1, *(PART_INDEX[name] for name in HIDING)),
    )  # fmt: skip
