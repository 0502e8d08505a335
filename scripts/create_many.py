"""Many photos to avatars: ``python scripts/create_many.py "photos='DIR/*.jpg'"``."""

import sys

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors


@hydra.main(config_path="../conf", config_name="create_many", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Prints a table, and exits with 1 if an avatar is missing; see conf/create_many.yaml."""
    from persona.commands.create_many import create_many

    if not create_many(config):
        sys.exit(1)


if __name__ == "__main__":
    launch(main)
