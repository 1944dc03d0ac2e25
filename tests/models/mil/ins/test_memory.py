import io

import pytest
import torch

from models.mil.ins.memory import INSMemory, candidate_classes, products, unit
from structures import BagBatch


def memory(num_classes=2, width=2, queue_size=5):
    """Bag 7 of class 1 with 2 instances, bag 2 of class 0 with 3, bag 4 of class 1 with 1."""
    found = INSMemory(num_classes, width, queue_size)
    found.set_training_bags(
        torch.tensor([7, 2, 4]), torch.tensor([1, 0, 1]), torch.tensor([2, 3, 1])
    )
    return found


def bag(number, size):
    one = torch.tensor([1])
    return BagBatch(torch.zeros(size, 1), torch.tensor([0, size]), one, torch.tensor([number]))


def test_targets_begin_uniform_over_the_candidates_of_each_bag():
    half, sure = [0.5, 0.5], [1.0, 0.0]
    assert memory().targets.tolist() == [half, half, sure, sure, sure, half]
    three = INSMemory(3, 2, 5)
    three.set_training_bags(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([1, 1]))
    assert three.targets.tolist() == [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]
    assert candidate_classes(torch.tensor([1, 0]), 3).long().tolist() == [[1, 1, 0], [1, 0, 0]]


def test_a_row_is_found_by_bag_and_instance_whatever_the_batch():
    # bag 7 has rows 0 and 1, bag 2 rows 2 to 4, bag 4 row 5
    kept = memory()
    batch = BagBatch.collate([bag(4, 1), bag(2, 3), bag(7, 2)])
    assert kept.rows(batch).tolist() == [5, 2, 3, 4, 0, 1]
    part = batch.keep(torch.tensor([True, False, True, True, False, True]))
    assert kept.rows(part).tolist() == [5, 3, 4, 1]


def test_a_bag_that_is_not_for_training_has_no_row():
    kept = memory()
    assert kept.starts.tolist() == [6, 6, 2, 6, 5, 6, 6, 0]
    for number in (0, 6, 8):  # between the numbers of the training bags and beyond
        with pytest.raises(IndexError):
            kept.targets[kept.rows(bag(number, 1))]
    with pytest.raises(ValueError, match="see the training bags"):
        INSMemory(2, 2, 5).rows(bag(0, 1))


def test_targets_move_by_the_formula_and_negatives_are_pinned():
    kept = memory()
    kept.targets[2] = torch.tensor([0.3, 0.7])  # of the negative bag, as if it had been wrong
    # rows 1, 0 of bag 7 are told 0 and 1, row 2 of the negative bag is told 1
    rows, classes = torch.tensor([1, 0, 2]), torch.tensor([0, 1, 1])
    negative = torch.tensor([False, False, True])
    kept.update_targets(rows, classes, negative, phi=0.9)
    close = {"rtol": 0, "atol": 1e-7}
    # .9 (.5, .5) + .1 (0, 1) = (.45, .55), and the mirror image
    wanted = [[0.45, 0.55], [0.55, 0.45], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.5]]
    torch.testing.assert_close(kept.targets, torch.tensor(wanted), **close)
    assert kept.targets[2].tolist() == [1.0, 0.0]
    # .8 (.45, .55) + .2 (0, 1) = (.36, .64)
    kept.update_targets(rows[1:2], classes[1:2], negative[1:2], phi=0.8)
    torch.testing.assert_close(kept.targets[0], torch.tensor([0.36, 0.64]), **close)


def test_an_instance_that_comes_twice_moves_once_by_its_first_class():
    kept = memory()
    rows = torch.tensor([5, 0, 5, 0, 1])
    classes = torch.tensor([1, 0, 0, 1, 1])
    kept.update_targets(rows, classes, torch.zeros(5, dtype=torch.bool), phi=0.9)
    wanted = torch.tensor([[0.55, 0.45], [0.45, 0.55], [0.45, 0.55]])
    torch.testing.assert_close(kept.targets[[0, 1, 5]], wanted, rtol=0, atol=1e-7)


def test_prototypes_by_hand():
    kept = INSMemory(2, 2, 5)
    kept.prototypes[0] = torch.tensor([1.0, 0.0])
    queries = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    # .9 (.9 (1, 0) + .1 (0, 1)) + .1 (1, 0) = (.91, .09); class 1 has had no query and stays 0
    kept.update_prototypes(queries, torch.tensor([0, 0]), momentum=0.9)
    wanted = torch.tensor([0.91, 0.09]) / (0.91**2 + 0.09**2) ** 0.5
    torch.testing.assert_close(kept.prototypes[0], wanted, rtol=0, atol=1e-7)
    assert kept.prototypes[1].tolist() == [0.0, 0.0]
    kept.update_prototypes(queries, torch.tensor([1, 1]), momentum=0.9)
    # .9 .1 (0, 1) + .1 (1, 0) from nothing: (.1, .09)
    wanted = torch.tensor([0.1, 0.09]) / (0.1**2 + 0.09**2) ** 0.5
    torch.testing.assert_close(kept.prototypes[1], wanted, rtol=0, atol=1e-6)


def test_prototypes_are_those_of_one_query_after_the_other():
    generator = torch.Generator().manual_seed(0)
    kept = INSMemory(3, 4, 5).double()
    kept.prototypes.copy_(unit(torch.randn(3, 4, generator=generator).double()))
    for count in (1, 7, 60, 5000):  # .9^5000 is 0, as it must be and not NaN
        expected = kept.prototypes.clone()
        queries = unit(torch.randn(count, 4, generator=generator).double())
        labels = torch.randint(3, (count,), generator=generator)
        for query, label in zip(queries, labels.tolist(), strict=True):
            expected[label] = 0.9 * expected[label] + 0.1 * query
        expected /= expected.norm(dim=1, keepdim=True)
        kept.update_prototypes(queries, labels, momentum=0.9)
        torch.testing.assert_close(kept.prototypes, expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(kept.prototypes.norm(dim=1), torch.ones(3).double())


def push(kept, *values):
    column = torch.tensor(values, dtype=torch.float32)
    kept.enqueue(torch.stack([column, -column], dim=1), column.long() * 10)


def test_the_queue_wraps():
    kept = memory(queue_size=5)
    assert kept.queue_labels.tolist() == [-1] * 5
    push(kept, 1, 2, 3)
    assert kept.queue[:, 0].tolist() == [1, 2, 3, 0, 0]
    assert kept.queue_labels.tolist() == [10, 20, 30, -1, -1]
    assert kept.queue_next.item() == 3
    push(kept, 4, 5, 6, 7)  # 5 does not divide into threes and fours
    assert kept.queue[:, 0].tolist() == [6, 7, 3, 4, 5]
    assert kept.queue[:, 1].tolist() == [-6, -7, -3, -4, -5]
    assert kept.queue_labels.tolist() == [60, 70, 30, 40, 50]
    assert kept.queue_next.item() == 2


def test_more_keys_than_the_queue_holds_leave_the_last_ones():
    kept = memory(queue_size=5)
    push(kept, 1, 2)
    push(kept, *range(3, 15))  # 14 keys in all: the k-th is at place (k - 1) mod 5
    assert kept.queue[:, 0].tolist() == [11, 12, 13, 14, 10]
    assert kept.queue_labels.tolist() == [110, 120, 130, 140, 100]
    assert kept.queue_next.item() == 4


def test_a_file_brings_a_table_of_other_bags():
    trained, file = memory(), io.BytesIO()
    push(trained, 1, 2, 3)
    torch.save(trained.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = INSMemory(2, 2, 5)
    other.set_training_bags(torch.tensor([0]), torch.tensor([1]), torch.tensor([50]))
    for fresh in (INSMemory(2, 2, 5), other):
        fresh.load_state_dict(state)
        for name, value in trained.state_dict().items():
            assert torch.equal(fresh.state_dict()[name], value), name
        assert fresh.rows(bag(4, 1)).tolist() == [5]
    with pytest.raises(RuntimeError, match="size mismatch"):
        INSMemory(3, 2, 5).load_state_dict(state)


def test_products_keep_full_precision_under_autocast():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(3, 9, generator=generator), torch.randn(4, 9, generator=generator)
    wanted = torch.einsum("ip,jp->ij", left, right)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(products(left, right), wanted, rtol=0, atol=1e-6)
    rows = unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]).bfloat16())
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]), rtol=0, atol=1e-7)
