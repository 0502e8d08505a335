"""MediaPipe loaded on demand and kept quiet."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType

from persona.errors import UserError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops what native code writes to the process's standard error meanwhile.

    MediaPipe logs through absl before any Python switch can reach it, so the file descriptor itself
    is redirected. Python exceptions are unaffected.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def load_solutions() -> ModuleType:
    """``mediapipe.solutions`` with its bundled models.

    Raises:
        UserError: When mediapipe is missing or too new to hold its models.
    """
    try:
        with quiet():
            import mediapipe
            import mediapipe.python.solutions as solutions
    except ModuleNotFoundError as error:
        missing = error.name or "mediapipe"
        reason = "its models are not in this version" if "." in missing else "it is not installed"
        raise UserError(
            f"the photo detector needs mediapipe 0.10.14, {reason}: pip install 'persona[photo]' "
            "(or give keypoints and a mask as files)"
        ) from error
    del mediapipe
    return solutions
