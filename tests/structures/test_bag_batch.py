"""Packing, splitting and checks of BagBatch."""

import dataclasses
import math

import pytest
import torch

from structures import BagBatch, MILOutput


def make_bags():
    return BagBatch(
        features=torch.arange(12.0).view(6, 2),
        offsets=torch.tensor([0, 1, 4, 6]),
        labels=torch.tensor([0, 1, 0]),
        index=torch.tensor([5, 6, 7]),
        coords=torch.arange(12).view(6, 2),
        instance_labels=torch.tensor([0, 0, 1, 0, 0, 0]),
        bag_ids=("a", "b", "c"),
        groups=("p", "p", "q"),
    )


def test_bag_is_a_view_of_its_instances():
    middle = make_bags().bag(1)
    assert middle.features.tolist() == [[2, 3], [4, 5], [6, 7]]
    assert middle.offsets.tolist() == [0, 3]
    assert middle.labels.tolist() == [1]
    assert middle.coords.tolist() == [[2, 3], [4, 5], [6, 7]]
    assert middle.instance_labels.tolist() == [0, 1, 0]
    assert middle.bag_ids == ("b",)
    assert middle.groups == ("p",)


def test_collate_undoes_splitting():
    bags = make_bags()
    again = BagBatch.collate(bags.bags())
    for field in dataclasses.fields(bags):
        ours, theirs = getattr(bags, field.name), getattr(again, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_collate_keeps_optional_fields_only_where_all_have_them():
    first, second, _ = make_bags().bags()
    joined = BagBatch.collate([first, dataclasses.replace(second, coords=None, groups=())])
    assert joined.coords is None
    assert joined.groups == ()
    assert joined.instance_labels is not None


def test_collate_refuses_widths_that_differ_and_names_the_bags():
    first, second, _ = make_bags().bags()
    wider = dataclasses.replace(second, features=torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"different feature widths.*'b'"):
        BagBatch.collate([first, wider])
    with pytest.raises(ValueError, match="empty list"):
        BagBatch.collate([])


def test_sizes_and_length_count_bags():
    assert len(make_bags()) == 3
    assert make_bags().sizes().tolist() == [1, 3, 2]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("features", torch.zeros(6), "features must be"),
        ("features", torch.zeros(6, 2, dtype=torch.int64), "must be float"),
        ("offsets", torch.tensor([0, 6]), r"offsets must have shape \(4,\)"),
        ("index", torch.tensor([1]), r"index must have shape \(3,\)"),
        ("coords", torch.zeros(5, 2), r"coords must have shape \(6, 2\)"),
        ("instance_labels", torch.zeros(5), r"instance_labels must have shape \(6,\)"),
        ("bag_ids", ("a",), "must name 3 bags, got 1"),
    ],
)
def test_wrong_fields_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make_bags(), **{field: value})


def test_check_refuses_empty_bags_and_offsets_that_miss_instances():
    make_bags().check()
    with pytest.raises(ValueError, match="bag b has no instances"):
        dataclasses.replace(make_bags(), offsets=torch.tensor([0, 1, 1, 6])).check()
    with pytest.raises(ValueError, match="must run from 0 to 6, got 0 to 5"):
        dataclasses.replace(make_bags(), offsets=torch.tensor([0, 1, 4, 5])).check()


def test_transfer_moves_optional_fields_too():
    moved = make_bags().to("meta")
    assert moved.coords.device.type == "meta"
    assert moved.bag_ids == ("a", "b", "c")


def test_output_checks_ranks():
    with pytest.raises(ValueError, match=r"logits must have shape \(B, C\)"):
        MILOutput(logits=torch.zeros(3))
    with pytest.raises(ValueError, match="attention must be"):
        MILOutput(logits=torch.zeros(3, 1), attention=torch.zeros(2, 2, 2))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("binary", [0.5]),
        ("multiclass", [[0.25, 0.75]]),  # logits 0 and log 3
        ("multilabel", [[0.5, 0.75]]),
    ],
)
def test_probabilities(task, expected):
    output = MILOutput(torch.tensor([[0.0, math.log(3)]]))
    torch.testing.assert_close(output.probabilities(task), torch.tensor(expected))


def test_numbers_are_places_where_bags_are_whole():
    assert make_bags().numbers().tolist() == [0, 0, 1, 2, 0, 1]
    named = dataclasses.replace(make_bags(), instance_index=torch.tensor([4, 9, 2, 5, 0, 7]))
    assert named.numbers().tolist() == [4, 9, 2, 5, 0, 7]
    assert named.bag(1).numbers().tolist() == [9, 2, 5]


def test_kept_instances_keep_their_numbers_and_what_belongs_to_them():
    kept = torch.tensor([True, False, True, True, False, True])
    bags = make_bags().keep(kept)
    assert bags.features.tolist() == [[0, 1], [4, 5], [6, 7], [10, 11]]
    assert bags.offsets.tolist() == [0, 1, 3, 4]
    assert bags.coords.tolist() == [[0, 1], [4, 5], [6, 7], [10, 11]]
    assert bags.instance_labels.tolist() == [0, 1, 0, 0]
    assert bags.numbers().tolist() == [0, 1, 2, 1]
    assert bags.labels.tolist() == [0, 1, 0]
    assert bags.index.tolist() == [5, 6, 7]
    assert bags.bag_ids == ("a", "b", "c")
    again = bags.keep(torch.tensor([True, False, True, True]))
    assert again.numbers().tolist() == [0, 2, 1]  # the numbers of the whole bags, not of the rest
    assert again.offsets.tolist() == [0, 1, 2, 3]


def test_a_bag_may_lose_all_its_instances():
    bags = make_bags().keep(torch.tensor([True, False, False, False, True, True]))
    assert bags.offsets.tolist() == [0, 1, 1, 3]
    assert bags.sizes().tolist() == [1, 0, 2]
    assert len(bags) == 3
    assert make_bags().keep(torch.zeros(6, dtype=torch.bool)).offsets.tolist() == [0, 0, 0, 0]


def test_kept_instances_have_the_gradient_of_their_features():
    features = make_bags().features.requires_grad_()
    bags = dataclasses.replace(make_bags(), features=features)
    bags.keep(torch.tensor([False, True, False, False, True, False])).features.sum().backward()
    assert features.grad[:, 0].tolist() == [0, 1, 0, 0, 1, 0]


def test_collated_bags_have_numbers_where_one_of_them_has():
    whole, part, other = make_bags().bags()
    assert BagBatch.collate([whole, part]).instance_index is None
    part = part.keep(torch.tensor([False, True, True]))
    joined = BagBatch.collate([whole, part, other])
    assert joined.instance_index.tolist() == [0, 1, 2, 0, 1]
    assert joined.offsets.tolist() == [0, 1, 3, 5]
    with pytest.raises(ValueError, match=r"instance_index must have shape \(5,\)"):
        dataclasses.replace(joined, instance_index=torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exact_in_single(dtype):
    half = dataclasses.replace(make_bags(), features=torch.randn(6, 3).to(dtype))
    single = half.in_single_precision()
    assert single.features.dtype == torch.float32
    assert torch.equal(single.features.to(dtype), half.features)
    assert single.bag_ids == half.bag_ids
    assert single.in_single_precision() is single
    double = dataclasses.replace(half, features=half.features.double())
    assert double.in_single_precision() is double
