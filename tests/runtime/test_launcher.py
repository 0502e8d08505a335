"""Lightning's watcher of child processes must see none of ours.

It would end rank 0 without a message; the strategy's own watcher ends it with one.
"""

import signal
import subprocess
import sys

from lightning.fabric.strategies.launchers import subprocess_script as fabric
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from persona.runtime.ddp import Launcher


def test_lightnings_watch_sees_no_process(monkeypatch):
    watched = []
    # Otherwise the launcher would set this variable for all tests that follow.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)

    def start_one(launcher):
        launcher.procs = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)]

    monkeypatch.setattr(_SubprocessScriptLauncher, "_call_children_scripts", start_one)
    monkeypatch.setattr(
        fabric._ChildProcessObserver, "start", lambda watch: watched.append(watch._child_processes)
    )
    for made in (_SubprocessScriptLauncher, Launcher):
        launcher = made(LightningEnvironment(), 2, 1)
        assert launcher.launch(lambda: "done") == "done"
        (process,) = launcher.procs or launcher.children
        launcher.kill(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
    theirs, ours = watched
    assert len(theirs) == 1 and ours == []
