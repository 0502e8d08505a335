"""Scores the photo path on people with exact truth: ``python benchmarks/photo.py people=DIR``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="photo_benchmark", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Leaves table.csv, report.md, sheets and overview.png; see conf/photo_benchmark.yaml."""
    from persona.benchmark.photo.run import run_photo_benchmark

    print(f"report: {run_photo_benchmark(config, output_folder())}")


if __name__ == "__main__":
    launch(main)
