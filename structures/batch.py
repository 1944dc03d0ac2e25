"""Base class of batches of samples."""

from __future__ import annotations

from abc import abstractmethod

from structures.transferable import Transferable


class Batch(Transferable):
    """Base class of the batches that a model trains on."""

    __slots__ = ()

    @abstractmethod
    def units(self) -> dict[str, int]:
        """Return the count of each unit in which speed is measured, the samples first.

        The keys become part of log names, such as ``time/bags_per_second``.
        """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""
