import torch

from structures import BagBatch, Batch, SegBatch


def seg_batch(count):
    two = torch.full((count, 2), 8)
    nothing = torch.zeros(0, dtype=torch.int64)
    return SegBatch(
        images=torch.zeros(count, 3, 8, 8),
        sizes=two,
        boxes=torch.zeros(0, 4),
        labels=nothing,
        masks=torch.zeros(0, 8, 8, dtype=torch.bool),
        counts=torch.zeros(count, dtype=torch.int64),
        crowd=nothing.bool(),
        index=torch.arange(count),
        original_sizes=two,
    )


def test_each_batch_says_its_units_the_samples_first():
    bags = BagBatch(
        features=torch.zeros(5, 3),
        offsets=torch.tensor([0, 2, 5]),
        labels=torch.tensor([0, 1]),
        index=torch.arange(2),
    )
    assert list(bags.units().items()) == [("bags", 2), ("instances", 5)]
    assert seg_batch(3).units() == {"pictures": 3}
    for batch in (bags, seg_batch(3)):
        assert isinstance(batch, Batch)
        assert next(iter(batch.units().values())) == len(batch)
        assert not hasattr(batch, "__dict__")  # still slotted
