"""A live viewer of a trained avatar: ``python scripts/view.py run=DIR``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors


@hydra.main(config_path="../conf", config_name="view", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Serves it; see conf/view.yaml."""
    from persona.commands.view import view

    view(config)


if __name__ == "__main__":
    launch(main)
