"""Names and shapes of two sets of weights."""

import torch

from formats.weights.compare import compare_weights, some_of


def test_equal_names_and_shapes_differ_in_nothing():
    weights = {"b": torch.zeros(2, 3), "a": torch.zeros(())}
    found = compare_weights(weights, {n: torch.ones_like(v) for n, v in weights.items()})
    assert found == ([], [], {})


def test_each_kind_of_difference_in_the_order_of_names():
    found = {"z": torch.zeros(1), "y": torch.zeros(1), "s": torch.zeros(2), "r": torch.zeros(1, 2)}
    wanted = {"d": torch.zeros(1), "c": torch.zeros(1), "s": torch.zeros(3), "r": torch.zeros(2, 1)}
    differences = compare_weights(found, wanted)
    assert differences.missing == ["c", "d"]
    assert differences.unexpected == ["y", "z"]
    assert list(differences.mismatched.items()) == [("r", ((1, 2), (2, 1))), ("s", ((2,), (3,)))]


def test_what_is_no_tensor_has_no_axes():
    differences = compare_weights({"a": "text", "b": "text"}, {"a": torch.zeros(2), "b": "other"})
    assert differences.mismatched == {"a": ((), (2,))}


def test_messages_name_the_first_and_count_the_rest():
    assert some_of([]) == ""
    assert some_of(list("abcde")) == "a; b; c; d; e"
    assert some_of(list("abcdefg")) == "a; b; c; d; e and 2 more"
