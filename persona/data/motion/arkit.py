"""Face recordings of named ARKit units, as LAM's json files hold them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from persona.data.io import read_json
from persona.data.motion.motion import Motion
from persona.data.motion.names import plain_name
from persona.data.motion.procedural import builtin_motion
from persona.data.motion.rate import rate_of_step
from persona.data.motion.target import TargetSkeleton
from persona.data.numbers import plain_array
from persona.errors import UserError
from persona.modules.body.base import Body

FPS = 30.0
"""Where the frames hold no times."""

_REMEDY = "give an ARKit recording {names: [...], frames: [{weights: [...]}, ...]}"
_SECONDS = f"give seconds, or leave the times out for {FPS:g} frames a second"


def read_arkit(path: Path, body: Body, target: TargetSkeleton) -> Motion:
    """Reads the weights [0, 1] into the expressions of the same names; the body stands still.

    Units that the body lacks are left out. ``combine`` puts the face on another body motion.

    Raises:
        UserError: another kind of json, weights missing or not finite, or a body without ARKit
            units (a licensed SMPL-X).
    """
    data = read_json(path, _REMEDY)
    if not isinstance(data, dict) or not all(
        isinstance(data.get(key), list) and data[key] for key in ("names", "frames")
    ):
        raise UserError(f"{path}: not an ARKit recording, or empty; {_REMEDY}")
    if body.expression_names is None:
        raise UserError(
            f"{path}: drives named ARKit units, which body={body.name} lacks; use body=anny"
        )
    weights = _weights(path, data)
    columns = {plain_name(str(name)): column for column, name in enumerate(data["names"])}
    expression = torch.zeros(len(weights), body.num_expression)
    found = 0
    for unit, name in enumerate(body.expression_names):
        if plain_name(name) in columns:
            expression[:, unit] = torch.from_numpy(weights[:, columns[plain_name(name)]])
            found += 1
    if not found:
        raise UserError(
            f"{path}: the body has none of its units ({data['names'][0]}, ...); {_REMEDY}"
        )
    still = builtin_motion("still", target, FPS).pose[torch.zeros(len(weights), dtype=torch.long)]
    return Motion(replace(still, expression=expression), _rate(path, data["frames"]), str(path))


def _weights(path: Path, data: dict) -> Float32[np.ndarray, "t u"]:
    """The frames' weights as one table."""
    try:
        table = np.array([frame["weights"] for frame in data["frames"]], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: a frame's weights are missing or cut short; {_REMEDY}") from error
    if table.shape != (len(data["frames"]), len(data["names"])):
        raise UserError(f"{path}: its weights {table.shape} do not fit its names; {_REMEDY}")
    return plain_array(f"{path}: weights", table, table.shape, "clean it or record it again")


def _rate(path: Path, frames: list[dict]) -> float:
    """Frames per second from the frames' times."""
    times = [frame.get("time") for frame in frames]
    if len(times) < 2 or None in times:
        return FPS
    at = plain_array(f"{path}: time", times, (-1,), _SECONDS, dtype=np.float64)
    step = float(np.median(np.diff(at)))
    return rate_of_step(f"{path}: time between frames", step) if step > 0 else FPS
