import csv
import dataclasses

import numpy as np

from callbacks.mil.bag_outputs import BagAttention
from callbacks.results.prediction_files import write_attention, write_bags
from evaluation.mil.collector import BagScores
from evaluation.mil.predictions_csv import read_bag_csv


def scores(labels, probabilities):
    labels = np.array(labels)
    names = tuple(f"b,{k}" for k in range(len(labels)))  # commas must be quoted
    return BagScores(names, np.arange(len(labels)), labels, np.array(probabilities))


def test_binary_scores_survive_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).random(50).astype(np.float32).astype(np.float64)
    write_bags(tmp_path / "bags.csv", scores([0, 1] * 25, values))
    with (tmp_path / "bags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["bag_id", "label", "score"]
    assert [row["bag_id"] for row in rows[:2]] == ["b,0", "b,1"]
    assert [int(row["label"]) for row in rows] == [0, 1] * 25
    np.testing.assert_array_equal([float(row["score"]) for row in rows], values)
    again, task, *_ = read_bag_csv(tmp_path / "bags.csv")
    assert task == "binary"
    np.testing.assert_array_equal(again.probabilities, values)


def test_several_classes_and_an_unknown_label(tmp_path):
    write_bags(tmp_path / "bags.csv", scores([2, -1], [[0.25, 0.125, 0.625], [0.5, 0.5, 0.0]]))
    assert (tmp_path / "bags.csv").read_text() == (
        'bag_id,label,score_0,score_1,score_2\n"b,0",2,0.25,0.125,0.625\n"b,1",,0.5,0.5,0.0\n'
    )


def test_multilabel(tmp_path):
    write_bags(tmp_path / "bags.csv", scores([[1, 0]], [[0.75, 0.5]]))
    expected = 'bag_id,label_0,label_1,score_0,score_1\n"b,0",1,0,0.75,0.5\n'
    assert (tmp_path / "bags.csv").read_text() == expected


def bag(name, weights, witness=None, coords=None):
    weights = np.array(weights, dtype=np.float32).reshape(len(weights), -1)
    return BagAttention(0, name, weights, witness, coords)


def test_attention_with_all_columns(tmp_path):
    bags = [
        bag("a", [0.25, 0.75], np.array([0, 1]), np.array([[512, 0], [1024, 256]])),
        bag("b", [1.0], np.array([-1]), None),
    ]
    write_attention(tmp_path / "attention.csv", bags)
    assert (tmp_path / "attention.csv").read_text() == (
        "bag_id,instance,attention,witness,x,y\na,0,0.25,0,512,0\na,1,0.75,1,1024,256\nb,0,1.0,,,\n"
    )


def test_attention_alone_and_with_branches(tmp_path):
    write_attention(tmp_path / "attention.csv", [bag("a", [0.5, 0.5])])
    text = (tmp_path / "attention.csv").read_text()
    assert text == "bag_id,instance,attention\na,0,0.5\na,1,0.5\n"
    write_attention(tmp_path / "attention.csv", [bag("a", [[1.0, 0.25], [0.0, 0.75]])])
    text = (tmp_path / "attention.csv").read_text()
    assert text == "bag_id,instance,attention_0,attention_1\na,0,1.0,0.25\na,1,0.0,0.75\n"


def test_patients_are_named_where_there_are_any_and_read_back(tmp_path):
    known = dataclasses.replace(scores([1, 0, -1], [0.5, 0.25, 1.0]), groups=("p", "q,r", "p"))
    write_bags(tmp_path / "bags.csv", known)
    assert (tmp_path / "bags.csv").read_text().splitlines() == [
        "bag_id,label,score,patient_id",
        *(f'"b,{b}",{row}' for b, row in enumerate(("1,0.5,p", '0,0.25,"q,r"', ",1.0,p"))),
    ]
    write_bags(
        tmp_path / "two.csv", dataclasses.replace(scores([1, 0], [0.5, 0.2]), groups=("p", "q"))
    )
    assert read_bag_csv(tmp_path / "two.csv").scores.groups == ("p", "q")
