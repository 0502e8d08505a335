"""Waits for an event with a deadline, which a loaded machine does not break as it does a sleep."""

import os
import time
from collections.abc import Callable
from pathlib import Path


def until(ready: Callable[[], object], what: str, limit_s: float = 60.0) -> None:
    """Returns as soon as ``ready``; ``what`` names the event in the error after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {limit_s} s"
        time.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far, to the hundredth of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
