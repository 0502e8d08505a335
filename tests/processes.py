"""Commands run in processes of their own, and waiting for what they do.

Waits end with an event or a deadline, which a loaded machine does not break as it does a sleep.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def environment(**variables: str) -> dict[str, str]:
    """This process's, with one thread and without the name of a run."""
    kept = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    kept.pop("RUN_STAMP", None)
    return kept


def launch(command: list[str], cwd: Path, limit_s: float = 400) -> subprocess.CompletedProcess:
    """Runs a command to its end in ``cwd``, which is made if it is absent.

    After ``limit_s`` it is killed with all that it started.
    """
    cwd.mkdir(exist_ok=True)
    with subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=limit_s)
        finally:
            _end(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@contextmanager
def running(
    command: list[str], cwd: Path, ready: Callable[[Path], bool], after_cpu_s: float = 0.0
) -> Iterator[subprocess.Popen]:
    """A training in a session of its own, which is killed at the end; ``cwd/log`` has its words.

    Args:
        command: A training of the subject ``tiny``.
        cwd: A folder to make.
        ready: Whether its run folder shows the moment that is waited for.
        after_cpu_s: What it computes beyond that moment.
    """
    cwd.mkdir()
    with (cwd / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment(), stdout=log, stderr=log, start_new_session=True
        )

    def reached() -> bool:
        assert process.poll() is None, (cwd / "log").read_text()
        return any(ready(folder) for folder in cwd.glob("outputs/tiny/*"))

    try:
        until(reached, "what the test waits for", 180)
        enough = cpu_seconds(process.pid) + after_cpu_s
        until(lambda: cpu_seconds(process.pid) >= enough, "going on", 180)
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen) -> None:
    """Kills what is left of a process that leads a session, and of what it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
