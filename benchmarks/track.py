"""Tracks motion in films with exact truth: ``python benchmarks/track.py assets=DIR``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="track_benchmark", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Leaves films, table.csv and report.md; see conf/track_benchmark.yaml."""
    from persona.benchmark.track.run import run_track_benchmark

    print(f"report: {run_track_benchmark(config, output_folder())}")


if __name__ == "__main__":
    launch(main)
