"""Quality against seconds of schedules: ``python benchmarks/time_to_quality.py study=photo``."""

import shlex
import sys

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="time_to_quality", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Leaves runs/, curves.csv, curves.png and report.md; see conf/time_to_quality.yaml."""
    from persona.benchmark.quality.run import run_quality

    command = shlex.join(["python", "benchmarks/time_to_quality.py", *sys.argv[1:]])
    failed = run_quality(config, output_folder(), command)
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    print(f"report: {output_folder() / 'report.md'}")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
