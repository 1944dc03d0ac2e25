import dataclasses

import numpy as np
import pytest
import torch

from callbacks.mil.bag_outputs import BagAttention
from callbacks.mil.bag_table import BagTable, TopInstances, bag_rows, top_instances
from callbacks.mil.slide_parts import SlidePart
from evaluation.mil.collector import BagScores
from loggers.run import build_loggers, finish_loggers
from loggers.wandb_logger import WandbOptions
from structures import MILOutput


def attended(weights, coords=None):
    weights = np.array(weights, dtype=np.float32)
    return BagAttention(0, "b", weights.reshape(len(weights), -1), None, coords)


def scores(labels, probabilities, groups=()):
    count = len(labels)
    return BagScores(
        tuple(f"bag {k}" for k in range(count)),
        np.arange(count),
        np.array(labels),
        np.array(probabilities),
        groups,
    )


def test_top_instances_are_the_most_attended_with_their_places():
    coords = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    top = top_instances(attended([0.125, 0.5, 0.25, 0.125], coords), 3)
    assert (top.size, top.numbers.tolist(), top.weights.tolist()) == (
        4,
        [1, 2, 0],
        [0.5, 0.25, 0.125],
    )
    assert top.coords.tolist() == [[2, 3], [4, 5], [0, 1]]
    both = top_instances(attended([[0.5, 0.0], [0.25, 1.0], [0.25, 0.0]]), 2)
    assert (both.numbers.tolist(), both.weights.tolist()) == ([1, 0], [0.625, 0.25])
    assert top_instances(attended([1.0]), 3).numbers.tolist() == [0]


def test_instances_of_patients_name_their_slide():
    parts = (
        SlidePart("s0", slice(0, 1), np.array([[5, 6]])),
        SlidePart("s1", slice(1, 3)),  # without coordinates
        SlidePart("s2", slice(3, 4), np.array([[7, 8]])),
    )
    bag = dataclasses.replace(attended([0.125, 0.25, 0.125, 0.5]), parts=parts)
    top = top_instances(bag, 3)
    assert top.slides == ("s2", "s1", "s0")
    columns, (row,) = bag_rows(scores([1], [0.5], ("p",)), {0: top}, (), 0.5, 3)
    named = dict(zip(columns, row, strict=True))
    assert [[named[f"{n} {k}"] for n in ("instance", "slide", "x", "y")] for k in (1, 2, 3)] == [
        [3, "s2", 7, 8], [1, "s1", None, None], [0, "s0", 5, 6],
    ]  # fmt: skip
    alone = dataclasses.replace(top, slides=("bag 0",) * 3)  # a slide that is a bag
    assert "slide 1" not in bag_rows(scores([1], [0.5]), {0: alone}, (), 0.5, 3)[0]


def test_binary_rows_begin_with_the_worst():
    kept = {0: TopInstances(7, np.array([4]), np.array([0.5]), np.array([[10, 20]]))}
    columns, rows = bag_rows(
        scores([0, 1, -1, 1], [0.75, 0.875, 0.5, 0.125], ("p", "q", "r", "s")),
        kept,
        ("no", "yes"),
        0.5,
        1,
    )
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [r["bag"] for r in named] == ["bag 3", "bag 0", "bag 1", "bag 2"]
    assert [r["patient"] for r in named] == ["s", "p", "q", "r"]
    assert [r["error"] for r in named[:3]] == [0.875, 0.75, 0.125]
    assert np.isnan(named[3]["error"])
    assert [(r["truth"], r["decision"]) for r in named] == [
        ("yes", "no"),
        ("no", "yes"),
        ("yes", "yes"),
        ("", "yes"),
    ]
    assert named[0]["p(yes)"] == 0.125
    first = named[1]
    assert [first[k] for k in ("instances", "instance 1", "attention 1", "x 1", "y 1")] == [
        7,
        4,
        0.5,
        10,
        20,
    ]
    assert named[0]["instances"] is None


def test_multiclass_and_multilabel_rows():
    columns, rows = bag_rows(scores([2, 0], [[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]), {}, (), 0.5, 0)
    assert columns == ["bag", "error", "truth", "decision", "p(0)", "p(1)", "p(2)", "instances"]
    assert rows[0][:4] == ["bag 0", 0.75, "2", "1"]
    _, rows = bag_rows(scores([[1, 1]], [[0.75, 0.25]]), {}, ("x", "y"), 0.5, 0)
    assert rows[0][:4] == ["bag 0", 0.75, "x, y", "x"]


@pytest.mark.slow
def test_the_table_of_a_run(stand_in, make_trainer, offline_wandb, read_wandb):
    loggers = build_loggers(offline_wandb / "x" / "version_0", WandbOptions())
    trainer = make_trainer([BagTable(top=2, max_bags=5)], logger=loggers)
    trainer.fit(stand_in.BagModule(), stand_in.bags(), stand_in.bags())
    finish_loggers(loggers)
    (run,) = (offline_wandb / "x/version_0/wandb").glob("offline-run-*")
    table = read_wandb(run).tables("val/bags")
    # Logit k - 2, positive where k is odd: bag 6 is the worst, then 4, 1, 2, 0 ...
    assert [row["bag"] for row in table] == [f"case {k}" for k in (6, 4, 1, 2, 3)]
    assert table[0]["error"] == pytest.approx(1 / (1 + np.exp(-4.0)))
    assert (table[0]["truth"], table[0]["decision"]) == ("absent", "present")
    # Bag 6 has four instances with attention .1, .2, .3, .4.
    assert (table[0]["instances"], table[0]["instance 1"], table[0]["instance 2"]) == (4, 3, 2)
    assert table[0]["attention 1"] == pytest.approx(0.4)


def test_without_wandb_nothing_is_kept(stand_in, make_trainer):
    callback = BagTable()
    trainer = make_trainer([callback])
    trainer.validate(stand_in.BagModule(), stand_in.bags(), verbose=False)
    module = stand_in.BagModule()
    module.trainer = trainer
    callback.keep(module, MILOutput(logits=torch.zeros(1, 1)), stand_in.bag(0))
    assert callback._bags == {}


@pytest.mark.parametrize("wrong", [{"top": -1}, {"max_bags": 0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BagTable(**wrong)
