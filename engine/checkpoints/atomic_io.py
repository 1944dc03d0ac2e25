"""Atomic writing of checkpoints, and reading without executing pickled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from formats.files import atomic_write
from formats.weights.files import read_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint IO that leaves readable files if the process or the machine dies while writing.

    A checkpoint is written to a temporary file next to the target and flushed to disk before it is
    renamed, so the target is either the old or the new checkpoint, never a part of one.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; after an error the previous file is unchanged."""
        del storage_options
        with atomic_write(Path(path), durable=True) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint on the CPU.

        Args:
            path: the file.
            map_location: ignored; the trainer moves the tensors itself.
            weights_only: ignored; pickled code is never executed.

        Raises:
            ValueError: the file is missing, broken, or carries code.
        """
        del map_location, weights_only
        return read_file(path)
