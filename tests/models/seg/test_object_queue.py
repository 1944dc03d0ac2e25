"""The queue of object embeddings against a list."""

import pytest
import torch
import torch.nn.functional as F

from models.seg.object_queue import ObjectQueue


def test_the_last_rows_remain_in_whatever_pieces_they_come():
    """Pushes of 0 to 11 rows into a queue of 5, against the tail of a list."""
    generator = torch.Generator().manual_seed(0)
    queue, all_rows = ObjectQueue(5, 3), torch.zeros(0, 3)
    for count in (2, 0, 2, 3, 1, 11, 5, 0, 4):
        rows = torch.randn(count, 3, generator=generator)
        queue.push(rows)
        all_rows = torch.cat([all_rows, rows])
        wanted = F.normalize(all_rows[-5:], dim=1)
        assert len(queue) == len(wanted)
        found = queue.rows[: len(queue)]
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, wanted.tolist()))
        torch.testing.assert_close(queue.centre(), F.normalize(wanted.mean(dim=0), dim=0))


def test_the_oldest_row_is_overwritten_first():
    queue = ObjectQueue(3, 4)
    one, two, three, four = torch.eye(4)
    queue.push(torch.stack([one, two, three]))
    queue.push(four[None])
    assert torch.equal(queue.rows, torch.stack([four, two, three]))


def test_the_centre_has_unit_norm_and_no_order():
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    one, other = ObjectQueue(6, 8), ObjectQueue(6, 8)
    assert one.centre().tolist() == [0.0] * 8
    assert one.filled() == 0
    one.push(rows)
    other.push(rows.flip(0) * 7)  # the length does not matter
    assert one.centre().norm() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(one.centre(), other.centre())
    assert one.filled() == 1


def test_it_is_in_the_checkpoint_and_has_no_gradient():
    queue = ObjectQueue(3, 2)
    queue.push(torch.ones(4, 2, requires_grad=True))
    other = ObjectQueue(3, 2)
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.push(torch.tensor([[0.0, 1.0]]))
    assert torch.equal(queue.rows, other.rows)
    assert len(other) == 3
    assert not [*queue.parameters()]
    assert not queue.rows.requires_grad
    assert not queue.centre().requires_grad


@pytest.mark.parametrize(("size", "width"), [(0, 2), (-1, 2), (2, 0)])
def test_an_empty_queue_is_refused(size, width):
    with pytest.raises(ValueError, match="must be at least 1"):
        ObjectQueue(size, width)
