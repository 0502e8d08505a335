"""Scores a trained avatar again: ``python scripts/evaluate.py run=DIR pose_fit=image_geo``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="evaluate", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> dict[str, float]:
    """Writes metrics and pictures; see conf/evaluate.yaml."""
    from persona.commands.evaluation import evaluate

    return evaluate(config, output_folder())


if __name__ == "__main__":
    launch(main)
