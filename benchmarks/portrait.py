"""Scores heads made from portraits of synthetic heads: ``python benchmarks/portrait.py``."""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="portrait_benchmark", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Leaves heads.csv, table.md and a sheet of each head; see conf/portrait_benchmark.yaml."""
    from persona.benchmark.portrait import run_portraits

    path = run_portraits(config, instantiate(config.preprocess), output_folder())
    print(path.read_text())
    print(f"table: {path}")


if __name__ == "__main__":
    launch(main)
