"""Tables of bag predictions: what is read back, and every fault with its line."""

import csv
import dataclasses

import numpy as np
import pytest

from evaluation.mil.collector import BagScores
from evaluation.mil.predictions_csv import Decisions, read_bag_csv, write_bag_csv
from structures import DataProblems


def table(tmp_path, text):
    path = tmp_path / "bags.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("labels", "probabilities", "task"),
    [
        ([0, 1, 1], [0.1, 1 / 3, 1.0], "binary"),
        ([0, 2, 1], [[0.2, 0.3, 0.5], [1 / 3, 1 / 3, 1 / 3], [0, 1, 0]], "multiclass"),
        ([[0, 1], [1, 1], [0, 0]], [[0.1, 0.9], [1 / 3, 0.5], [0, 1]], "multilabel"),
        ([[0], [1], [1]], [[0.1], [1 / 3], [1.0]], "binary"),  # one class of labels is binary
    ],
)
def test_what_the_writer_writes_is_read_back(tmp_path, labels, probabilities, task):
    labels, probabilities = np.array(labels), np.array(probabilities, dtype=np.float64)
    if task == "binary":
        labels, probabilities = labels.reshape(-1), probabilities.reshape(-1)
    names = ("a", "b,1", 'c "x"')
    known = BagScores(names, np.arange(3), labels, probabilities)
    write_bag_csv(tmp_path / "bags.csv", known, Decisions(task, 0.3))
    again = read_bag_csv(tmp_path / "bags.csv")
    assert (again.task, again.problems, again.scores.bag_ids) == (task, (), names)
    assert again.threshold == (None if task == "multiclass" else 0.3)
    np.testing.assert_array_equal(again.scores.labels, labels)
    np.testing.assert_array_equal(again.scores.probabilities, probabilities)


def test_columns_in_any_order_with_patients(tmp_path):
    path = table(tmp_path, "\ufeffscore,patient_id,bag_id,label\n0.5,p,a,1.0\n0.25,q,b,0\n")
    scores = read_bag_csv(path).scores
    assert scores.groups == ("p", "q")
    assert scores.labels.tolist() == [1, 0]
    assert scores.probabilities.tolist() == [0.5, 0.25]
    path = table(tmp_path, "bag_id,patient_id,label,score\na,p,1,0.5\nb,,0,0.25\n")
    with pytest.warns(UserWarning, match="1 of 2 bags have no patient_id"):
        assert read_bag_csv(path).scores.groups == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "column bag_id, label, score missing"),
        ("bag_id,label\na,1\n", "column score missing; the file needs bag_id, label and score"),
        ("bag_id;label;score\na;1;0.5\n", "column bag_id, label, score missing"),
        ("bag_id,score\na,0.5\n", "column label missing"),
        ("bag_id,label,score,score\na,1,0.5,0.5\n", "column score occurs twice"),
        ("bag_id,label,score,score_1\na,1,0.5,0.5\n", "both score and score_<class>"),
        ("bag_id,label_0,label_2,score_0,score_1\n", "label_0, label_2 don't match score_0, sco"),
        ("bag_id,label,score\n", "no bags in the file"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, reason):
    path = table(tmp_path, text)
    for policy in ("error", "skip"):
        with pytest.raises(DataProblems, match=f"bags.csv: .*{reason}"):
            read_bag_csv(path, policy)


@pytest.mark.parametrize(
    ("line", "reasons"),
    [
        ("a,1,", ["score is missing"]),
        ("a,1", ["score is missing"]),
        ("a,1,nan", ["score is 'nan'"]),
        ("a,1,inf", ["score is 'inf'"]),
        ("a,1,1.5", ["score is '1.5'"]),
        ("a,1,-0.1", ["score is '-0.1'"]),
        ("a,1,high", ["score is 'high'"]),
        ("a,2,0.5", ["label is '2'"]),
        ("a,-1,0.5", ["label is '-1'"]),
        ("a,0.5,0.5", ["label is '0.5'"]),
        ("a,nan,0.5", ["label is 'nan'"]),
        ("a,yes,0.5", ["label is 'yes'"]),
        ("a,,0.5", ["label is missing"]),
        ("z,1,0.5", ["bag z occurs more than once"]),
        (",1,0.5", ["has no bag_id"]),
        ("a,1,0.5,7", ["has more values than there are columns"]),
        ("z,7,", ["bag z occurs more than once", "label is '7'", "score is missing"]),
    ],
)
def test_every_fault_of_a_line_is_told_and_can_be_skipped(tmp_path, line, reasons):
    path = table(tmp_path, f"bag_id,label,score\nz,1,0.75\n{line}\ny,0,0.25\n")
    with pytest.raises(DataProblems) as error:
        read_bag_csv(path)
    assert [p.reason for p in error.value.problems] == reasons
    name = line.split(",")[0]
    where = f"{path}, bag {name}, line 3: " if name else f"{path}, line 3: "
    assert all(str(p).startswith(where) for p in error.value.problems)
    scores, _, skipped, *_ = read_bag_csv(path, "skip")
    assert scores.bag_ids == ("z", "y")
    assert [p.reason for p in skipped] == reasons


def test_labels_of_several_classes(tmp_path):
    path = table(tmp_path, "bag_id,label,score_0,score_1,score_2\na,2,0,0,1\nb,3,0,0,1\n")
    with pytest.raises(DataProblems, match=r"bag b, line 3: label is '3'.*it is 0 to 2"):
        read_bag_csv(path)
    path = table(tmp_path, "bag_id,label_x,label_y,score_x,score_y\na,2,1,0,1\nb,,1,0,1\n")
    with pytest.raises(DataProblems) as error:
        read_bag_csv(path)
    assert [p.reason for p in error.value.problems] == ["label_x is '2'", "label_x is missing"]


def test_nothing_left(tmp_path):
    path = table(tmp_path, "bag_id,label,score\na,1,2\n")
    with pytest.raises(DataProblems, match="no bag is left"):
        read_bag_csv(path, "skip")


def test_files_that_are_no_text(tmp_path):
    path = tmp_path / "bags.csv"
    with pytest.raises(DataProblems, match=r"bags\.csv: no such file"):
        read_bag_csv(path)
    path.write_bytes(b"bag_id,label,score\n\xff\xfe,1,0.5\n")
    with pytest.raises(DataProblems, match=r"bags\.csv: is not CSV text"):
        read_bag_csv(path)
    path.write_text("bag_id,label,score\n" + "a" * 200_000 + ",1,0.5\n")
    with pytest.raises(DataProblems, match=r"is not CSV text .*field larger"):
        read_bag_csv(path)
    with pytest.raises(DataProblems, match="cannot be read"):
        read_bag_csv(tmp_path)


def scores(labels, probabilities):
    labels = np.array(labels)
    names = tuple(f"b,{k}" for k in range(len(labels)))  # commas must be quoted
    return BagScores(names, np.arange(len(labels)), labels, np.array(probabilities))


def test_binary_scores_survive_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).random(50).astype(np.float32).astype(np.float64)
    write_bag_csv(tmp_path / "bags.csv", scores([0, 1] * 25, values), Decisions("binary", 0.375))
    with (tmp_path / "bags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["bag_id", "label", "score", "prediction", "threshold"]
    assert [int(row["prediction"]) for row in rows] == (values >= 0.375).astype(int).tolist()
    assert {row["threshold"] for row in rows} == {"0.375"}
    assert [row["bag_id"] for row in rows[:2]] == ["b,0", "b,1"]
    assert [int(row["label"]) for row in rows] == [0, 1] * 25
    np.testing.assert_array_equal([float(row["score"]) for row in rows], values)
    again, task, *_ = read_bag_csv(tmp_path / "bags.csv")
    assert task == "binary"
    np.testing.assert_array_equal(again.probabilities, values)


def test_several_classes_and_an_unknown_label(tmp_path):
    known = scores([2, -1], [[0.25, 0.125, 0.625], [0.5, 0.5, 0.0]])
    write_bag_csv(
        tmp_path / "bags.csv", known, Decisions("multiclass", 0.5, ["luad", "lusc", "none"])
    )
    assert (tmp_path / "bags.csv").read_text() == (
        "bag_id,label,score_luad,score_lusc,score_none,prediction,threshold\n"
        '"b,0",2,0.25,0.125,0.625,2,\n"b,1",,0.5,0.5,0.0,0,\n'
    )


def test_multilabel(tmp_path):
    known = scores([[1, 0]], [[0.75, 0.5]])
    write_bag_csv(tmp_path / "bags.csv", known, Decisions("multilabel", 0.625, ["er", "pr"]))
    expected = (
        "bag_id,label_er,label_pr,score_er,score_pr,prediction_er,prediction_pr,threshold\n"
        '"b,0",1,0,0.75,0.5,1,0,0.625\n'
    )
    assert (tmp_path / "bags.csv").read_text() == expected
    again = read_bag_csv(tmp_path / "bags.csv")
    assert (again.task, again.classes, again.threshold) == ("multilabel", ("er", "pr"), 0.625)


@pytest.mark.parametrize("names", [[], ["a", "b"], ["a", "a", "b"], ["", "a", "b"], "321"])
def test_names_that_cannot_be_columns_are_numbers(tmp_path, names):
    """So that the file can be read: three numbers would mean the classes 0 to 2 (A84)."""
    known = scores([2, 0], [[0.25, 0.125, 0.625], [0.5, 0.5, 0.0]])
    write_bag_csv(tmp_path / "bags.csv", known, Decisions("multiclass", 0.5, list(names)))
    assert read_bag_csv(tmp_path / "bags.csv").classes == ("0", "1", "2")


def test_the_old_names_and_a_file_without_decisions_are_read(tmp_path):
    old = read_bag_csv(table(tmp_path, "bag_id,label,score_0,score_1\na,1,0.25,0.75\n"))
    assert (old.task, old.classes, old.threshold) == ("multiclass", ("0", "1"), None)


@pytest.mark.parametrize(
    ("values", "threshold"), [(("0.3", "0.3"), 0.3), (("0.3", "0.4"), None), (("7", "7"), None)]
)
def test_the_threshold_of_a_table_is_the_same_probability_in_every_line(
    tmp_path, values, threshold
):
    lines = [f"{bag},1,0.5,{value}" for bag, value in zip("ab", values, strict=True)]
    path = table(tmp_path, "\n".join(["bag_id,label,score,threshold", *lines]))
    assert read_bag_csv(path).threshold == threshold
    cut = table(tmp_path, path.read_text() + "\nc,1")  # a faulty line does not count
    assert read_bag_csv(cut, "skip").threshold == threshold


def test_patients_are_named_where_there_are_any_and_read_back(tmp_path):
    known = dataclasses.replace(scores([1, 0, -1], [0.5, 0.25, 1.0]), groups=("p", "q,r", "p"))
    binary = Decisions("binary")
    write_bag_csv(tmp_path / "bags.csv", known, binary)
    rows = ("1,0.5,p,1", '0,0.25,"q,r",0', ",1.0,p,1")
    assert (tmp_path / "bags.csv").read_text().splitlines() == [
        "bag_id,label,score,patient_id,prediction,threshold",
        *(f'"b,{b}",{row},0.5' for b, row in enumerate(rows)),
    ]
    two = dataclasses.replace(scores([1, 0], [0.5, 0.2]), groups=("p", "q"))
    write_bag_csv(tmp_path / "two.csv", two, binary)
    assert read_bag_csv(tmp_path / "two.csv").scores.groups == ("p", "q")
