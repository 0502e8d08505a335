"""The one exception a user is meant to read, and what to show of others."""

from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the error's kind if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def check_choice(option: str, value: object, choices: Iterable[object]) -> None:
    """Refuses a value that is none of an option's.

    Raises:
        UserError: names the option, the value and the choices.
    """
    known = tuple(choices)
    if value not in known:
        raise UserError(f"{option}={value} is unknown: choose {', '.join(map(str, known))}")
