"""`evaluate.py mil-cv --runs`: runs of `train.py fit --data.fold K` put together."""

import csv
import json
import shutil

import pytest
import torch

import evaluate
import train


@pytest.fixture
def folds(config, bag_file, tmp_path):
    """Cross-validate, and return the record and run folders with the folds' checkpoints."""
    recipe, place, out = config(), tmp_path / "weights", tmp_path / "cv.json"
    words = ["mil-cv", "--config", str(recipe), "--data", str(bag_file), "--folds", "3"]
    words += ["--repeats", "2", "--out", str(out), "--save-checkpoints", str(place)]
    words += ["--save-predictions", str(tmp_path / "cv.csv"), "--trainer.devices", "1"]
    assert evaluate.main(words) == 0
    runs = []
    for file in sorted(place.iterdir()):
        runs.append(tmp_path / "runs" / file.stem)
        (runs[-1] / "checkpoints").mkdir(parents=True)
        shutil.copy(file, runs[-1] / "checkpoints" / "last.ckpt")
    return json.loads(out.read_text()), runs


def command(runs, *words):
    return ["mil-cv", "--runs", *map(str, runs), *map(str, words)]


def rows_of(table):
    with table.open() as stream:
        return list(csv.DictReader(stream))


def test_they_give_the_json_of_the_cross_validation(folds, tmp_path):
    whole, runs = folds
    out, table = tmp_path / "runs.json", tmp_path / "runs.csv"
    words = command([*runs[3:], *runs[:3]], "--out", out, "--save-predictions", table)
    assert evaluate.main(words) == 0
    found = json.loads(out.read_text())
    assert set(found) == set(whole)
    assert found["metrics"] == whole["metrics"]
    assert found["training"] == "folds trained by fit"
    assert found["protocol"].startswith("6 folds in 2 repeats (runs of fit)")
    for ours, theirs in zip(rows_of(table), rows_of(tmp_path / "cv.csv"), strict=True):
        assert float(ours.pop("score")) == pytest.approx(float(theirs.pop("score")), abs=1e-6)
        assert ours == theirs


def changed(run, change):
    file = run / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    change(content["segmil"]["blueprint"])
    torch.save(content, file)
    return run


def test_runs_that_make_no_cross_validation_are_refused(folds, tmp_path, capsys):
    _, runs = folds

    def refused(words):
        assert evaluate.main(words) == 2
        return capsys.readouterr().err

    assert "no run of repeat 0, fold 1" in refused(command([*runs[:1], *runs[2:]]))
    assert "bags are in none of the 4 runs, which are of folds 0, 1" in refused(
        command([*runs[:2], *runs[3:5]])
    )
    assert "are both of repeat 0, fold 2" in refused(command([*runs, runs[2]]))
    assert "no such folder; --runs takes run folders" in refused(command([tmp_path / "absent"]))
    assert "has no checkpoints/best.ckpt" in refused(command(runs, "--select", "best"))
    for words, flag in (
        (["--folds", "3"], "--folds"), (["--one-by-one"], "--one-by-one"),
        (["--seed", 0], "--seed"),
        (["--trainer.max_epochs", 3], "--trainer.max_epochs"), (["--wandb", "p"], "--wandb"),
        (["--save-checkpoints", tmp_path / "x"], "--save-checkpoints"),
    ):  # fmt: skip
        assert f"{flag} has no effect on --runs" in refused(command(runs, *words))
    other = changed(runs[1], lambda b: b["data"]["init_args"].update(batch_size=7))
    message = refused(command(runs))
    assert f"{other} was trained with other settings" in message and "batch_size: 4 -> 7" in message
    changed(runs[1], lambda b: b["data"]["init_args"].update(fold=None))
    assert "was not trained with a test fold" in refused(command(runs))


@pytest.mark.slow
def test_runs_of_fit(config, bag_file, tmp_path):
    recipe, runs = config(("checkpoint", {"monitor": "val/bag_auroc"})), []
    for fold in range(3):
        words = ["fit", "--config", str(recipe), "--data.file", str(bag_file), "--name", f"f{fold}"]
        words += ["--data.num_folds", "3", "--data.fold", str(fold), "--runs_dir", str(tmp_path)]
        words += ["--callbacks", "{attention: false, confusion: false, curves: false}"]
        assert train.main(words) == 0
        runs.append(tmp_path / f"f{fold}" / "version_0")
    out, table = tmp_path / "cv.json", tmp_path / "cv.csv"
    words = command(runs, "--select", "best", "--out", out, "--save-predictions", table)
    assert evaluate.main(words) == 0
    found = json.loads(out.read_text())
    assert found["protocol"] == (
        "3 folds in 1 repeats (runs of fit), 30 steps each, best val/bag_auroc"
    )
    rows = rows_of(table)
    assert len({row["bag_id"] for row in rows}) == len(rows) == 30
    score = ["mil", "--ckpt", str(runs[1] / "checkpoints/best.ckpt"), "--data", str(bag_file)]
    assert evaluate.main([*score, "--draws", "2", "--out", str(tmp_path / "one.json")]) == 0
    alone = json.loads((tmp_path / "one.json").read_text())
    for name, value in alone["metrics"].items():
        assert found["metrics"][name]["folds"][1] == value
