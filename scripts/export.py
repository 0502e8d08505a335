"""Takes a trained avatar elsewhere: ``python scripts/export.py run=DIR format=[ply,glb]``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="export", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes the files; see conf/export.yaml."""
    from persona.commands.export import export

    for path in export(config, output_folder()):
        print(f"file: {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    launch(main)
