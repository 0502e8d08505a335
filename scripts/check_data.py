"""Lists what a dataset lacks: ``python scripts/check_data.py data=neuman data.path=DIR``."""

import sys

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors


@hydra.main(config_path="../conf", config_name="check_data", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Exits with 1 when a recording is not ready; see conf/check_data.yaml."""
    from persona.commands.check_data import check_data

    if not check_data(config):
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
