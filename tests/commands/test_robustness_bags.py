"""`evaluate.py robustness --data`: cells of MIL checkpoints under shifts of their bags."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import evaluate
import formats.files
import train
from datamodules.transforms.bag_shifts import SHIFTS, RunningUnits, shift_bag
from evaluation.robustness.corruptions import image_seed
from evaluation.robustness.kept import kept_folder
from structures import BagBatch
from tests.support.layers import ROOT
from tests.support.mean_bags import MeanFeatures, write_bags, write_mean
from tests.support.target_bags import npz_recipe, write_npz

BAGS, CELLS = 40, 1 + 2 * len(SHIFTS)


def run(*words):
    return evaluate.main(["robustness", *map(str, words)])


def mil(folder, *words):
    """Return the metrics of `evaluate.py mil`."""
    return mil_record(folder, *words, "--draws", 1)["metrics"]


def mil_record(folder, *words):
    """Return what `evaluate.py mil` writes."""
    out = folder / "mil.json"
    assert evaluate.main(["mil", *map(str, (*words, "--out", out))]) == 0
    return json.loads(out.read_text())


def values(table):
    """Return the values of a table without the names of models."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(r["corruption"], int(r["severity"]), r["metric"]): float(r["value"]) for r in rows}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Do not wait for the disk."""
    monkeypatch.setattr(formats.files.os, "fsync", lambda _: None)
    monkeypatch.setattr(MeanFeatures, "predicted", [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("bags")
    write_bags(root / "bags.npz", count=BAGS)
    write_mean(root / "mean.ckpt", threshold=0.6)
    return root


@pytest.fixture(scope="module")
def base(folder):
    return "--ckpt", folder / "mean.ckpt", "--data", folder / "bags.npz", "--severities", 1, 5


@pytest.fixture(scope="module")
def whole(folder, base):
    """Evaluate two severities of all shifts; returns the table and the record."""
    out = folder / "whole.json"
    words = ("--cells", folder / "whole.csv", "--out", out, "--figure", folder / "whole.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MeanFeatures, "predicted", [])
        assert run(*base, *words) == 0
        assert len(MeanFeatures.predicted) == CELLS * BAGS
    return folder / "whole.csv", json.loads(out.read_text())


def test_the_clean_cell_is_the_number_of_mil(folder, base, whole):
    table, record = whole
    of_mil = mil_record(folder, *base[:4])
    expected, found = of_mil["metrics"], record["cells"]["mean"]
    assert 0.6 < expected["bag_auroc"] < 1
    assert found["clean"]["0"] == {n: v for n, v in expected.items() if n.startswith("bag_")}
    assert list(found) == ["clean", *SHIFTS]
    assert len({tuple(cell.items()) for of in found.values() for cell in of.values()}) > CELLS // 2
    assert (record["path"], record["seed"], record["table"]) == ("features", 0, str(table))
    assert "the bags that are scored" in record["notes"][-1]
    assert record["metrics"]["mean"]["bag_auroc_mpc"] is None  # three severities are missing
    assert (folder / "whole.png").stat().st_size > 1000
    drawn = {f"{name}_clean": ends for name, ends in of_mil["intervals"].items()}
    assert record["intervals"] == {"mean": drawn}
    assert (record["draws"], record["difference_from"]) == (1000, None)


@pytest.mark.parametrize("name", SHIFTS)
def test_scores_of_bags_that_are_shifted_one_by_one(folder, whole, name):
    with np.load(folder / "bags.npz") as file:
        features, at, labels = file["X"], file["bag_index"], file["y"]
    running = RunningUnits()
    running.add(torch.from_numpy(features))
    for severity in (1, 5):
        scores = []
        for number in range(BAGS):
            own = torch.from_numpy(features[at == number])
            ends = torch.tensor([0, len(own)])
            bag = BagBatch(own, ends, labels=torch.tensor([0]), index=torch.tensor([number]))
            seed = image_seed(0, f"bags_{number}", name, severity)
            shifted = shift_bag(bag, name, severity, seed, running.units())
            scores.append(float(shifted.features[:, :1].mean(dim=0).sigmoid()))
        found = whole[1]["cells"]["mean"][name][str(severity)]
        assert found["bag_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        decided = np.array(scores) >= 0.6  # as the checkpoint says
        assert found["bag_accuracy"] == pytest.approx((decided == labels).mean())


def test_the_same_command_again_predicts_nothing(folder, base, whole, capsys):
    before = whole[0].read_bytes()
    assert run(*base, "--cells", whole[0], "--workers", 3) == 0
    assert MeanFeatures.predicted == []
    assert whole[0].read_bytes() == before
    assert f"{CELLS} of {CELLS} cells (in {whole[0]})" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_batches_and_order_do_not_change_cells(folder, base, whole, tmp_path, capsys):
    """Nor do other models in the table; another seed changes what is drawn."""
    names = ("feature_gain", "missing_instances")
    one = write_mean(tmp_path / "one.ckpt", threshold=0.6, preprocessing={"eval_batch_size": 1})
    cells = tmp_path / "cells.csv"
    words = ("--data", base[3], "--severities", 5, "--cells", cells)
    assert run("--ckpt", one, *words, "--corruptions", *names[::-1], "--workers", 2) == 0
    expected, found = values(whole[0]), values(cells)
    assert {(name, level) for name, level, _ in found} == {("clean", 0), *((n, 5) for n in names)}
    assert found == {place: expected[place] for place in found}
    first = cells.read_bytes()
    MeanFeatures.predicted.clear()
    double = write_mean(tmp_path / "double.ckpt", factor=2.0)
    out = tmp_path / "o.json"
    words = (*words, "--corruptions", *names, "--out", out, "--reference", "one")
    assert run("--ckpt", one, double, *words) == 0
    assert len(MeanFeatures.predicted) == 3 * BAGS  # of the second model
    assert cells.read_bytes().startswith(first)
    record = json.loads(out.read_text())
    assert list(record["cells"]) == ["one", "double"]
    assert record["difference_from"] == "one"
    assert list(record["difference"]) == ["double"]
    clean = record["difference"]["double"]["bag_auroc_clean"]
    assert clean == {"value": 0, "low": 0, "high": 0, "p": 1}  # the order of bags is the same
    assert record["difference"]["double"]["bag_accuracy_clean"]["low"] < 0
    other = tmp_path / "other.csv"
    seed = ("--seed", 1, "--corruptions", names[1], "duplicate_instances", "--cells", other)
    assert run("--ckpt", one, *words[:4], *seed, "--no-predictions") == 0
    assert not kept_folder(other).exists()
    assert f"no predictions are kept in {kept_folder(other)}" in capsys.readouterr().out
    assert values(other)["clean", 0, "auroc"] == expected["clean", 0, "auroc"]
    assert values(other) != {place: expected[place] for place in values(other)}


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_bags_of_several_classes(folder, tmp_path, task):
    rng, classes = np.random.default_rng(1), 3
    labels = np.arange(30) % 3 if task == "multiclass" else rng.integers(0, 2, (30, classes))
    data = write_bags(tmp_path / "several.npz", labels)
    ckpt = write_mean(tmp_path / "several.ckpt", task, classes, preprocessing={"task": task})
    words = ("--ckpt", ckpt, "--data", data)
    which = ("--corruptions", "mean_features", "--out", tmp_path / "o.json")
    assert run(*words, *which) == 0
    record = json.loads((tmp_path / "o.json").read_text())
    expected, cells = mil(tmp_path, *words), record["cells"]["several"]
    assert cells["clean"]["0"] == {n: v for n, v in expected.items() if n.startswith("bag_")}
    levels = [cells["mean_features"][str(level)]["bag_auroc"] for level in range(1, 6)]
    assert record["metrics"]["several"]["bag_auroc_mpc"] is None  # four shifts are missing
    assert record["corruptions"]["several"]["mean_features"]["bag_auroc"] == np.mean(levels)


def test_means_over_all_shifts_and_bags_of_one_class(folder, tmp_path):
    """A table that is read later has the same means; metrics without a value have no row."""
    data = write_bags(tmp_path / "ones.npz", np.ones(6, dtype=int))
    cells, out = tmp_path / "cells.csv", tmp_path / "o.json"
    words = ("--ckpt", folder / "mean.ckpt", "--data", data)
    assert run(*words, "--cells", cells, "--out", out) == 0
    record = json.loads(out.read_text())
    assert "bag_auroc" not in record["cells"]["mean"]["clean"]["0"]
    found = values(cells)
    shifted = [v for (name, _, metric), v in found.items() if name != "clean" and metric == "f1"]
    assert len(shifted) == 25
    assert record["metrics"]["mean"]["bag_f1_mpc"] == pytest.approx(np.mean(shifted))
    assert run("--cells", cells, "--out", out) == 0
    assert json.loads(out.read_text())["metrics"] == record["metrics"]


def test_part_of_the_shifts_has_no_mean_when_it_is_read_again(whole, folder):
    out = folder / "again.json"
    assert run("--cells", whole[0], "--out", out) == 0
    assert json.loads(out.read_text())["metrics"] == whole[1]["metrics"]


def test_a_shift_of_ones_own(folder, base, tmp_path, monkeypatch, capsys):
    """It has cells and a mean, but takes no part in mPC."""
    (tmp_path / "own_clinic.py").write_text(
        "def turned(features, severity, rng):\n"
        "    return features if severity == 1 else -features\n"
        "def failing(features, severity, rng):\n"
        "    raise KeyError('scanner')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out, cells = tmp_path / "own.json", ("--cells", tmp_path / "own.csv")
    assert run(*base, "--corruptions", "own_clinic.turned", *cells, "--out", out) == 0
    found = json.loads(out.read_text())
    clean, of = (found["cells"]["mean"][name] for name in ("clean", "own_clinic.turned"))
    assert of["1"] == clean["0"]
    assert of["5"]["bag_auroc"] == pytest.approx(1 - clean["0"]["bag_auroc"])
    assert found["metrics"]["mean"]["bag_auroc_mpc"] is None
    for name, told in (
        ("own_clinic.gone", "own_clinic has no function 'gone'"),
        ("own_clinic.failing", "failing at severity 1 raised KeyError: 'scanner'"),
    ):
        assert run(*base, "--corruptions", name, *cells, "--workers", 2) == 2
        shown = capsys.readouterr().err
        assert told in shown and "Traceback" not in shown
    assert values(tmp_path / "own.csv")["own_clinic.turned", 1, "auroc"] == clean["0"]["bag_auroc"]


def test_wrong_input(folder, base, whole, tmp_path, capsys):
    table, (ckpt, data) = whole[0], (base[1], base[3])
    before = table.read_bytes()
    twin = shutil.copy(ckpt, tmp_path / "mean.ckpt")
    other = write_mean(tmp_path / "other.ckpt", factor=3.0)
    wide = tmp_path / "wide.npz"
    np.savez(wide, X=np.ones((4, 7), np.float32), bag_index=[0, 0, 1, 2], y=[0, 1, 0])
    more = write_bags(tmp_path / "bags.npz", count=BAGS + 2)
    (tmp_path / "changed").mkdir()
    changed = write_bags(tmp_path / "changed/bags.npz", count=BAGS, seed=1)
    base = (*base[:4], "--cells", table)
    for words, told in (
        ((*base, "--corruptions", "misssing"), "'misssing'; did you mean missing_instances? Shif"),
        ((*base, "--corruptions", "fog"), "fog corrupts images; shifts of bags are feature_noise,"),
        ((*base, "--corruptions", "stain"), "stain shifts patches; give them by --patches DIR"),
        ((*base, "--severities", 0), "a severity is 1, 2, 3, 4 or 5, got 0"),
        ((*base, "--annotations", data), "--annotations is for images and has no effect with --d"),
        ((*base, "--exact"), "--exact is for images"),
        ((*base, "--no-tta"), "--tta is for images"),
        ((*base, "--batch-size", 2), "--batch-size is for images"),
        ((*base, "--bad-data", "repair"), "--bad-data repair mends annotations"),
        ((*base, "--encoder", "a.b"), "--encoder encodes --patches; give both"),
        (("--ckpt", ckpt, "--annotations", data), "which predicts bags: give --data FILE in place"),
        (("--ckpt", ckpt, "--annotations", data, "--patches", tmp_path), "--patches is for bags"),
        (("--ckpt", ckpt), "--ckpt needs --annotations, the COCO ground truth, or --data"),
        (("--cells", table, "--data", data), "--data is for evaluating checkpoints; give --ckpt"),
        (("--ckpt", ckpt, twin, *base[2:]), "two checkpoints have the name mean: "),
        ((*base, "--reference", "maen"), "--reference maen: no such model; there are mean"),
        (("--ckpt", tmp_path / "no.ckpt", *base[2:]), "no.ckpt: no such file"),
        (("--ckpt", ckpt, "--data", tmp_path / "no.npz"), "no.npz: no such file; name bags"),
        (("--ckpt", ckpt, "--data", wide), "bags have 7 features, the checkpoint was trained on 4"),
        (("--ckpt", ckpt, "--data", more, "--cells", table), "data was"),
        (("--ckpt", ckpt, "--data", changed, "--cells", table), "data was"),
        ((*base, "--seed", 1), "seed was 0 and is 1"),
        (("--ckpt", other, *base[2:], "--names", "mean"), "the checkpoint of mean was"),
        ((*base[:4], "--cells", data), "is the file of --data and would replace it"),
    ):  # fmt: skip
        assert run(*words) == 2, words
        shown = capsys.readouterr()
        assert told in shown.err, (words, shown.err)
        assert "Traceback" not in shown.err
    assert MeanFeatures.predicted == []
    assert table.read_bytes() == before


def test_models_that_score_different_bags_are_refused(folder, tmp_path, capsys):
    """One was trained on the file, of which it scores the test split."""
    data = folder / "bags.npz"
    own = write_mean(tmp_path / "own.ckpt")
    content = torch.load(own, weights_only=True)
    content["segmil"]["blueprint"]["data"]["init_args"] = {"file": str(data), "standardise": True}
    torch.save(content, own)
    assert run("--ckpt", folder / "mean.ckpt", own, "--data", data) == 2
    told = capsys.readouterr().err
    assert f"mean scores {BAGS} bags of it and own 8, not the same ones" in told
    assert MeanFeatures.predicted == []


def kept(cells):
    """Return the predictions beside a table by their paths."""
    folder = kept_folder(cells)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.slow
def test_a_killed_evaluation_continues(folder, base, tmp_path):
    """Killed after some cells, it repeats none; table, predictions and intervals are the same."""
    cells, whole, out = tmp_path / "cells.csv", tmp_path / "whole.csv", tmp_path / "o.json"
    words = [str(word) for word in (*base[:4], "--cells", cells, "--out", out)]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(ROOT / "evaluate.py"), "robustness", *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not (cells.exists() and len(values(cells)) > 6 * 4):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    text, done = cells.read_text(), len({place[:2] for place in values(cells)})
    total = 1 + 5 * len(SHIFTS)
    assert 4 < done < total
    assert done <= len(kept(cells)) <= done + 2  # perhaps the next one, and an unfinished file
    assert run(*words) == 0
    assert len(MeanFeatures.predicted) == (total - done) * BAGS
    continued = json.loads(out.read_text())
    assert run(*base[:4], "--cells", whole, "--out", out) == 0
    assert whole.read_text().startswith(text)
    assert whole.read_bytes() == cells.read_bytes()
    assert kept(whole) == kept(cells)
    assert len(kept(whole)) == total
    assert continued["intervals"] == json.loads(out.read_text())["intervals"]
    low, high = continued["intervals"]["mean"]["bag_auroc_rpc"]
    assert low < continued["metrics"]["mean"]["bag_auroc_rpc"] < high


@pytest.mark.slow
def test_a_trained_model_on_its_recipe(tmp_path):
    """ABMIL on digit bags: units of its training, a recipe as data, scores that fall."""
    recipe = yaml.safe_load((ROOT / "configs/quickstart/abmil.yaml").read_text())
    recipe["data"]["init_args"] |= {"train_bags": 60, "val_bags": 40, "test_bags": 60}
    recipe["callbacks"] = {}
    recipe["trainer"]["max_epochs"] = 8
    recipe["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.01
    path = tmp_path / "abmil.yaml"
    path.write_text(yaml.safe_dump(recipe))
    quiet = ("--config", str(path), "--runs_dir", str(tmp_path / "runs"))
    assert train.main(["fit", *quiet]) == 0
    ckpt = tmp_path / "runs/abmil/version_0/checkpoints/best.ckpt"
    out = tmp_path / "o.json"
    shifts = ("--corruptions", "feature_noise", "missing_instances", "--severities", 1, 5)
    assert run("--ckpt", ckpt, "--data", path, *shifts, "--out", out) == 0
    record = json.loads(out.read_text())
    assert record["table"] == str(tmp_path / "runs/abmil/version_0/robustness.csv")
    cells, expected = record["cells"]["abmil"], mil(tmp_path, "--ckpt", ckpt, "--data", path)
    assert cells["clean"]["0"]["bag_auroc"] == expected["bag_auroc"]
    for name in ("feature_noise", "missing_instances"):
        assert cells[name]["5"]["bag_auroc"] < cells["clean"]["0"]["bag_auroc"] - 0.05
    assert "those of the training bags" in record["notes"][-1]


@pytest.mark.slow
def test_times_have_their_metrics(tmp_path):
    data, path = write_npz(tmp_path / "cox.npz", "cox"), tmp_path / "cox.yaml"
    path.write_text(yaml.safe_dump(npz_recipe("cox")))
    words = ("--config", path, "--data.file", data, "--runs_dir", tmp_path / "runs")
    assert train.main(["fit", *map(str, words)]) == 0
    ckpt, out = tmp_path / "runs/cox/version_0/checkpoints/best.ckpt", tmp_path / "o.json"
    assert run("--ckpt", ckpt, "--data", data, "--severities", 1, "--out", out) == 0
    record = json.loads(out.read_text())
    clean = record["cells"]["cox"]["clean"]["0"]
    expected = mil(tmp_path, "--ckpt", ckpt, "--data", data)
    assert clean == {n: v for n, v in expected.items() if n in clean}
    assert "bag_c_index" in clean
    assert "those of the standardisation of the checkpoint" in record["notes"][-1]
    assert any("no intervals, because the event has 7 patients" in n for n in record["notes"])
