"""Cores that a process may use, also inside containers."""

import os

import pytest

from persona.runtime import cores


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes a machine of 16 cores with control groups: name of a file to its content."""

    def make(own, files):
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(cores, "_GROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(cores, "_OWN_GROUP", tmp_path / "own")
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)

    return make


@pytest.mark.parametrize(
    ("own", "files", "count"),
    [
        ("0::/\n", {}, 16),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 16),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "200000 100000",
                       "a/b/cpu.max": "800000 100000"}, 2),
        # The host's path, of which the container sees the last folder alone.
        ("0::/docker/0123\n", {"cpu.max": "400000 100000\n"}, 4),
        ("7:cpu,cpuacct:/docker/0123\n5:memory:/x\n",
         {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ("7:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
    ],
)  # fmt: skip
def test_the_least_limit_counts(machine, own, files, count):
    machine(own, files)
    assert cores.available_cores() == count


def test_without_control_groups(machine, monkeypatch, tmp_path):
    machine("0::/\n", {})
    monkeypatch.setattr(cores, "_OWN_GROUP", tmp_path / "none")
    assert cores.available_cores() == 16


@pytest.fixture
def told(monkeypatch):
    """The environment, without the variables; and the threads that torch and numba are told."""
    variables = {k: v for k, v in os.environ.items() if not k.endswith("NUM_THREADS")}
    monkeypatch.setattr(os, "environ", variables)
    threads = []
    monkeypatch.setattr("persona.modules.threads.use_threads", threads.append)
    return variables, threads


def test_libraries_are_told_of_a_limit(machine, told):
    variables, threads = told
    machine("0::/\n", {"cpu.max": "max 100000\n"})
    cores.limit_threads()
    assert "OMP_NUM_THREADS" not in variables and not threads
    machine("0::/\n", {"cpu.max": "400000 100000\n"})
    cores.limit_threads()
    assert variables["OMP_NUM_THREADS"] == variables["NUMBA_NUM_THREADS"] == "4"
    assert threads == [4]  # Torch is imported here.


def test_what_the_user_has_set_stays(machine, told):
    variables, threads = told
    variables["OMP_NUM_THREADS"] = "9"
    machine("0::/\n", {"cpu.max": "400000 100000\n"})
    cores.limit_threads()
    assert variables["OMP_NUM_THREADS"] == "9" and "NUMBA_NUM_THREADS" not in variables
    assert not threads
