"""Portrait to a head's subject folder: ``python scripts/preprocess_head.py portrait=P name=N``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors


@hydra.main(config_path="../conf", config_name="preprocess_head", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes the folder; see conf/preprocess_head.yaml."""
    from persona.commands.create_head import preprocess_head

    print(f"subject: {preprocess_head(config)}")


if __name__ == "__main__":
    launch(main)
