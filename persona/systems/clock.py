"""How far a training is, by its steps or by the clock, and its end when its time is over."""

from __future__ import annotations

import time

import lightning as L

from persona.errors import UserError


class TrainingClock:
    """Seconds of a training, summed over the calls that start and resume it.

    Args:
        steps: Steps of the whole training.
        minutes: Of the whole training, which ends then where its steps are not done before; None
            trains all steps.
        call_minutes: Stop a call after so long; it can be resumed.

    Raises:
        UserError: there is no time to train in.
    """

    def __init__(
        self, *, steps: int, minutes: float | None = None, call_minutes: float | None = None
    ) -> None:
        for name, limit in (("minutes", minutes), ("call_minutes", call_minutes)):
            if limit is not None and limit <= 0:
                raise UserError(f"system.{name}={limit}: give more than none, or null")
        self.steps, self.minutes, self.call_minutes = steps, minutes, call_minutes
        self.earlier_s = 0.0
        """Seconds of the calls before this one."""
        self._started_s: float | None = None

    def start(self) -> None:
        """Starts counting, unless it is counting already."""
        if self._started_s is None:
            self._started_s = time.monotonic()

    def stop(self) -> None:
        """Stops counting."""
        self.earlier_s, self._started_s = self.trained_s, None

    @property
    def call_s(self) -> float:
        """Seconds of this call."""
        return 0.0 if self._started_s is None else time.monotonic() - self._started_s

    @property
    def trained_s(self) -> float:
        """Seconds of all calls."""
        return self.earlier_s + self.call_s

    def done(self, step: int) -> float:
        """Share of the training that lies behind a step, [0, 1]: the larger of steps' and time's.

        So learning rates that follow it have fallen to their end, whichever of the two ends the
        training.
        """
        share = step / self.steps
        if self.minutes is not None:
            share = max(share, self.trained_s / (60 * self.minutes))
        return min(1.0, share)

    def end(self, trainer: L.Trainer) -> None:
        """Stops a training whose time, or whose call's time, is over; to be called in every step.

        Several processes agree only every ``log_every_n_steps`` steps: to read their common answer
        the host has to wait for the device.
        """
        if self.minutes is None and self.call_minutes is None:
            return
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Set, not declared.
        if trainer.world_size > 1 and trainer.global_step % every:
            return
        over = self.call_minutes is not None and self.call_s >= 60 * self.call_minutes
        over = over or (self.minutes is not None and self.trained_s >= 60 * self.minutes)
        # All processes stop in the same step, whichever clock is first.
        if trainer.strategy.reduce_boolean_decision(over, all=False):
            trainer.should_stop = True
