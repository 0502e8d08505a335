"""A sheet of a head's edits at several strengths: ``python scripts/edit.py run=DIR``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="edit", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes pictures; see conf/edit.yaml."""
    from persona.commands.edit import edit

    print(f"sheet: {edit(config, output_folder())}")


if __name__ == "__main__":
    launch(main)
