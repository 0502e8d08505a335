"""Reads numbers from options and files as plain numbers; errors name the option or file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from persona.errors import UserError

Limit = float | int


def number(
    where: str,
    value: Any,
    *,
    low: Limit = -math.inf,
    above: Limit = -math.inf,
    high: Limit = math.inf,
    remedy: str = "",
) -> float:
    """One finite number.

    Args:
        where: The option, or the file and what of it, for the message.
        value: A number, text that is one, or an array that holds one.
        low: The least that is allowed.
        above: The value must be larger than this.
        high: The most that is allowed.
        remedy: What to do, unless it is to give a better number.

    Raises:
        UserError: It is none, or out of range.
    """
    found = _plain(value)
    if low <= found <= high and found > above:
        return found
    raise _refusal(where, value, "a number", low, above, high, remedy)


def whole_number(where: str, value: Any, *, low: Limit = -math.inf, high: Limit = math.inf) -> int:
    """One whole number; arguments and errors as ``number``'s."""
    found = _plain(value)
    if low <= found <= high and found.is_integer():
        return int(found)
    raise _refusal(where, value, "a whole number", low, -math.inf, high, "")


def _plain(value: Any) -> float:
    """NaN where it is not one finite number."""
    try:
        (plain,) = np.asarray(value).ravel().tolist()
        found = math.nan if isinstance(plain, bool) else float(plain)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def plain_array(
    where: str, value: Any, shape: tuple[int, ...], remedy: str, dtype: type = np.float32
) -> Float[np.ndarray, "..."]:
    """Finite numbers of this machine's byte order, whatever the order and type they came in.

    Args:
        where: The file and what of it, for the message.
        value: Nested lists or an array.
        shape: Shape of the array, -1 standing for any length.
        remedy: What to do.
        dtype: Precision of the result.

    Raises:
        UserError: not numbers, of another shape, or not finite.
    """
    wanted = " x ".join("n" if size < 0 else str(size) for size in shape)
    try:
        with np.errstate(over="ignore"):  # Too large numbers become infinite and are refused below.
            array: np.ndarray = np.asarray(value).astype(dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} is not an array of {wanted} numbers; {remedy}") from error
    matches = len(array.shape) == len(shape) and all(
        want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not matches:
        found = " x ".join(map(str, array.shape)) or "one number"
        raise UserError(f"{where} has shape {found}, not {wanted}; {remedy}")
    if not np.isfinite(array).all():
        raise UserError(f"{where} holds a number that is not finite (NaN or infinity); {remedy}")
    return array


def _refusal(
    where: str, value: Any, kind: str, low: Limit, above: Limit, high: Limit, remedy: str
) -> UserError:
    limits = [
        f"{word} {limit:g}"
        for word, limit in (("at least", low), ("above", above), ("at most", high))
        if math.isfinite(limit)
    ]
    shown = " ".join(str(value).split())[:40]
    wanted = " ".join([kind, ", ".join(limits)]).strip()
    return UserError("; ".join(filter(None, [f"{where}={shown}: give {wanted}", remedy])))
