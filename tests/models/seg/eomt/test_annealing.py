"""Shares of masked queries and their random choice."""

import pytest
import torch

from models.seg.eomt.annealing import PARTS, as_parts, masked_queries, share, staggered

STEPS = 88_692  # 12 epochs
STARTS, ENDS = [14_782, 29_564, 44_346, 59_128], [29_564, 44_346, 59_128, 73_910]


def published(step, start, end):
    """Return the probability of EoMT's own training at a step."""
    if step < start:
        return 1.0
    return 0.0 if step >= end else (1 - (step - start) / (end - start)) ** 0.9


def test_the_windows_are_the_published_steps():
    found = [(round(start * STEPS), round(end * STEPS)) for start, end in staggered(4)]
    assert found == list(zip(STARTS, ENDS, strict=True))
    for step in range(0, STEPS, 1231):
        for window, start, end in zip(staggered(4), STARTS, ENDS, strict=True):
            assert share(step / STEPS, window) == pytest.approx(
                published(step, start, end), abs=1e-6
            )


def test_a_share_of_queries_is_masked_each_by_itself():
    index = torch.arange(500)
    for probability in (0.0, 0.3, 1.0):
        parts = int(as_parts(torch.tensor(probability)))
        found = masked_queries(parts, 200, key=5, index=index, block=1)
        assert found.shape == (500, 200)
        assert float(found.float().mean()) == pytest.approx(probability, abs=0.01)
    assert bool(found.all())  # at 1


def test_the_choice_depends_on_key_image_block_and_query_alone():
    def drawn(key=3, index=(7, 9), block=0):
        return masked_queries(PARTS // 2, 64, key, torch.tensor(index), block)

    assert torch.equal(drawn(), drawn())
    assert torch.equal(drawn()[1], drawn(index=(9,))[0])
    assert not torch.equal(drawn()[0], drawn()[1])
    for other in (drawn(key=4), drawn(block=1)):
        assert 0.3 < float((other ^ drawn()).float().mean()) < 0.7
    fewer = masked_queries(PARTS // 4, 64, 3, torch.tensor([7, 9]), 0)
    assert not bool((fewer & ~drawn()).any())  # a share that falls only frees queries
