"""Bags of a report, from trainings."""

import json
import shutil

import pytest

import evaluate
import evaluation.report.html
import train
from datamodules.mil.digit_bags import DigitBagsDataModule

DATA = ("--data.train_bags", "20", "--data.val_bags", "12", "--data.test_bags")
LOADERS = "test_dataloader", "val_dataloader"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train ABMIL for an epoch; returns the run folder."""
    root = tmp_path_factory.mktemp("runs")
    words = ["fit", "--config", "configs/quickstart/abmil.yaml", *DATA, "30"]
    words += ["--trainer.max_epochs", "1", "--name", "bags", "--runs_dir", str(root)]
    assert train.main(words) == 0
    return root / "bags" / "version_0"


@pytest.fixture
def pages(monkeypatch):
    found = []
    monkeypatch.setattr(
        evaluation.report.html, "render_page", lambda page: found.append(page) or "<html>"
    )
    return found


@pytest.fixture
def loaded(monkeypatch):
    """Return the names of the loaders of bags that are asked for."""
    names = []
    for name in LOADERS:
        made = getattr(DigitBagsDataModule, name)
        monkeypatch.setattr(
            DigitBagsDataModule, name, lambda self, n=name, m=made: names.append(n) or m(self)
        )
    return names


def report(*words):
    return evaluate.main(["report", *map(str, words), "--draws", "10", "--gallery", "4"])


@pytest.mark.slow
def test_the_test_split_is_predicted_once(run, pages, loaded, tmp_path):
    out, mil = tmp_path / "report.json", tmp_path / "mil.json"
    assert report("--run", run, "--out", out) == 0
    assert loaded == ["test_dataloader"]
    assert report("--run", run) == 0
    assert loaded == ["test_dataloader"]
    record = json.loads(out.read_text())
    recipe = tmp_path / "data.yaml"
    recipe.write_text(
        "data: {class_path: datamodules.mil.digit_bags.DigitBagsDataModule, "
        "init_args: {train_bags: 20, val_bags: 12, test_bags: 30}}"
    )
    words = ["mil", "--ckpt", run / "checkpoints" / "best.ckpt", "--data", recipe]
    assert evaluate.main([*map(str, words), "--draws", "10", "--out", str(mil)]) == 0
    wanted = json.loads(mil.read_text())
    assert record["metrics"] == pytest.approx(wanted["metrics"])
    assert record["intervals"] == wanted["intervals"]
    page = pages[0]
    assert page.classes == ("without 9", "with 9")
    assert page.runs[0].count == 30
    assert page.runs[0].best_epoch == page.runs[0].last_epoch == 0
    assert all(one.file for bag in page.attention for one in bag.instances[0])
    assert len(page.attention) >= 4


@pytest.mark.slow
def test_named_bags_are_predicted_and_a_test_is_found_by_its_training(run, pages, loaded, tmp_path):
    copy = tmp_path / "bags" / "version_0"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report*"))
    recipe = tmp_path / "data.yaml"
    recipe.write_text(
        "data: {class_path: datamodules.mil.digit_bags.DigitBagsDataModule, "
        "init_args: {train_bags: 20, val_bags: 12, test_bags: 40, bag_seed: 3}}"
    )
    assert report("--run", copy, "--data", recipe) == 0
    assert pages[0].runs[0].count == 40
    words = ["test", "--config", copy / "config.yaml", "--runs_dir", tmp_path, "--name", "tested"]
    checkpoint = copy / "checkpoints" / "best.ckpt"
    assert train.main([*map(str, words), "--ckpt_path", str(checkpoint)]) == 0
    assert report("--run", tmp_path / "tested" / "version_0", copy) == 0
    page = pages[-1]
    assert page.compare[0].rows[0][3].value == 0
    assert page.runs[0].last_epoch == page.runs[1].last_epoch == 0
    assert len(page.training[0].lines) >= 2
    assert page.classes == ("without 9", "with 9")


@pytest.mark.slow
def test_without_test_bags_the_validation_bags_are_shown(run, pages, loaded, monkeypatch, tmp_path):
    copy = tmp_path / "bags" / "version_0"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report*"))
    numbers = DigitBagsDataModule.numbers
    monkeypatch.setattr(
        DigitBagsDataModule, "numbers", lambda self, s: [] if s == "test" else numbers(self, s)
    )
    assert report("--run", copy) == 0
    assert loaded == ["val_dataloader"]
    facts = pages[0].runs[0]
    assert (facts.split, facts.count) == ("validation", 12)
    assert pages[0].attention[0].instances[0][0].file
    assert {path.name for path in (copy / "report").glob("*/*")} == {"bags.csv", "attention.csv"}
