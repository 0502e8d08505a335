"""Writes people with exact truth, for ``benchmarks/photo.py``.

Usage: ``python scripts/people.py assets=DIR out=DIR [count=100] [seed=1000]``. DIR of the assets
holds MakeHuman's CC0 clothes, hair, skins and eyes. See conf/people.yaml.
"""

import hydra
from omegaconf import DictConfig

from persona.cli import launch, one_line_errors


@hydra.main(config_path="../conf", config_name="people", version_base="1.3")
@one_line_errors
def main(config: DictConfig) -> None:
    """Writes a folder per person; see conf/people.yaml."""
    from persona.data.people.folder import write_people

    write_people(
        config.assets, config.out, count=config.count, seed=config.seed,
        motions=config.motions, num_poses=config.num_poses, own=config.own,
        height=config.height, photos_only=config.photos_only, walk=config.walk,
        long_skirts=config.long_skirts,
    )  # fmt: skip
    print(f"people: {config.out}")


if __name__ == "__main__":
    launch(main)
