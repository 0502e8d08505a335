"""Test frames of a run's subject beside the avatar's renders of them."""

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from persona.commands.pictures import to_uint8
from persona.commands.results import truth_and_render
from persona.data.frames import FrameDataset
from persona.systems.fit import Fit


class Beside:
    """Pictures of the truth beside the avatar's render.

    Args:
        system: Trained; its test poses become those of the frames.
        frames: Test frames of its subject.
    """

    def __init__(self, system: Fit, frames: FrameDataset) -> None:
        self.system, self.frames = system, frames
        system.test_table = system.pose_table(frames).requires_grad_(False).to(system.device)

    def picture(self, name: str) -> UInt8[ndarray, "h twice_w 3"]:
        """Truth at the left, render at the right.

        Args:
            name: One of ``frames.names``.
        """
        pair = truth_and_render(self.system, self.frames, self.frames.names.index(name))
        return np.hstack([to_uint8(image) for image in pair])
