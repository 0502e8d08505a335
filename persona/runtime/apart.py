"""Processes that a command starts side by side; they share the cores and the GPUs."""

import multiprocessing as mp
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import TypeVar

import torch

from persona.errors import UserError
from persona.runtime.cores import available_cores
from persona.runtime.termination import ENDING, STATUS, Terminated

_POLL_S = 0.1
Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    items: Sequence[Item],
    jobs: int,
    work: Callable[[Item, int], Result],
    then: Callable[[Item, Result], None],
) -> None:
    """Works on items in threads, each of which waits for a process of its own.

    An error, Ctrl-C's included, ends it: nothing else is begun.

    Args:
        items: What there is to do, in the order in which it is begun.
        jobs: Most at a time.
        work: Called with an item and its slot, from 0 to ``jobs`` - 1; no two running items share a
            slot.
        then: Called in this thread with each finished item and its result.
    """
    slots: queue.Queue[int] = queue.Queue()
    for slot in range(jobs):
        slots.put(slot)

    def in_slot(item: Item) -> Result:
        slot = slots.get()
        try:
            return work(item, slot)
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(jobs) as pool:
        begun = {pool.submit(in_slot, item): item for item in items}
        try:
            for future in as_completed(begun):
                then(begun[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def results_of(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    then: Callable[[Item], Sequence[Item]] | None = None,
) -> Iterator[Result]:
    """Results of ``work`` for each item, in the order in which they are finished.

    Args:
        work: A function at the top level of a module, so that other processes can import it.
        items: What it is given, in the order in which they are begun.
        jobs: Processes, which share the cores and the GPUs; 1 works in this one.
        then: More items, which can begin once the given one is finished, before all that wait.

    Raises:
        UserError: a process was killed.
    """
    waiting, more = list(items), then or (lambda _: ())
    if jobs <= 1:
        while waiting:
            item = waiting.pop(0)
            yield work(item)
            waiting[:0] = more(item)
        return
    count = jobs if then else min(jobs, max(1, len(items)))
    with _processes([environment(slot, count) for slot in range(count)]) as pool:
        running: dict[Future[Result], Item] = {}
        done: set[Future[Result]] = set()
        try:
            while waiting or running or done:
                while waiting and len(running) < count:
                    item = waiting.pop(0)
                    running[pool.submit(work, item)] = item
                for future in done:
                    yield future.result()
                done = wait(running, return_when=FIRST_COMPLETED).done
                for future in done:
                    waiting[:0] = more(running.pop(future))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def result_apart(work: Callable[[Item], Result], item: Item) -> Result:
    """Result of ``work`` in a process of its own, whose memory is freed when it ends.

    Raises:
        UserError: the process was killed.
    """
    threads = {"OMP_NUM_THREADS": str(available_cores())}
    with _processes([threads]) as pool:
        return pool.submit(work, item).result()


@contextmanager
def _processes(variables: Sequence[dict[str, str]]) -> Iterator[ProcessPoolExecutor]:
    """A pool with one process for each set of environment variables."""
    context = mp.get_context("spawn")
    shares: SimpleQueue[dict[str, str]] = context.SimpleQueue()
    for own in variables:
        shares.put({name: text for name, text in own.items() if os.environ.get(name) != text})
    with ProcessPoolExecutor(len(variables), context, _settle, (shares,)) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise UserError(
                "a process that works beside this one was killed, perhaps for want of memory: take "
                "fewer at a time (jobs=1)"
            ) from error


def _settle(shares: SimpleQueue[dict[str, str]]) -> None:
    """Gives a new process its share of the cores, and its GPU."""
    os.environ.update(shares.get())
    # Imported here because numba reads its maximum number of threads when it is imported.
    from persona.modules.threads import use_threads

    use_threads(int(os.environ["OMP_NUM_THREADS"]))


def run_apart(module: str, argument: Path, log: Path, variables: dict[str, str]) -> str:
    """``run_command`` of ``python -m MODULE ARGUMENT``."""
    return run_command([sys.executable, "-m", module, str(argument)], log, variables)


def run_command(command: Sequence[str], log: Path, variables: dict[str, str]) -> str:
    """Runs a command; returns its error as one line, empty if there is none.

    When SIGTERM ends this process, the command is terminated as well.

    Args:
        command: With its arguments.
        log: Takes all that it prints.
        variables: Its environment.
    """
    with (
        log.open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=variables) as process,
    ):
        try:
            while process.poll() is None and not ENDING.wait(_POLL_S):
                pass
        finally:
            process.terminate()  # Nothing happens to one that has ended.
    if ENDING.is_set():  # Nobody is to take this for what came of the command.
        raise Terminated(STATUS)
    if process.returncode == 0:
        return ""
    lines = log.read_text(errors="replace").split("\n")
    told = [line.strip() for line in lines if line.strip()]
    ours = [line.removeprefix("error: ") for line in told if line.startswith("error: ")]
    if process.returncode < 0:
        return f"the process ended by signal {-process.returncode}"
    return (ours or told or [f"the process ended with {process.returncode} and no word"])[-1][:300]


def environment(slot: int, jobs: int) -> dict[str, str]:
    """Environment of one of several processes: its share of the cores, and a GPU if there are more.

    Waiting threads spin, so processes that each use all cores take many times as long.
    """
    threads = str(max(1, available_cores() // jobs))
    paths = os.pathsep.join([p for p in sys.path if p])  # To import what this process can.
    variables = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": paths}
    variables |= {"NUMBA_NUM_THREADS": threads}
    if torch.cuda.device_count() > 1:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = shown.split(",") if shown else list(map(str, range(torch.cuda.device_count())))
        variables["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]
    return variables
