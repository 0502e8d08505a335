"""What benchmarks/lhm_training.py reads of trainings."""

import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "lhm_training.py"))


def test_losses_are_read_in_the_order_of_the_steps(tmp_path):
    table = tmp_path / "logs" / "metrics.csv"
    table.parent.mkdir()
    table.write_text(
        "epoch,step,train/loss/image,train/loss/mask\n0,0,0.5,0.25\n0,1,,\n0,2,0.125,1.0\n"
    )
    assert SCRIPT["losses_of"](tmp_path) == [0.5, 0.25, 0.125, 1.0]


@pytest.mark.parametrize(
    ("lines", "end", "expected"),
    [
        (2, "time.sleep(60)", [0.5, 3.0, 1.5]),
        (2, "sys.exit(0)", [0.5, 3.0, 1.5]),
        (1, "sys.exit(1)", "ended with 1"),
        (1, "sys.exit(0)", "ended with 0"),
        (1, "time.sleep(60)", "no time left"),
    ],
)
def test_a_training_that_failed_or_took_too_long_has_no_rate(tmp_path, lines, end, expected):
    bench = object.__new__(SCRIPT["Bench"])
    bench.runs, bench.end = tmp_path, time.monotonic() + (1 if expected == "no time left" else 20)
    line = "step 5: 0.500 s a step, 3 % of it waiting for people; loss 1.0; at most 1.5 GiB"

    def train(name, *_):
        (tmp_path / f"{name}.txt").write_text(f"{line}\n" * lines)
        code = f"import sys, time; {end}"
        return subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)

    bench.train = train
    found = bench.last_line(2, "rate", 1)
    assert found == expected or found.startswith(f"failed: {expected}; step 5:")


def test_only_the_training_that_failed_is_reported_to_have(tmp_path):
    """The other is killed, which must not be taken for its end."""
    bench = object.__new__(SCRIPT["Bench"])
    bench.runs, bench.end, bench.results = tmp_path, time.monotonic() + 20, {}
    bench.tiny, bench.devices = True, 1

    def train(name, *_):
        (tmp_path / f"{name}.txt").write_text(f"log of {name}")
        code = {"ddp": "import time; time.sleep(60)", "fsdp": "raise SystemExit(3)"}[name]
        return subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)

    bench.train = train
    bench.losses()
    ddp, fsdp = bench.results["losses"].split("; failed: ")
    assert ddp == "failed: stopped, since another failed; log of ddp"
    assert fsdp == "ended with 3; log of fsdp"
