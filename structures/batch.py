"""What every batch of samples says about itself."""

from __future__ import annotations

from abc import abstractmethod

from structures.transferable import Transferable


class Batch(Transferable):
    """Base of the batches that a model trains on."""

    __slots__ = ()

    @abstractmethod
    def units(self) -> dict[str, int]:
        """Return how many there are of each unit in which speed is measured, the samples first.

        Log names are made of these words: ``time/bags_per_second``.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""
