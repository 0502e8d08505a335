"""Compares systems for heads on synthetic people and edits: ``python benchmarks/heads.py``."""

import sys

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="head_benchmark", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Leaves cells/, cells.csv, table.csv and table.md; see conf/head_benchmark.yaml."""
    from persona.benchmark.heads.run import run_heads

    failed = run_heads(config, output_folder())
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    print(f"table: {output_folder() / 'table.md'}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
