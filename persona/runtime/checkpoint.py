"""Checkpoints on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from persona.data.io import atomic_path
from persona.errors import UserError

CHECKPOINT_FILE = "last.ckpt"
"""Name of the checkpoint in a run folder."""
_OF_TRAINING = {"global_step", "loops", "optimizer_states", "pytorch-lightning_version"}
"""Keys that Lightning needs in a checkpoint to resume a training."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it.

    Lightning writes to the system's temporary folder and moves the file: between two file systems
    that is a copy, which a kill can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Replaces ``path`` whole or not at all.

        Raises:
            UserError: the disk is full or the folder may not be written.
        """
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable | None = None,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Reads a checkpoint to continue from; see ``read_checkpoint``.

        Raises:
            UserError: truncated, not a checkpoint, or without the state of a training.
        """
        checkpoint = read_checkpoint(path)
        if missing := sorted(_OF_TRAINING - checkpoint.keys()):
            raise UserError(
                f"{path}: not a checkpoint of an interrupted run (no {', '.join(missing)}); "
                "resume= takes a folder that train.py made"
            )
        return checkpoint


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads tensors and plain values onto the CPU; runs no code of the file.

    Raises:
        UserError: truncated, or not a checkpoint.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read ({type(error).__name__}); train again") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path}: not a checkpoint of persona; give a run folder made by train.py")
    return checkpoint
