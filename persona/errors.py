"""The one exception a user is meant to read, and what to show of others."""


class UserError(Exception):
    """Something the user can mend: one line that says what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the error's kind if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
