"""Trains, tests and reports one avatar: ``python train.py +exp=demo`` (``-m`` for sweeps)."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors, output_folder


@hydra.main(config_path="../conf", config_name="train", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> dict[str, float]:
    """One run; returns its metrics to a sweep's table."""
    if config.typecheck:
        # Before the first import of modules that it should check.
        from jaxtyping import install_import_hook

        install_import_hook("persona", "beartype.beartype")
    from persona.commands.experiment import run

    return run(config, output_folder())


if __name__ == "__main__":
    launch(main)
