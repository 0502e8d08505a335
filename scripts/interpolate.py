"""Pictures between two edits: ``python scripts/interpolate.py run=DIR start=A end=B``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="interpolate", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes pictures; see conf/interpolate.yaml."""
    from persona.commands.edit import interpolate

    folder = output_folder()
    for name, value in interpolate(config, folder).items():
        print(f"{name}: {value:.4g}")
    print(f"pictures: {folder}")


if __name__ == "__main__":
    launch(main)
