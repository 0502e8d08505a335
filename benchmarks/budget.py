"""What limits a system's score: ``python benchmarks/budget.py size=quick``."""

import sys

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="error_budget", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Exits with 1 if a cell failed; the same command continues with the rest."""
    from persona.benchmark.budget import run_budget

    if run_budget(config, output_folder()):
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
