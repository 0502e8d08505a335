"""A sweep of multi-GPU jobs: ``python scripts/sweep.py +exp=demo trainer=ddp seed=0,1``."""

import os
import sys
from pathlib import Path

from persona.cli import launch, one_line_errors


@one_line_errors
def main() -> None:
    """One process of train.py per job, one after the other; the table lies in multirun/STAMP."""
    from persona.commands.sweep import sweep

    if not sweep(sys.argv[1:], Path("multirun", os.environ["RUN_STAMP"])):
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
