"""Checkpoints on disk."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from persona.data.io import atomic_path


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
