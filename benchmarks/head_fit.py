"""Scores the fit of a head on synthetic heads: ``python benchmarks/head_fit.py``."""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="head_fit_benchmark", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Leaves heads.csv and table.md; see conf/head_fit_benchmark.yaml."""
    from persona.benchmark.head_fit import run_head_fit

    path = run_head_fit(config, instantiate(config.body), output_folder())
    print(path.read_text())
    print(f"table: {path}")


if __name__ == "__main__":
    launch(main)
