"""Searches settings with Optuna: ``python benchmarks/search.py trials=20``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="search", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes search.md and search.csv; see conf/search.yaml."""
    from persona.benchmark.search import run_search

    folder = output_folder()
    study = run_search(config, folder)
    print((folder / "search.md").read_text())
    print(f"best: {study.best_params}\nsearch: {folder}")


if __name__ == "__main__":
    launch(main)
