"""Whole-body motion of a person in a video: ``python scripts/track.py video=V name=N``."""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors


@hydra.main(config_path="../conf", config_name="track", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes the folder; see conf/track.yaml."""
    from persona.commands.track import track

    print(f"motion: {track(config)}")


if __name__ == "__main__":
    launch(main)
