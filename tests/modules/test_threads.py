"""``use_threads`` sets the threads of Torch and of numba's kernels."""

from pathlib import Path

import numba
import pytest
import torch

from persona.modules.threads import threads, use_threads

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


def test_nothing_sets_the_threads_of_one_alone():
    files = [path for path in PACKAGE.rglob("*.py") if "set_num_threads(" in path.read_text()]
    assert [path.relative_to(PACKAGE).as_posix() for path in files] == ["modules/threads.py"]
