"""The interface of video generators, which make clips of a photographed person."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.drape import Drape
from persona.types import BodyIdentity, BodyPose, Camera

CONTROLS = MappingProxyType({
    "colour": ((3,), np.dtype(np.uint8)),
    "mask": ((), np.dtype(bool)),
    "depth": ((), np.dtype(np.float32)),
    "normal": ((3,), np.dtype(np.float32)),
    "parts": ((), np.dtype(np.uint8)),
    "bones": ((), np.dtype(np.uint8)),
})  # fmt: skip
"""Channels and type of each map that may steer a generator, drawn from the posed body.

``colour``: the unwrapped photograph on the body, over white. ``mask``: its silhouette. ``depth``:
camera z in metres, zero where empty. ``normal``: unit, x right, y up, z to the camera, zero where
empty. ``parts``: class of the Goliath-28 palette, 0 is background. ``bones``: the SMPL-X joint that
moves the surface there most, counted from 1, 0 where empty.
"""
KEYPOINTS = "keypoints"
"""The other control, (133, 3) of float32 a frame: the posed body's COCO-WholeBody points in pixels
and scores; those of a face turned away are 0."""


@dataclass(frozen=True)
class Fitted:
    """The body as it was found in a photograph."""

    body: SmplxBody
    identity: BodyIdentity
    pose: BodyPose
    """In the frame of ``camera``."""
    camera: Camera
    """Camera of the picture's own pixels."""


@dataclass(frozen=True)
class Reference:
    """The photograph, cropped to the person."""

    image: UInt8[ndarray, "h w 3"]
    """RGB, with its background."""
    alpha: Float32[ndarray, "h w"]
    """Soft person mask [0, 1]."""
    keypoints: Float32[ndarray, "133 3"]
    """COCO-WholeBody x, y (pixels of ``image``) and score."""
    fitted: Fitted | None = None
    """None where it is unknown, or where the picture was cropped again."""


@dataclass(frozen=True)
class Controls:
    """What a clip shows, frame by frame."""

    pose: BodyPose
    """Driving poses (n of them), in the camera's coordinates."""
    camera: Camera
    """One camera that sees the whole motion; its size is the frames'."""
    maps: Mapping[str, Shaped[ndarray, "n ..."]]
    """Maps of ``CONTROLS``: those that the generator needs, and ``mask``."""
    drape: Drape | None = None
    """How clothes hang in each frame; None where they are skinned."""

    def __len__(self) -> int:
        return len(self.pose.trans)


class VideoGenerator(ABC):
    """Makes the frames of a clip; from them ``ClipMaker`` makes all else that a clip needs."""

    name: str
    """Origin of the frames, for ``subject.json``."""
    licence: str
    """Licence of the weights, in a few words."""
    control_names: frozenset[str] = frozenset()
    """Names out of ``CONTROLS``, and perhaps ``KEYPOINTS``."""
    aligned: bool = False
    """Whether the frames show the controls' own pixels, so that the posed body says mask, parts and
    texture; where not, annotators look at the frames."""
    needs_fit: bool = False
    """Whether it asks for the body that was fitted to the photograph (``Reference.fitted``), which
    recordings of a dataset do not tell."""
    cut_out: bool = False
    """Whether the frames are renders of an avatar in the controls' poses, with their opacity as a
    fourth channel: then neither annotators nor the gate look at them."""
    size_multiple: int = 1
    """Height and width are multiples of it, pixels."""
    frame_size: tuple[int, int] | None = None
    """Height and width of its frames, pixels; None takes the photograph's."""
    max_frames: int | None = None
    """Longest clip; None for any length."""
    native_fps: float | None = None
    """Rate that the model was trained at; None takes frames spread over the motion."""

    def check(self) -> None:
        """Checks before any long work that everything a call needs is there.

        Raises:
            UserError: Weights, memory or a package are missing; says which, their licence and how
                to get them.
        """
        return

    def weight_files(self) -> list[Path]:
        """Files of weights that its frames depend on, once ``check`` found them there."""
        return []

    def drape(
        self,
        body: SmplxBody,
        identity: BodyIdentity,
        motion: BodyPose,
        fps: float,
        frames: Int[Tensor, "n"],
        seed: int,
    ) -> Drape | None:
        """How the person's clothes hang in some frames of a motion; None where they are skinned.

        Args:
            body: Body model.
            identity: The person, with a garment.
            motion: All of it, in a world with y up.
            fps: Its frames a second.
            frames: Those that the clip has, rising.
            seed: Seed of the fabric.
        """
        return None

    @abstractmethod
    def __call__(
        self, reference: Reference, controls: Controls, *, seed: int
    ) -> UInt8[ndarray, "n h w c"]:
        """The clip, RGB; where it is cut out RGBA, the colours over white.

        Args:
            reference: The person to show.
            controls: The poses to show, and the size of the frames.
            seed: Seed of whatever is drawn at random; the same gives the same clip.
        """


def generate(
    generator: VideoGenerator, reference: Reference, controls: Controls, *, seed: int
) -> UInt8[ndarray, "n h w c"]:
    """Calls a generator and checks that it returns what it promises.

    Raises:
        ValueError: A control that it needs is missing, or the frames are of a wrong form.
    """
    name = type(generator).__name__
    if missing := generator.control_names - set(controls.maps):
        raise ValueError(f"{name} needs {sorted(missing)}")
    frames = generator(reference, controls, seed=seed)
    channels = 4 if generator.cut_out else 3
    expected = len(controls), controls.camera.height, controls.camera.width, channels
    if frames.shape != expected or frames.dtype != np.uint8:
        raise ValueError(f"{name}: frames are {frames.shape} {frames.dtype}, not {expected} uint8")
    return frames
