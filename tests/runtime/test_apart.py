"""Work in threads and processes: each item has its own slot; after an error no item is started."""

import os
import threading
import time
from pathlib import Path

import numba
import pytest
import torch
from processes import until

from persona.errors import UserError
from persona.runtime.apart import result_apart, results_of, side_by_side


def test_each_has_a_slot_of_its_own_and_is_told_in_this_thread():
    busy, told, lock = set(), {}, threading.Lock()

    def work(item: int, slot: int) -> int:
        with lock:
            assert slot in range(3) and slot not in busy
            busy.add(slot)
        time.sleep(0.002)
        with lock:
            busy.remove(slot)
        return 2 * item

    def then(item: int, result: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        told[item] = result

    side_by_side(range(20), 3, work, then)
    assert told == {item: 2 * item for item in range(20)}


@pytest.mark.parametrize("where", ["work", "then"])
def test_an_error_begins_nothing_else(where):
    begun = []

    def work(item: int, slot: int) -> None:
        begun.append(item)
        time.sleep(0.01)
        if where == "work":
            raise KeyboardInterrupt

    def then(item: int, result: None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side(range(50), 1, work, then)
    assert len(begun) < 5


def squared(number: int) -> tuple[int, int]:
    """The square, and the id of the process that computed it."""
    return number**2, os.getpid()


def test_one_job_needs_no_process():
    assert list(results_of(squared, range(3), 1)) == [(n**2, os.getpid()) for n in range(3)]


def killed(number: int) -> int:
    os._exit(9)


@pytest.mark.slow
def test_a_killed_process_is_said():
    """``multiprocessing.Pool`` would wait forever for a worker that was killed."""
    with pytest.raises(UserError, match="was killed"):
        result_apart(killed, 1)
    with pytest.raises(UserError, match=r"was killed.*jobs=1"):
        list(results_of(killed, range(3), 2))


def share(folder: Path) -> tuple[str, int, int]:
    """GPU and thread counts of this process.

    It waits until all three processes work, so that none of them takes two items.
    """
    (folder / str(os.getpid())).touch()
    until(lambda: len(list(folder.iterdir())) >= 3, "the others' beginning", 300)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return gpu, torch.get_num_threads(), numba.get_num_threads()


@pytest.mark.slow
def test_processes_share_gpus_and_cores(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("persona.runtime.apart.available_cores", lambda: 9)
    found = results_of(share, [tmp_path] * 3, 3)
    assert sorted(found) == [("0", 3, 3), ("0", 3, 3), ("1", 3, 3)]


@pytest.mark.slow
def test_results_come_from_other_processes():
    found = list(results_of(squared, range(6), 2))
    assert sorted(square for square, _ in found) == [n**2 for n in range(6)]
    assert os.getpid() not in {process for _, process in found}
    halved = list(results_of(squared, [4, 1], 2, lambda n: [n // 2] if n > 1 else []))
    assert sorted(square for square, _ in halved) == [1, 1, 4, 16]
    square, process = result_apart(squared, 5)
    assert square == 25 and process != os.getpid()
