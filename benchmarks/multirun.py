"""Turns a multirun into a table over seeds and a plot: ``python benchmarks/multirun.py FOLDER``."""

import argparse
import sys
from pathlib import Path

from persona.errors import UserError


def main() -> None:
    """Writes ablation.md, ablation.csv and ablation.png into the folder and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="multirun/STAMP, as train.py -m prints it")
    folder = parser.parse_args().folder
    from persona.benchmark.multirun import read_multirun, write_multirun_report

    try:
        print(write_multirun_report(folder, read_multirun(folder)))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
