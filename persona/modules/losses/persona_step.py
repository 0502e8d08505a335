"""What PERSONA's losses look at."""

from dataclasses import dataclass

from persona.modules.avatar.gaussian_avatar import GaussianAvatar, PosedAvatar
from persona.modules.losses.base import Step


@dataclass
class PersonaStep(Step):
    """One frame of a training step; views as ``persona.modules.avatar.views`` renders them."""

    avatar: GaussianAvatar
    posed: PosedAvatar
