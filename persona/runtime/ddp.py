"""Several processes on one run: what happens when one of them fails."""

import gc
import os
import signal
import sys
import threading
import time
import traceback
from datetime import timedelta
from subprocess import Popen

import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from persona.cli import GRACE_S, user_error
from persona.errors import first_line

POLL_S = 0.5
LOST_S = 30.0
"""Seconds that a process waits after losing the others, so that rank 0 can find out which one
died."""
TOLD = 1
"""Exit status of a process that has printed the reason."""
REMEDY = "go on with: python train.py resume=RUN_FOLDER"


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher without its own watch over the processes.

    That watch kills rank 0, without a message, when another process has died. ``DDP`` has a watch
    that says why.
    """

    def __init__(self, environment: ClusterEnvironment, num_processes: int, num_nodes: int) -> None:
        super().__init__(environment, num_processes, num_nodes)
        self.children: list[Popen] = []

    def _call_children_scripts(self) -> None:
        super()._call_children_scripts()
        self.children, self.procs = self.procs, []  # Hidden from Lightning's watch.

    def kill(self, signum: int) -> None:
        """Sends a signal to all processes that this one started and that still run."""
        for process in self.children:
            process.send_signal(signum)


class DDP(DDPStrategy):
    """One process per device; when one fails, all end at once with a one-line message.

    Otherwise the others would wait in a collective operation until its time-out, and each would
    print the traceback of its broken connection. Rank 0 watches the processes that it started, and
    they watch rank 0. Under torchrun or SLURM, which start and end the processes themselves, only
    the tracebacks are replaced.

    Args:
        timeout_s: longest wait for the other processes in a collective operation, seconds.
        find_unused_parameters: allow parameters that get no gradient in a step.
        broadcast_buffers: send rank 0's buffers to all processes in every step.
        gradient_as_bucket_view: keep gradients in the memory where they are reduced, uncopied.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 600.0,
        find_unused_parameters: bool = True,
        broadcast_buffers: bool = False,
        gradient_as_bucket_view: bool = True,
    ) -> None:
        super().__init__(
            timeout=timedelta(seconds=timeout_s),
            find_unused_parameters=find_unused_parameters,
            broadcast_buffers=broadcast_buffers,
            gradient_as_bucket_view=gradient_as_bucket_view,
        )
        self._watched = self._ending = False

    def setup(self, trainer: Trainer) -> None:
        """Switches off Lightning's check, in every step, whether a process was signalled to end.

        The check makes the host wait for the device. ``_told_to_end`` replaces it, except under
        SLURM, where Lightning's own signal handling needs it.
        """
        if not self._requeues:
            loop = trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        super().setup(trainer)

    def rewrap(self) -> None:
        """Takes the module's parameters as they are now, with rank 0's values everywhere."""
        self.model = None
        gc.collect()  # Frees the old wrapper, which is in reference cycles, and its hooks.
        self.model = self.lightning_module
        self.configure_ddp()

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None  # Lightning has chosen one.
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def on_train_start(self) -> None:
        """Lightning's hook, behind its own handling of signals."""
        super().on_train_start()
        self._listen()

    def on_test_start(self) -> None:
        """Lightning's hook, behind its own handling of signals."""
        super().on_test_start()
        self._listen()

    def _listen(self) -> None:
        if not self._requeues:
            signal.signal(signal.SIGTERM, self._told_to_end)

    def _told_to_end(self, *_: object) -> None:
        """Ends at once: the last checkpoint is whole, and waiting for a common step could hang."""
        if self.local_rank and not self._external:
            return  # Rank 0 ends this one.
        self._ending = True
        for process in self._children:
            process.kill()
        if not self.global_rank:
            print(f"interrupted; {REMEDY}", file=sys.stderr)
        leave(None, 128 + signal.SIGTERM)

    def setup_distributed(self) -> None:
        """Starts the watch before the processes first wait for each other."""
        if not self._watched and not self._external:
            watch = self._watch_parent if self.local_rank else self._watch_children
            threading.Thread(target=watch, daemon=True).start()
            self._watched = True
        super().setup_distributed()

    def on_exception(self, exception: BaseException) -> None:
        """Lightning's hook, before anything is torn down."""
        super().on_exception(exception)
        lost = lost_process(exception)
        if self._external:
            if lost:
                leave(f"rank {self.global_rank} lost the other processes; {REMEDY}")
            return
        if lost:
            time.sleep(LOST_S)  # If a process died, the watch ends this one meanwhile.
            leave(f"the processes lost each other ({first_line(exception)}); {REMEDY}")
        if self.local_rank:
            if isinstance(exception, KeyboardInterrupt):
                leave(None)
            time.sleep(GRACE_S)
            known = user_error(exception)
            if known is None:
                traceback.print_exception(exception)
            leave(None if known is None else str(known))
        self._ending = True
        for process in self._children:
            process.kill()

    @property
    def _external(self) -> bool:
        """Whether something else, such as torchrun, started all processes."""
        return not isinstance(self.cluster_environment, LightningEnvironment)

    @property
    def _requeues(self) -> bool:
        """Whether Lightning itself saves and requeues when told to end: under SLURM."""
        return isinstance(self.cluster_environment, SLURMEnvironment)

    @property
    def _children(self) -> list[Popen]:
        """The processes that this one started."""
        return self.launcher.children if isinstance(self.launcher, Launcher) else []

    def _watch_children(self) -> None:
        while not self._ending:
            for rank, process in enumerate(self._children, start=1):
                status = process.poll()
                if status and not self._ending:
                    for other in self._children:
                        other.kill()
                    leave(None if status == TOLD else f"process {rank} {end_of(status)}; {REMEDY}")
            time.sleep(POLL_S)

    def _watch_parent(self) -> None:
        parent = os.getppid()
        while os.getppid() == parent:
            time.sleep(POLL_S)
        # Only one of the processes that are left prints.
        leave(f"process 0 died; {REMEDY}" if self.local_rank == 1 else None)


def of_all_processes(value: object) -> list:
    """Gathers a value from every process, ordered by rank; all processes must call this."""
    if not dist.is_initialized():
        return [value]
    parts: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def lost_process(exception: BaseException) -> bool:
    """Whether a collective operation failed: mostly because of another process than this one."""
    seen: BaseException | None = exception
    while seen is not None:
        text = str(seen)
        if isinstance(seen, dist.DistError):
            return True
        if isinstance(seen, RuntimeError) and any(word in text for word in ("gloo", "NCCL")):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def end_of(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        return f"was killed ({signal.Signals(-status).name})"
    return f"ended with status {status}"


def leave(message: str | None, status: int = TOLD) -> None:
    """Ends this process with a message, from any thread and whatever the process is waiting for."""
    if message is not None:
        print(f"error: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
