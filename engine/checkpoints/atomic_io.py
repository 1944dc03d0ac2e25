"""Writing checkpoints whole or not at all, and reading them without executing what they carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from formats.files import atomic_write
from formats.weights.files import read_file


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files that a kill or a crash of the machine at any moment leaves readable.

    The bytes go to a file beside the target and reach the disk before the name is moved to them,
    so the name stands for the old checkpoint or the new one, and never for a part.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; an error leaves the file that was there."""
        del storage_options
        with atomic_write(Path(path), durable=True) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint on the CPU.

        Args:
            path: the file.
            map_location: ignored; the trainer moves what it takes.
            weights_only: ignored; a file is never trusted.

        Raises:
            ValueError: the file is missing, broken, or carries code.
        """
        del map_location, weights_only
        return read_file(path)
