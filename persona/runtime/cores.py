"""How many cores this process may use."""

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Cores for this process: a scheduler or a container may allow fewer than there are.

    Containers limit time, not cores (``docker run --cpus=4``): threads on all cores would use up
    their time and then all wait.
    """
    return max(1, math.ceil(min([_visible_cores(), *_quotas()])))


def limit_threads() -> None:
    """Tells libraries of a limit that they do not see themselves; what the user has set stays."""
    cores = available_cores()
    if cores == _visible_cores() or "OMP_NUM_THREADS" in os.environ:
        return
    os.environ["OMP_NUM_THREADS"] = str(cores)
    os.environ.setdefault("NUMBA_NUM_THREADS", str(cores))
    if "torch" in sys.modules:  # Then the variable has been read.
        from persona.modules.threads import use_threads

        use_threads(cores)


def _visible_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Cores' worth of time that this process's control group and those above it may use."""
    try:
        lines = _OWN_GROUP.read_text().splitlines()
    except OSError:  # Not Linux.
        return
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        top = _GROUPS / "cpu" if kinds else _GROUPS
        group = top / place.strip("/")
        # Inside a container the group's path is that of the host: its own files are at the top.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            if kinds:
                quota, period = (
                    _number(folder / "cpu.cfs_quota_us"),
                    _number(folder / "cpu.cfs_period_us"),
                )
            else:
                quota, period = _limit(folder / "cpu.max")
            if quota > 0 and period > 0:
                yield quota / period


def _limit(file: Path) -> tuple[float, float]:
    """Quota and period of version 2; zeros if there is no limit."""
    try:
        quota, period = file.read_text().split()
        return float(quota), float(period)
    except (OSError, ValueError):  # "max" is no number.
        return 0.0, 0.0


def _number(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 0.0
