"""Inputs of PERSONA's losses."""

from dataclasses import dataclass

from persona.modules.avatar.gaussian_avatar import GaussianAvatar, PosedAvatar
from persona.modules.avatar.surface_truth import SurfaceTruth
from persona.modules.losses.base import Step


@dataclass
class PersonaStep(Step):
    """One frame of a training step; views as ``persona.modules.avatar.views`` renders them."""

    avatar: GaussianAvatar
    posed: PosedAvatar
    surface: SurfaceTruth | None = None
    """Where simulated clothes hang; None where they were not simulated."""
