"""SIGTERM ends a command within seconds: with one line, and with the processes that it started.

Lightning hears the signal between the batches of a training or test. What comes before the first
batch, lasts longer than a few seconds or waits for other processes would not hear it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STEP_S = 3.0
"""How long Lightning may take to end a training behind its current step, seconds."""
GRACE_S = 5.0
"""How long the command may then take to clean up, seconds."""
STATUS = 128 + signal.SIGTERM
"""Exit status of a command that SIGTERM ended, as shells report it."""

ENDING = threading.Event()
"""Set once SIGTERM ends this process: threads that wait for commands end those too."""


class Terminated(SystemExit):
    """Raised in the main thread when the process is to end."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM ends the process, whatever the main thread is doing.

    Under SLURM the signal is left to Lightning, which saves and requeues the job.

    Raises:
        SystemExit: with status 143, after the line "interrupted".
    """
    if "SLURM_NTASKS" in os.environ:
        yield
        return
    ending = _Ending()
    try:
        yield
    except Terminated:
        ending.say()
        raise SystemExit(STATUS) from None
    finally:
        ending.leave()


class _Ending:
    """Handler of SIGTERM in the main thread, and a thread that makes sure of the end.

    Python runs handlers in the main thread, which a long call of C code keeps busy. The thread
    reads the signal from a pipe that Python's own handler, in C, writes to at once.
    """

    def __init__(self) -> None:
        self.raised = self.said = False
        self.heard = 0
        self.active = True
        self.pipe, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        self.before = (
            signal.signal(signal.SIGTERM, self),
            signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False),
        )
        self.thread = threading.local()
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._unblock, after_in_child=self._in_child
        )
        # Rank 0 ends the others, which a training with several processes has ignore the signal.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, *_: object) -> None:
        """Raises ``Terminated``, unless Lightning gets its chance first."""
        self.heard += 1
        # Lightning calls this one behind its own handler.
        lightning = signal.getsignal(signal.SIGTERM) is not self
        if self.raised or (lightning and self.heard == 1):
            return
        self.raised = True
        ENDING.set()
        for child in multiprocessing.active_children():
            child.terminate()
        raise Terminated(STATUS)

    def leave(self) -> None:
        """Leaves the signal to whom it was before; one that was heard is still seen to its end."""
        self.said, self.active = True, False
        if self.heard:
            self.raised = True  # The interpreter's own clean-up is not to be cut short by another.
            return
        signal.signal(signal.SIGTERM, self.before[0])
        signal.set_wakeup_fd(self.before[1])
        os.write(self.writer, bytes(1))

    def _before_fork(self) -> None:
        """Holds the signal back while a child still has this process's handler and pipe."""
        if self.active:
            self.thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def _in_child(self) -> None:
        """SIGTERM ends a forked child as it ends any process, and this one does not hear of it."""
        if self.active:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._unblock()

    def _unblock(self) -> None:
        if self.active:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.thread.mask)

    def say(self) -> None:
        """Prints the one line, in the first of the processes that train together."""
        if not self.said and os.environ.get("LOCAL_RANK", "0") == "0":
            print("interrupted", file=sys.stderr, flush=True)
        self.said = True

    def _watch(self) -> None:
        while (number := os.read(self.pipe, 1)) != bytes([signal.SIGTERM]):
            if number == bytes(1):
                return
        time.sleep(STEP_S)
        main = threading.main_thread().ident
        if not self.raised and main is not None:
            signal.pthread_kill(main, signal.SIGTERM)
        time.sleep(GRACE_S)
        self.say()
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(STATUS)
