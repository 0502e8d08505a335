"""Compares systems on a suite: ``python benchmarks/run.py suite=synthetic size=quick``."""

import sys

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="benchmark", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Exits with 1 if a cell failed; the report has the others."""
    from persona.benchmark.run import run_benchmark

    if run_benchmark(config, output_folder()):
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
