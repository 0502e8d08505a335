"""Configurations of other entry points."""

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig


def composed(name: str, overrides: list[str]) -> DictConfig:
    """Another entry point's configuration, from the same folder as the running one's."""
    if not GlobalHydra.instance().is_initialized():
        raise RuntimeError("needs a running Hydra application")
    return compose(name, overrides=list(overrides))
