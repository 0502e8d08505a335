"""``use_threads`` sets the threads of Torch and of numba's kernels."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest
import torch

from persona.modules.threads import few_threads, threads, use_threads

PACKAGE = Path(__file__).parents[2] / "persona"


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_num_threads(), numba.get_num_threads()
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])


def test_both_take_as_many_and_numba_no_more_than_it_has():
    most = numba.config.NUMBA_NUM_THREADS
    use_threads(most + 3)
    assert (torch.get_num_threads(), numba.get_num_threads()) == (most + 3, most)
    use_threads(1)
    assert (torch.get_num_threads(), numba.get_num_threads()) == (1, 1)


def test_threads_are_as_before_after_an_error_too():
    most = numba.config.NUMBA_NUM_THREADS
    use_threads(most)

    @threads(1)
    def fail():
        raise ValueError(torch.get_num_threads(), numba.get_num_threads())

    for _ in range(2):
        with pytest.raises(ValueError, match=r"\(1, 1\)"):
            fail()
        assert (torch.get_num_threads(), numba.get_num_threads()) == (most, most)


def test_each_has_its_own_number_again():
    torch.set_num_threads(3)
    numba.set_num_threads(1)
    with threads(2):
        assert torch.get_num_threads() == 2
    assert (torch.get_num_threads(), numba.get_num_threads()) == (3, 1)


def test_the_first_use_in_a_process_holds_for_torch_too():
    """Numba's first call starts OpenMP, which tells torch of all of numba's threads."""
    code = (
        "import torch; torch.set_num_threads(2)\n"
        "from persona.modules.threads import threads\n"
        "with threads(1): print(torch.get_num_threads())\n"
        "print(torch.get_num_threads())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["1", "2"], told.stderr


@pytest.mark.parametrize(("given", "taken"), [(1, 1), (2, 1), (3, 1), (4, 4), (6, 4)])
def test_small_operations_take_four_threads_or_one(given, taken):
    @few_threads()
    def count():
        return torch.get_num_threads()

    torch.set_num_threads(given)
    assert [count(), count(), torch.get_num_threads()] == [taken, taken, given]


def test_nothing_sets_the_threads_of_one_alone():
    files = [path for path in PACKAGE.rglob("*.py") if "set_num_threads(" in path.read_text()]
    assert [path.relative_to(PACKAGE).as_posix() for path in files] == ["modules/threads.py"]
