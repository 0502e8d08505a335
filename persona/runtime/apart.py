"""Processes that a command starts side by side; they share the cores and the GPUs."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch


def run_apart(module: str, argument: Path, log: Path, variables: dict[str, str]) -> str:
    """``run_command`` of ``python -m MODULE ARGUMENT``."""
    return run_command([sys.executable, "-m", module, str(argument)], log, variables)


def run_command(command: Sequence[str], log: Path, variables: dict[str, str]) -> str:
    """Runs a command; returns its error as one line, empty if there is none.

    Args:
        command: With its arguments.
        log: Takes all that it prints.
        variables: Its environment.
    """
    with log.open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=variables)
    if done.returncode == 0:
        return ""
    lines = log.read_text(errors="replace").split("\n")
    told = [line.strip() for line in lines if line.strip()]
    ours = [line.removeprefix("error: ") for line in told if line.startswith("error: ")]
    if done.returncode < 0:
        return f"the process ended by signal {-done.returncode}"
    return (ours or told or [f"the process ended with {done.returncode} and no word"])[-1][:300]


def available_cores() -> int:
    """Cores that this process may run on: a scheduler may allow fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # Linux.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment(slot: int, jobs: int) -> dict[str, str]:
    """Environment of one of several processes: its share of the cores, and a GPU if there are more.

    Waiting threads spin, so processes that each use all cores take many times as long.
    """
    threads = str(max(1, available_cores() // jobs))
    paths = os.pathsep.join([p for p in sys.path if p])  # So that it imports what this one can.
    variables = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": paths}
    variables |= {"NUMBA_NUM_THREADS": threads}
    if torch.cuda.device_count() > 1:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = shown.split(",") if shown else list(map(str, range(torch.cuda.device_count())))
        variables["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
    return variables
