"""Sizes and losses of every export format of an avatar: ``python benchmarks/export.py run=DIR``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="export_benchmark", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Leaves the files and report.md; see conf/export_benchmark.yaml."""
    from persona.benchmark.exports import run_export_benchmark

    print(f"report: {run_export_benchmark(config, output_folder())}")


if __name__ == "__main__":
    launch(main)
