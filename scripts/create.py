"""Photo to animated avatar: ``python scripts/create.py photo=P name=N``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="create", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Preprocesses, trains and animates; see conf/create.yaml."""
    from persona.commands.create import create

    create(config, output_folder())


if __name__ == "__main__":
    launch(main)
