"""A training loader that a checkpoint inside an epoch can continue at the next batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Sampler

Batch = TypeVar("Batch")


class ResumableBatches(Sampler[list[Any]]):
    """Batches of another sampler, from a later one on in the epoch that is resumed.

    Skipping is cheap, because a batch is a list of keys and nothing has been read for it.

    Args:
        batches: a batch sampler with ``set_epoch``.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.epoch = 0
        self._resumed_epoch = -1
        self._skip = 0

    @property
    def sampler(self) -> ResumableBatches:
        """Itself: Lightning calls ``set_epoch`` on ``dataloader.batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration produces."""
        self.epoch = epoch
        self.batches.set_epoch(epoch)

    def resume(self, epoch: int, done: int) -> None:
        """Leave out the first ``done`` batches whenever this epoch is produced."""
        self._resumed_epoch, self._skip = epoch, done

    @property
    def skipped(self) -> int:
        """Number of batches that the current epoch leaves out."""
        return self._skip if self.epoch == self._resumed_epoch else 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        return itertools.islice(iter(self.batches), self.skipped, None)


class ResumableLoader(DataLoader[Batch], Generic[Batch]):
    """A ``DataLoader`` whose place in the epoch travels in the checkpoint.

    Lightning asks a loader with these two methods for its state and gives it back on resuming.
    Made by `resumable_loader`.
    """

    _place = (0, 0)  # epoch, and its batches handed out, with those that were left out

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        assert isinstance(self.batch_sampler, ResumableBatches)
        epoch, first = self.batch_sampler.epoch, self.batch_sampler.skipped
        self._place = (epoch, first)
        for number, batch in enumerate(super().__iter__(), first + 1):
            self._place = (epoch, number)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that were handed out."""
        return {"epoch": self._place[0], "batches": self._place[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the epoch of the state after its batches; other epochs are complete."""
        assert isinstance(self.batch_sampler, ResumableBatches)
        self.batch_sampler.resume(state["epoch"], state["batches"])


def resumable_loader(dataset: Any, batch_sampler: Any, **options: Any) -> ResumableLoader[Any]:
    """Return a training loader that can be resumed inside an epoch.

    Args:
        dataset: takes the keys of the sampler.
        batch_sampler: a batch sampler with ``set_epoch`` whose order depends on seed and epoch.
        options: of torch's ``DataLoader``.
    """
    return ResumableLoader(dataset, batch_sampler=ResumableBatches(batch_sampler), **options)
