"""The interface of person detectors, and their result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from persona.errors import UserError
from persona.modules.detect.offsets import OFFSETS
from persona.modules.detect.wholebody import FACE


class NobodyFound(UserError):
    """A detector sees nobody, or legs alone, in a photograph that it could read."""


@dataclass(frozen=True)
class Detection:
    """One person in one image."""

    mask: Float[Tensor, "h w"]
    """Person probability [0, 1]."""
    keypoints: Float[Tensor, "133 3"]
    """COCO-WholeBody (x px, y px, score [0, 1]); the score of an unseen point is 0."""
    points_m: Float[Tensor, "133 4"]
    """Rough 3D guess (x right, y down, z forward, metres from mid-hip; score, 0 = no guess)."""
    warnings: tuple[str, ...] = ()
    """One line each: what the user should know about this photograph."""
    offsets: Float[Tensor, "k 3"] = field(default_factory=lambda: OFFSETS["body"])
    """Where the keypoints lie, seen from the body's own; see ``OFFSETS``."""

    @property
    def has_face(self) -> bool:
        """Whether a face was found."""
        return bool(self.keypoints[FACE, 2].any())


class Detector(ABC):
    """Finds one person: mask and whole-body keypoints."""

    @abstractmethod
    def __call__(self, image: Float[Tensor, "h w 3"], source: str = "the image") -> Detection:
        """Finds the person that is meant.

        Args:
            image: RGB in [0, 1].
            source: Name of the image for messages.

        Returns:
            The detection in pixels of ``image``.

        Raises:
            NobodyFound: When nobody is found.
            UserError: When the backend is not installed.
        """
