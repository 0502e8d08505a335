"""Frame rates of recordings, whose units are checked."""

from __future__ import annotations

import logging
from typing import Any

from persona.data.numbers import number
from persona.errors import UserError

log = logging.getLogger(__name__)

MIN_FPS, MAX_FPS = 1, 1000
"""Rates that a recording may have; others are mistakes of units."""
_MIN_MS = 4.0
"""Where a frame takes at least so much, in seconds it cannot be meant: milliseconds are."""


def frame_rate(where: str, fps: Any) -> float:
    """Frames per second, as a file states them.

    Raises:
        UserError: no number, or none that can be meant.
    """
    return number(where, fps, low=MIN_FPS, high=MAX_FPS, remedy="frames per second are meant")


def rate_of_step(where: str, seconds: Any) -> float:
    """Frames per second from the time between two frames, which some files give in milliseconds.

    Raises:
        UserError: no number, or none that can be meant.
    """
    step = number(where, seconds, above=0, remedy="a frame's seconds are meant")
    if step >= _MIN_MS:
        log.warning("%s=%g: taken as milliseconds, %.4g frames per second", where, step, 1e3 / step)
        step /= 1e3
    if not 1 / MAX_FPS <= step <= 1 / MIN_FPS:
        raise UserError(
            f"{where}={step:g}: a frame takes between {1 / MAX_FPS:g} and {1 / MIN_FPS:g} seconds; "
            "export it again with its frame rate"
        )
    return 1 / step
