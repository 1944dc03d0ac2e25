"""Training loader that can be resumed inside an epoch from a checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Sampler

Batch = TypeVar("Batch")


class ResumableBatches(Sampler[list[Any]]):
    """Batch sampler that skips the batches already used in the resumed epoch.

    Skipping is cheap, because a batch is a list of keys for which nothing has been read.

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
        """This sampler: Lightning calls ``set_epoch`` on ``dataloader.batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch
        self.batches.set_epoch(epoch)

    def resume(self, epoch: int, done: int) -> None:
        """Skip the first ``done`` batches in every iteration of this epoch."""
        self._resumed_epoch, self._skip = epoch, done

    @property
    def skipped(self) -> int:
        """Number of batches skipped in the current epoch."""
        return self._skip if self.epoch == self._resumed_epoch else 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        return itertools.islice(iter(self.batches), self.skipped, None)


class ResumableLoader(DataLoader[Batch], Generic[Batch]):
    """``DataLoader`` whose position in the epoch is saved in the checkpoint.

    Lightning saves and restores the state of a loader that has ``state_dict`` and
    ``load_state_dict``. `resumable_loader` creates it.
    """

    _place = (0, 0)  # epoch, and number of its batches yielded, including skipped ones

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        assert isinstance(self.batch_sampler, ResumableBatches)
        epoch, first = self.batch_sampler.epoch, self.batch_sampler.skipped
        self._place = (epoch, first)
        for number, batch in enumerate(super().__iter__(), first + 1):
            self._place = (epoch, number)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that were yielded."""
        return {"epoch": self._place[0], "batches": self._place[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue the saved epoch after its used batches; other epochs are complete."""
        assert isinstance(self.batch_sampler, ResumableBatches)
        self.batch_sampler.resume(state["epoch"], state["batches"])


def resumable_loader(dataset: Any, batch_sampler: Any, **options: Any) -> ResumableLoader[Any]:
    """Return a training loader that can be resumed inside an epoch.

    Args:
        dataset: data set indexed by the keys of the sampler.
        batch_sampler: a batch sampler with ``set_epoch`` whose order depends on seed and epoch.
        options: options of torch's ``DataLoader``.
    """
    return ResumableLoader(dataset, batch_sampler=ResumableBatches(batch_sampler), **options)
