"""Maps of a subject in PERSONA's raw layout, or back: ``python scripts/maps.py subject=DIR``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors


@hydra.main(config_path="../conf", config_name="maps", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Rewrites the maps; see conf/maps.yaml."""
    from persona.data.convert_maps import convert_maps

    convert_maps(str(config.subject), config.form)
    print(f"subject: {config.subject}, its maps are {config.form}")


if __name__ == "__main__":
    launch(main)
