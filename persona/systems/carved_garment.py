"""The garment that training frames show, as a surface beside the body."""

import logging

import numpy as np
import torch

from persona.data.datamodule import spread
from persona.data.frames import FrameDataset
from persona.data.palette import CLOTH, PART_COLOURS, PART_INDEX, classes_from_colours
from persona.errors import UserError
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.carve import UNTOLD, carve
from persona.types import BodyIdentity, Garment

HIDING = tuple(f"{side}_{part}" for side in ("Left", "Right")
               for part in ("Hand", "Lower_Arm", "Upper_Arm"))  # fmt: skip
"""Parts that are in front of a garment without being its end."""
FRAMES = 48
"""Frames that are looked at, at most: the time that carving takes grows with them."""
log = logging.getLogger(__name__)


def carve_garment(body: SmplxBody, identity: BodyIdentity, frames: FrameDataset) -> Garment | None:
    """What hangs around the person's legs; None where nothing does.

    Args:
        body: Body model.
        identity: The person.
        frames: All training frames; as many as ``FRAMES``, evenly spread, are looked at.

    Raises:
        UserError: a part map has a colour that no part has.
    """
    rows = spread(len(frames), FRAMES)
    poses = frames.poses(body.num_expression).to("cpu")[torch.tensor(rows)]
    cameras, classes = [], []
    for row in rows:
        frame = frames[[row]]
        colours = (frame.seg[0].permute(1, 2, 0).cpu() * 255).round().byte().numpy()
        inside, told = frame.mask[0, 0].cpu().numpy() >= 0.5, colours.any(-1)
        colours[~(inside & told)] = PART_COLOURS[0]
        try:
            parts = classes_from_colours(colours).astype(np.int64)
        except ValueError as error:
            raise UserError(
                f"{frame.name[0]}: its part map {error}, so no garment can be found; set "
                "avatar.garment=false"
            ) from error
        parts[inside & ~told] = UNTOLD
        classes.append(torch.from_numpy(parts))
        cameras.append(frame.camera[0].to("cpu"))
    garment = carve(
        body, identity, poses, cameras, classes,
        cloth=tuple(PART_INDEX[name] for name in CLOTH),
        unknown=(UNTOLD, *(PART_INDEX[name] for name in HIDING)),
    )  # fmt: skip
    if garment is None:
        log.info("No garment hangs around the legs; clothes stay on the body's own surface.")
    return garment
