"""SplattingAvatar as a method: one asset, on any body."""

from typing import ClassVar

from persona.systems.method import Method


class SplattingAvatarMethod(Method):
    """Gaussians on triangles; poses can be fitted by its image loss.

    Source: Shao et al. 2024, arXiv:2403.05087.
    """

    assets = ("points",)
    pose_fits: ClassVar = {"image": ("image",)}
