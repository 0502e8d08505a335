"""Portrait to a head that turns and talks: ``python scripts/create_head.py portrait=P name=N``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="create_head", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Trains and animates; see conf/create_head.yaml."""
    from persona.commands.create_head import create_head

    create_head(config, output_folder())


if __name__ == "__main__":
    launch(main)
