"""What benchmarks/lhm_training.py reads of trainings."""

import runpy
from pathlib import Path

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "lhm_training.py"))


def test_losses_are_read_in_the_order_of_the_steps(tmp_path):
    table = tmp_path / "logs" / "metrics.csv"
    table.parent.mkdir()
    table.write_text(
        "epoch,step,train/loss/image,train/loss/mask\n0,0,0.5,0.25\n0,1,,\n0,2,0.125,1.0\n"
    )
    assert SCRIPT["losses_of"](tmp_path) == [0.5, 0.25, 0.125, 1.0]
