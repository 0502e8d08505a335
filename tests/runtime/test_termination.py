"""SIGTERM ends a command at any point, even if another library has installed a handler."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import until

from persona.runtime import apart

HEAD = """
import atexit, multiprocessing, signal, sys, threading, time
from persona.runtime import termination
termination.STEP_S, termination.GRACE_S = 0.3, 0.6

def ready():
    print("ready", flush=True)

def like_lightning():
    ours, heard = signal.getsignal(signal.SIGTERM), []
    def both(*about):
        heard.append(about)
        ours(*about)
    signal.signal(signal.SIGTERM, both)
    return heard

with termination.terminable():
"""
WAITING = "ready(); threading.Event().wait()"
BETWEEN_STEPS = """
    heard = like_lightning()
    atexit.register(time.sleep, 0.5)
    ready()
    while not heard:
        time.sleep(0.01)
    sys.exit("behind its step")
"""
ENDED_CHILD = """
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join()
    print(child.exitcode, flush=True)
    time.sleep(2)
"""
IN_A_STEP = f"""
    like_lightning()
    {WAITING}
"""
IN_C = """
    libc = __import__("ctypes").PyDLL(None)  # Keeps even the lock of the interpreter.
    ready()
    while True:
        libc.usleep(200_000)
        time.sleep(0)
"""
CLEANING_UP = f"""
    try:
        {WAITING}
    finally:
        print("clean", flush=True)
"""
STUCK_CLEANING_UP = f"""
    try:
        {WAITING}
    finally:
        threading.Event().wait()
"""
WORKER = """
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    print(child.pid)
    ready()
    child.join()
"""
SWALLOWED = """
    ready()
    while True:
        try:
            time.sleep(1)
        except SystemExit:
            pass
"""


def ended(tmp_path: Path, body: str, **variables: str) -> tuple[int, str, str]:
    """Exit status of a program that gets SIGTERM, its stdout without "ready", and its stderr."""
    script = tmp_path / "script.py"
    script.write_text(HEAD + "    " + body.strip() + "\n")
    process = subprocess.Popen(
        [sys.executable, script], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), **variables},
    )  # fmt: skip
    assert process.stdout is not None
    before = ""
    while not before.endswith("ready\n"):
        before += (line := process.stdout.readline())
        assert line, process.communicate()[1]
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    return process.returncode, before.removesuffix("ready\n") + out, err


@pytest.mark.parametrize("body", [WAITING, IN_A_STEP, IN_C, STUCK_CLEANING_UP, SWALLOWED])
def test_ends_with_one_line(tmp_path, body):
    assert ended(tmp_path, body) == (143, "", "interrupted\n")


def test_lightning_ends_a_training_behind_its_step(tmp_path):
    """Cleaning up after the step may take longer than ``STEP_S``."""
    assert ended(tmp_path, BETWEEN_STEPS) == (1, "", "behind its step\n")


def test_a_child_that_is_ended_alone_leaves_its_parent(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(HEAD + "    " + ENDED_CHILD.strip() + "\n" + "print('goes on')\n")
    done = subprocess.run(
        [sys.executable, script], text=True, capture_output=True, timeout=60,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "-15\ngoes on\n", "")


def test_what_is_open_is_closed(tmp_path):
    assert ended(tmp_path, CLEANING_UP) == (143, "clean\n", "interrupted\n")


def test_workers_end_with_it(tmp_path):
    status, child, said = ended(tmp_path, WORKER)
    assert (status, said) == (143, "interrupted\n")
    until(lambda: not Path(f"/proc/{int(child)}").exists(), "the worker's end", 10)


def test_commands_end_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "ENDING", ending := threading.Event())
    log, sleeping = tmp_path / "log", "import time; print(1, flush=True); time.sleep(60)"
    command = [sys.executable, "-c", sleeping]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(apart.run_command, command, log, dict(os.environ))
        until(lambda: log.is_file() and log.read_text(), "the command's first line", 30)
        ending.set()
        # Unlike an ``Exception``, it cannot be stored as the outcome of a cell.
        with pytest.raises(SystemExit):
            waiting.result(timeout=30)


def test_one_of_several_processes_speaks(tmp_path):
    assert ended(tmp_path, WAITING, LOCAL_RANK="1") == (143, "", "")


def test_under_slurm_lightning_alone_hears_it(tmp_path):
    assert ended(tmp_path, WAITING, SLURM_NTASKS="1")[0] == -signal.SIGTERM
