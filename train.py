"""Trains, tests and reports one avatar: ``python train.py +exp=demo`` (``-m`` for sweeps)."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parent / "scripts/train.py"), run_name="__main__")
