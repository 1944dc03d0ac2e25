"""Intervals of mPC and rPC of bags against slow loops, and why there are none."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

import formats.files
from datamodules.transforms.bag_shifts import SHIFTS
from evaluation.mil.collector import BagScores
from evaluation.mil.predictions_csv import BagPredictions
from evaluation.mil.scores import evaluate_bags
from evaluation.robustness.grid import places, read_grids
from evaluation.robustness.intervals import find_intervals
from evaluation.robustness.kept import kept_file, prepare_folder
from evaluation.robustness.kept_bags import keep_bags
from evaluation.robustness.names import CLEAN
from evaluation.robustness.writer import CellWriter, Origin, origin_path, read_origin
from evaluation.statistics.bootstrap import bootstrap_intervals
from evaluation.targets.bags import TargetPredictions
from evaluation.targets.bootstrap import bootstrap_intervals as target_intervals
from evaluation.targets.tables import SurvivalReference

BAGS, DRAWS, LABELS = 48, 7, np.arange(48) % 2
GROUPS = tuple(f"p{n // 4}{n % 2}" for n in range(BAGS))  # two bags of a patient, of one label


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)


def predicted(model, place, groups=(), labels=LABELS):
    """Return binary predictions that get worse with the severity."""
    rng = np.random.default_rng([*map(ord, model + place[0]), place[1]])
    noise = rng.normal(size=len(labels)) * (0.7 + 0.3 * place[1])
    bags = BagScores(
        bag_ids=tuple(f"b{n}" for n in range(len(labels))),
        index=np.arange(len(labels)),
        labels=labels,
        probabilities=1 / (1 + np.exp(1 - 2 * labels - noise)).round(2),
        groups=groups,
    )
    return BagPredictions(bags, "binary", threshold=0.6)


def metrics_of(found):
    scores = found.scores
    return evaluate_bags(scores.labels, scores.probabilities, found.task, found.threshold)


def write(path, wanted, groups=(), models=("a", "b")):
    """Write a table and its predictions."""
    origin = Origin(dict.fromkeys(models, "1"), data="d", seed=0, path="features")
    with CellWriter(path, origin) as table:
        for model in models:
            for place in wanted:
                found = predicted(model, place, groups)
                keep_bags(kept_file(path, model, place, "csv"), found)
                table.add(model, *place, metrics_of(found))
    return path


def found_of(path, reference=None, benchmark=None, draws=DRAWS):
    grids, origins = read_grids([path]), {path: read_origin(path)}
    return find_intervals(grids, origins, reference, benchmark=benchmark, draws=draws)


def drawn_bags(groups):
    """Return the bags of each draw, as the bootstrap of `mil` draws them."""
    rng, numbers = np.random.default_rng(0), [[] for _ in range(DRAWS)]
    names = sorted(set(groups)) if groups else list(range(BAGS))
    of_unit = [np.flatnonzero(np.array(groups or range(BAGS)) == name) for name in names]
    labels = [LABELS[own[0]] for own in of_unit]
    for label in dict.fromkeys(labels):  # in the order of their first units
        units = [own for own, known in zip(of_unit, labels, strict=True) if known == label]
        for row in range(DRAWS):
            numbers[row] += [n for pick in rng.integers(len(units), size=len(units))
                             for n in units[pick]]  # fmt: skip
    return numbers


def slow_values(model, place, groups):
    """Return (R, 3) AUROC, average precision and accuracy, draw by draw."""
    scores = predicted(model, place, groups).scores.probabilities
    return np.array([
        (roc_auc_score(LABELS[n], scores[n]), average_precision_score(LABELS[n], scores[n]),
         accuracy_score(LABELS[n], scores[n] >= 0.6))
        for n in drawn_bags(groups)
    ])  # fmt: skip


@pytest.mark.parametrize("groups", [(), GROUPS], ids=["bags", "patients"])
def test_intervals_are_those_of_a_slow_bootstrap(tmp_path, groups):
    over = SHIFTS[1:3]
    wanted = places(over)
    path = write(tmp_path / "cells.csv", wanted, groups)
    found, expected = found_of(path, benchmark={"bag": over}), {}
    for model in ("a", "b"):
        clean = slow_values(model, (CLEAN, 0), groups)
        mpc = np.mean([slow_values(model, place, groups) for place in wanted[1:]], axis=0)
        expected[model] = {"clean": clean, "mpc": mpc, "rpc": mpc / clean}
    for key in ("clean", "mpc", "rpc"):
        ends = np.quantile(expected["a"][key], [0.025, 0.975], axis=0).T
        over_first = expected["b"][key] - expected["a"][key]
        apart = np.quantile(over_first, [0.025, 0.975], axis=0).T
        for number, metric in enumerate(("auroc", "auprc", "accuracy")):
            name = f"bag_{metric}_{key}"
            assert found.intervals["a"][name] == pytest.approx(ends[number])
            assert ends[number][0] < ends[number][1]
            difference = found.difference["b"][name]
            assert difference[3:5] == pytest.approx(apart[number])
            below = (over_first[:, number] <= 1e-12).sum(), (over_first[:, number] >= -1e-12).sum()
            assert difference.p == pytest.approx(min(1, 2 * (1 + min(below)) / (1 + DRAWS)))
    assert (found.first, list(found.difference), found.notes) == ("a", ["b"], [])
    back = found_of(path, "b", {"bag": over})
    assert (back.first, list(back.difference)) == ("b", ["a"])
    assert back.intervals == found.intervals


def test_an_incomplete_grid_has_intervals_of_the_clean_cell(tmp_path):
    path = write(tmp_path / "cells.csv", places(SHIFTS[:1], [1]), GROUPS, ["a"])
    found, own = found_of(path, benchmark={"bag": SHIFTS}, draws=1000), predicted("a", (CLEAN, 0))
    assert {name.rpartition("_")[2] for name in found.intervals["a"]} == {"clean"}
    scores = own.scores
    expected = bootstrap_intervals(
        scores.labels, scores.probabilities, "binary", threshold=0.6, groups=GROUPS
    )
    assert found.intervals["a"] == {f"{name}_clean": ends for name, ends in expected.items()}


def broken(path, how):
    """Break what is beside a table; return what is told."""
    file = kept_file(path, "a", (CLEAN, 0), "csv")
    if how == "missing":
        file.unlink()
        return "a: no intervals, because no predictions are kept in"
    if how == "no table":
        file.write_text("x")
        return "clean_0.csv: cannot be read: column bag_id"
    if how == "other cell":
        file.write_bytes(kept_file(path, "b", (CLEAN, 0), "csv").read_bytes())
        return "clean_0.csv has not the predictions of the cell in "
    if how == "other threshold":
        file.write_text(file.read_text().replace(",0.6\n", ",0.9\n"))
        return "clean_0.csv has not the predictions of the cell in "
    origin = json.loads(origin_path(path).read_text())
    del origin["shared"]["data"]
    origin_path(path).write_text(json.dumps(origin))
    return "b: no difference from a, because nothing says that the bags are the same"


@pytest.mark.parametrize(
    "how", ["missing", "no table", "other cell", "other threshold", "no origin"]
)
def test_a_note_says_why_there_is_no_interval(tmp_path, how):
    path = write(tmp_path / "cells.csv", [(CLEAN, 0)])
    told = broken(path, how)
    found = found_of(path)
    assert len(found.notes) == 1 and told in found.notes[0], found.notes
    assert list(found.intervals) == (["a", "b"] if how == "no origin" else ["b"])
    assert found.difference == {}


def test_cells_of_other_bags_are_not_drawn_together(tmp_path):
    """The draws of two cells would not be of the same bags."""
    path = write(tmp_path / "cells.csv", places(SHIFTS[:1]), models=["a"])
    file = kept_file(path, "a", (SHIFTS[0], 3), "csv")
    file.write_text(file.read_text().replace("b7,", "b70,"))
    found = found_of(path)
    assert found.intervals == {}
    assert f"{SHIFTS[0]}_3.csv has not the predictions of the cell" in found.notes[0]


def test_few_bags_have_no_intervals(tmp_path):
    path, labels = tmp_path / "cells.csv", np.arange(BAGS) % 6 // 5
    with CellWriter(path, Origin({"a": "1"}, data="d", seed=0)) as table:
        found = predicted("a", (CLEAN, 0), labels=labels)
        keep_bags(kept_file(path, "a", (CLEAN, 0), "csv"), found)
        table.add("a", CLEAN, 0, metrics_of(found))
    found = found_of(path)
    assert found.intervals == {}
    assert "class 1 has 8 bags: intervals and p-values are withheld" in found.notes[0]


def test_what_killed_processes_left_is_removed(tmp_path):
    file = kept_file(tmp_path / "cells.csv", "a", ("jpeg", 1), "csv")
    file.parent.mkdir(parents=True)
    for name in (".jpeg_1.csv.123", "jpeg_1.csv"):
        (file.parent / name).write_text("x")
    prepare_folder(tmp_path / "cells.csv")
    assert [path.name for path in file.parent.iterdir()] == ["jpeg_1.csv"]


def of_task(task):
    """Return predictions of a task with some unknown targets, named with commas."""
    rng = np.random.default_rng(5)
    names = tuple(f'b"{n}, x' for n in range(BAGS))
    says, labels = rng.dirichlet([1, 1, 1], BAGS), np.arange(BAGS) % 3
    target = None
    if task == "multilabel":
        says, labels = rng.random((BAGS, 3)), rng.integers(0, 2, (BAGS, 3))
    elif task == "ordinal":
        labels = np.where(np.arange(BAGS) > 44, -1, labels)
    elif task == "regression":
        labels, says = rng.normal(size=(2, BAGS, 2))
        labels[:3, 0], labels[3:5] = np.nan, np.nan
    elif task == "cox":
        time, says = rng.exponential(size=BAGS), rng.normal(size=BAGS)
        labels = np.stack([time, rng.random(BAGS) < 0.6], axis=1)
    if task not in ("multiclass", "multilabel"):
        training = SurvivalReference(np.arange(1.0, 9), np.arange(8) % 2 == 0)
        reference = training if task == "cox" else None
        target = TargetPredictions(task, names, labels, says, groups=GROUPS, reference=reference)
    bags = BagScores(names, np.arange(BAGS), labels, says, GROUPS)
    return BagPredictions(bags, task, threshold=0.4, target=target)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "ordinal", "regression", "cox"])
def test_every_task_has_the_intervals_of_mil(tmp_path, task):
    found, path = of_task(task), tmp_path / "cells.csv"
    if found.target is None:
        scores, threshold = found.scores, found.threshold
        given = scores.labels, scores.probabilities, task
        metrics = evaluate_bags(*given, threshold)
        expected = bootstrap_intervals(*given, threshold=threshold, groups=GROUPS, draws=50)
    else:
        known = found.target.rows(found.target.known)
        metrics = found.target.metrics()
        expected = target_intervals(known.scorer(), patients=known.groups, draws=50)
    with CellWriter(path, Origin({"a": "1"}, data="d", seed=0)) as table:
        keep_bags(kept_file(path, "a", (CLEAN, 0), "csv"), found)
        table.add("a", CLEAN, 0, metrics)
    told = found_of(path, draws=50)
    wanted = {f"{name}_clean": expected[name] for name in metrics}
    assert len(wanted) >= (3 if task == "cox" else 5)
    assert told.intervals["a"].keys() == wanted.keys()
    for name, ends in wanted.items():
        assert told.intervals["a"][name] == pytest.approx(ends), name
    assert told.notes == []


def test_times_without_those_of_the_training(tmp_path):
    found, path = of_task("cox"), tmp_path / "cells.csv"
    file = kept_file(path, "a", (CLEAN, 0), "csv")
    with CellWriter(path, Origin({"a": "1"}, data="d", seed=0)) as table:
        keep_bags(file, found)
        table.add("a", CLEAN, 0, found.target.metrics())
    training = file.with_name("training.csv")
    training.write_text("time\n1\n")
    assert "training.csv: cannot be read; it needs" in found_of(path).notes[0]
    training.unlink()
    told = found_of(path)
    assert list(told.intervals["a"]) == ["bag_c_index_clean"]
    assert told.notes == [
        "a: no intervals of bag_c_index_ipcw, bag_td_auc, because the times of the training bags "
        "are not kept"
    ]
