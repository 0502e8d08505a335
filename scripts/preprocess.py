"""Photo to subject folder: ``python scripts/preprocess.py photo=P name=N``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors


@hydra.main(config_path="../conf", config_name="preprocess", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes the folder; see conf/preprocess.yaml."""
    from persona.commands.create import preprocess

    print(f"subject: {preprocess(config)}")


if __name__ == "__main__":
    launch(main)
