"""Drives a trained avatar: ``python scripts/animate.py run=DIR motion=dance``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="animate", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes the animation; see conf/animate.yaml."""
    from persona.commands.drive import animate

    print(f"video: {animate(config, output_folder())}")


if __name__ == "__main__":
    launch(main)
