"""A synthetic subject of few frames that takes as much memory as one of many."""

from dataclasses import replace

import torch
from omegaconf import DictConfig, OmegaConf

from persona.data.datamodule import SubjectDataModule
from persona.data.frame_store import FrameStore
from persona.data.frames import FrameDataset
from persona.data.layout import CAPTURED


class FullStore(SubjectDataModule):
    """A subject whose generated frames are repeated, each repetition with bytes of its own.

    Args:
        frames_stored: Generated frames, over all splits; PERSONA's motions make 907.

    The other arguments are those of every ``SubjectDataModule``.
    """

    def __init__(self, *, frames_stored: int, **arguments):
        super().__init__(**arguments)
        self.frames_stored = frames_stored

    def _load(self, key: str, splits: tuple[str, ...]) -> FrameDataset:
        if key not in self._frames and key == "train":
            trainer, self.trainer = self.trainer, None  # Not placed yet: that would pin them.
            stores = super()._load(key, splits).stores
            self.trainer = trainer
            generated = [store for store in stores if store.split != CAPTURED]
            counts = {
                store.split: (self.frames_stored + i) // len(generated)
                for i, store in enumerate(generated)
            }
            self._frames[key] = FrameDataset(
                [repeat(s, counts.get(s.split, len(s))) for s in stores]
            )
        return super()._load(key, splits)


def repeat(store: FrameStore, count: int) -> FrameStore:
    """A store of ``count`` rows, those of another one in turns."""
    turns = [i % len(store) for i in range(count)]

    def taken(values: tuple) -> tuple:
        return tuple(values[i] for i in turns)

    return replace(
        store,
        numbers=taken(store.numbers),
        packed=store.packed[torch.tensor(turns)],
        poses=store.poses[turns],
        person_px=taken(store.person_px),
        has_patch=taken(store.has_patch),
        person_box_px=taken(store.person_box_px),
    )


def with_full_store(config: DictConfig) -> DictConfig:
    """The configuration with ``speed.frames_stored`` frames, if that is given."""
    if config.speed.frames_stored is None:
        return config
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.data["_target_"] = "full_store.FullStore"
    config.data["frames_stored"] = config.speed.frames_stored
    return config
