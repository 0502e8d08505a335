"""What changes over a training: its learning rates, and until when the number of Gaussians."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, MultiStepLR

from persona.errors import UserError, check_choice

RATE_RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
"""Learning rates grow with this power of the number of frames per step."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How learning rates fall over the steps and grow with the frames per step; rates of poses.

    Attributes:
        decay_at: after each of these shares of all steps every rate falls.
        decay_to: by this factor.
        rate_rule: how the rates grow with the frames per step, see ``rate_factor``.
        poses: Adam's rate of the frames' poses.
        hand_poses: that of their hands.
        rest: share of the steps, the last ones, in which the number of Gaussians stays: what a
            change breaks takes many steps to mend.
    """

    decay_at: Sequence[float] = (0.75,)
    decay_to: float = 0.1
    rate_rule: str = "sqrt"
    poses: float = 1e-3
    hand_poses: float = 1e-4
    rest: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rest < 1:
            text = "give a share of the steps, from 0 to below 1"
            raise UserError(f"system.schedule.rest={self.rest}: {text}")
        rate_factor(self.rate_rule, 1)  # Raises for a wrong name now, not after the first test.

    def falls(self, optimizer: Optimizer, steps: float | int) -> MultiStepLR:
        """The fall of an optimiser's rates over a training of so many steps."""
        milestones = [max(1, int(share * steps)) for share in self.decay_at]
        return MultiStepLR(optimizer, milestones, gamma=self.decay_to)

    def last_change(self, steps: float | int) -> float | int:
        """Step after which the number of Gaussians stays, in a training of so many."""
        return round((1 - self.rest) * steps, 6)  # A whole number of steps stays one.


def warm_cosine(
    optimizer: Optimizer, done: Callable[[int], float], warmup: int
) -> OptimizerLRSchedulerConfig:
    """Learning rates that rise over ``warmup`` steps and fall along a cosine, to a hundredth.

    Args:
        optimizer: Its rates are the highest ones.
        done: Share of the training that lies behind a step, [0, 1].
        warmup: Steps.

    Returns:
        What Lightning's ``configure_optimizers`` gives.
    """

    def rate(step: int) -> float:
        fall = 0.01 + 0.99 * (1 + math.cos(math.pi * done(step))) / 2
        return fall * min(1.0, (step + 1) / warmup)

    schedule = LambdaLR(optimizer, rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate_factor(rule: str, frames: int) -> float:
    """Factor on the learning rates, which are set for one frame per step.

    Source: Malladi et al. 2022, arXiv:2205.10287 (sqrt; the betas stay unchanged).

    Args:
        rule: ``none`` gives 1. ``sqrt`` keeps the noise of Adam's path unchanged where gradients
            are mostly noise. ``linear`` keeps the progress per frame where they are not.
        frames: per step.

    Raises:
        UserError: no such rule.
    """
    check_choice("rate_rule", rule, RATE_RULES)
    return float(frames ** RATE_RULES[rule])
