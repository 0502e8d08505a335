"""Settings of a synthetic subject."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

VERSION = 2
"""Increased when the same settings give another subject."""


@dataclass(frozen=True)
class StudioConfig:
    """A person, and how it is photographed."""

    seed: int = 0
    outfit: str = "tunic"
    """Cut and print of the clothes: tunic, t_shirt, dress or coat."""
    shape: float = 0.6
    """Shape coefficients are drawn between plus and minus this."""
    height: int = 256
    width: int = 192
    num_test: int = 16
    """Frames of unseen poses and views."""
    supersample: int = 2
    """Rays per pixel side."""
    texture_size: int = 1024
    """Side of the unwrapped textures."""
    patch_size: int = 256
    """Side of the face patch."""

    def digest(self, body_digest: str) -> str:
        """Hash of everything that the subject depends on."""
        text = f"{VERSION} {body_digest} {sorted(asdict(self).items())}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SyntheticConfig(StudioConfig):
    """What to make. Strengths are 1 for a mediocre video model and 0 for a perfect one."""

    num_generated: int = 40
    """Frames of each of the two clips."""
    drift: float = 1.0
    """How far face and colours stray from the person's."""
    blur: float = 1.0
    flicker: float = 1.0
    misalignment: float = 1.0
    """Warps the frames against their body poses."""
    pose_noise: float = 1.0
    """Errors of the poses on file, against those that were rendered."""
    swing: float = 0.0
    """How much hems and hair lag behind the body; above 0 the test frames are one motion, and the
    clips have a tempo that comes and goes, so that a pose is seen at several speeds."""
    fps: float = 15.0
    """Frames a second of every clip; matters only if something swings."""
