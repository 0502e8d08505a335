"""The stopwatch of benchmarks/minute.py."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from persona.commands import drive

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "minute.py"))
Stages = SCRIPT["Stages"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that the tests set; its CPU time runs twice as fast as its wall time."""
    now = SimpleNamespace(wall=0.0)
    monkeypatch.setattr(Stages, "_now", staticmethod(lambda: (now.wall, 2 * now.wall)))
    return now


def test_a_stage_has_the_time_that_no_stage_within_it_has(clock):
    def wait(seconds):
        clock.wall += seconds
        return seconds

    work = SimpleNamespace(wait=wait)
    work.outer = lambda: wait(1) + work.wait(4) + wait(2)
    stages = Stages()
    stages.timed(work, "wait", "inner")
    stages.timed(work, "outer", "outer")
    clock.wall += 8
    assert work.outer() == 7
    assert work.wait(16) == 16
    assert stages.finished() == {"rest": [8, 16], "outer": [3, 6], "inner": [20, 40]}


def test_a_stage_that_fails_ends(clock):
    def fail():
        clock.wall += 1
        raise ValueError

    work = SimpleNamespace(fail=fail)
    stages = Stages()
    stages.timed(work, "fail", "failing")
    with pytest.raises(ValueError):
        work.fail()
    clock.wall += 2
    assert stages.finished() == {"rest": [2, 4], "failing": [1, 2]}


def test_methods_called_on_the_class_keep_what_they_return(clock):
    class Made:
        def __init__(self, size):
            self.size = size

        @classmethod
        def build(cls, size):
            return cls(size)

    stages = Stages()
    stages.timed(Made, "build", "building")
    assert Made.build(3).size == 3


def test_every_stage_is_a_function_that_there_is_and_videos_are_seen(monkeypatch):
    monkeypatch.setattr(drive, "animate", lambda: Path("turntable.mp4"))
    named = []

    def timed(owner, attribute, name):
        assert callable(getattr(owner, attribute)), f"{owner}.{attribute}"
        named.append(name)

    stages = SimpleNamespace(timed=timed, ready={})
    SCRIPT["watch"](stages)
    drive.animate()
    assert len(set(named)) == len(named) > 9
    assert list(stages.ready) == ["turntable"]
