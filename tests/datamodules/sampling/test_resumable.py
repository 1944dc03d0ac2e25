"""A loader's place in the epoch: taken, given back, and only for the epoch it belongs to."""

import itertools

import pytest

from datamodules.sampling.keys import EpochBatchSampler
from datamodules.sampling.resumable import resumable_loader


class Numbers:
    """Serves the key's number and epoch."""

    def __len__(self):
        return 11

    def __getitem__(self, key):
        return key.index, key.epoch


def make(workers=0):
    batches = EpochBatchSampler(range(11), 2, shuffle=True, seed=3, drop_last=True)
    return resumable_loader(
        Numbers(), batches, num_workers=workers, persistent_workers=workers > 0, collate_fn=list
    )


def epoch(loader, number, stop=None):
    loader.batch_sampler.sampler.set_epoch(number)
    return list(itertools.islice(loader, stop))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_an_epoch_goes_on_after_the_batches_that_are_done(workers, done):
    straight, first, second = make(), make(workers), make(workers)
    expected = [epoch(straight, e) for e in range(3)]
    epoch(first, 0)
    assert epoch(first, 1, done) == expected[1][:done]
    state = first.state_dict()
    if done:
        assert state == {"epoch": 1, "batches": done}
    second.load_state_dict(state)
    assert len(second) == 5
    assert epoch(second, 1) == (expected[1][done:] if done else expected[1])
    assert second.state_dict() == {"epoch": 1, "batches": 5}
    assert epoch(second, 2) == expected[2]


def test_the_place_is_that_of_the_batches_handed_out_not_of_the_next_epoch():
    loader = make()
    epoch(loader, 0)
    loader.batch_sampler.sampler.set_epoch(1)  # nothing of it was handed out
    assert loader.state_dict() == {"epoch": 0, "batches": 5}
    again = make()
    again.load_state_dict(loader.state_dict())
    assert epoch(again, 1) == epoch(make(), 1)


def test_a_resumed_epoch_that_is_stopped_again_counts_from_its_beginning():
    loader = make()
    loader.load_state_dict({"epoch": 4, "batches": 2})
    assert epoch(loader, 4, 1) == epoch(make(), 4)[2:3]
    assert loader.state_dict() == {"epoch": 4, "batches": 3}
