"""The table of the classic sets: the floor by hand, cells run once, what was published."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from benchmarks.mil import classic
from benchmarks.mil.classic import Cell
from benchmarks.mil.classic_floor import cross_validate_floor, pooled_bags
from datamodules.mil.npz_file import BagFile

ROOT = Path(__file__).resolve().parents[3]


def bags_of(count=40, seed=0):
    random = np.random.default_rng(seed)
    sizes, labels = random.integers(1, 6, count), np.arange(count) % 2
    features = random.normal(size=(sizes.sum(), 3)).astype(np.float32)
    features += 1.5 * np.repeat(labels, sizes)[:, None] * [1.0, 0.5, 0.0]
    features[:, 2] = 7.0  # a feature that does not vary
    folds = np.stack([random.permutation(np.arange(count) % 10) for _ in range(2)])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return BagFile(Path("made.npz"), features.astype(np.float32), offsets, labels, folds, ())


def test_pools_are_those_of_each_bag():
    bags = bags_of()
    parts = np.split(bags.features.astype(np.float64), bags.offsets[1:-1])
    expected = [np.stack([f(part, axis=0) for part in parts]) for f in (np.mean, np.max, np.min)]
    for pool, values in zip(("mean", "max", "min"), expected, strict=True):
        np.testing.assert_allclose(pooled_bags(bags, pool), values, rtol=1e-12)
    np.testing.assert_allclose(pooled_bags(bags, "all"), np.hstack(expected), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("SVM", SVC(C=1.0, kernel="rbf", gamma="scale")),
        ("logistic regression", LogisticRegression()),
    ],
)
def test_the_floor_is_fitted_on_training_bags_alone(name, model):
    bags, accuracies = bags_of(), []
    vectors = pooled_bags(bags, "max")
    for row in bags.published_folds:
        for fold in range(10):
            train = row != fold
            mean, std = vectors[train].mean(0), vectors[train].std(0)
            scaled = (vectors - mean) / np.where(std > 0, std, 1.0)
            model.fit(scaled[train], bags.labels[train])
            accuracies.append(np.mean(model.predict(scaled[~train]) == bags.labels[~train]))
    found = cross_validate_floor(bags, "max", name)["bag_accuracy"]
    np.testing.assert_allclose(found["folds"], accuracies, atol=1e-12)
    assert 0.6 < found["mean"] < 1


def test_cells_are_run_once_and_their_settings_decide(tmp_path, monkeypatch, capsys):
    bags = bags_of()
    np.savez(
        tmp_path / "musk1.npz", X=bags.features, bag_index=np.repeat(np.arange(40), bags.sizes),
        y=bags.labels, cv_fold=bags.published_folds[:1],
    )  # fmt: skip
    results, names = tmp_path / "results", ["musk1/mean, SVM", "musk1/DSMIL"]
    monkeypatch.setattr(Cell, "settings", property(lambda cell: settings[cell.learner]))
    settings = {
        "mean, SVM": ["C=1"],
        "DSMIL": ["configs/mil/dsmil_classic.yaml", "--trainer.max_epochs", "1"],
    }
    words = ["x", "--data", str(tmp_path), "--results", str(results), "--workers", "1"]
    for name in names:
        words += ["--only", name]

    def run(*more):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        assert classic.main() == 0
        return capsys.readouterr()

    assert "not run" in run("--print").out
    first = run()
    assert "2 of 2: musk1/DSMIL" in first.err and "2 of 2 cells" in first.out
    record = json.loads((results / "musk1_DSMIL.json").read_text())
    mean = record["metrics"]["bag_accuracy"]["mean"]
    assert f"| DSMIL | {mean:.3f}".replace("0.", ".") in first.out
    assert record["protocol"].startswith("10 folds in 1 repeats (published), 1 epochs")
    assert record["training"] == "folds trained together"
    again = run()
    assert again.err == "" and again.out == first.out
    settings["DSMIL"] = [*settings["DSMIL"], "--data.batch_size", "2"]
    assert "| DSMIL | not run |" in run("--print").out
    assert "1 of 1: musk1/DSMIL" in run().err


def test_a_cell_that_fails_is_told_and_the_others_run(tmp_path, monkeypatch, capsys):
    bags = bags_of()
    index = np.repeat(np.arange(40), bags.sizes)
    np.savez(tmp_path / "musk1.npz", X=bags.features, bag_index=index, y=bags.labels)
    words = ["x", "--data", str(tmp_path), "--results", str(tmp_path / "r"), "--workers", "1"]
    words += ["--only", "fox/min, SVM", "--only", "musk1/min, SVM"]
    monkeypatch.setattr(sys, "argv", words)
    assert classic.main() == 1
    told = capsys.readouterr()
    assert "fox/min, SVM, failed: DataProblems: " in told.err and "no such file" in told.err
    assert "1 of 2 cells" in told.out


def test_published_values_are_laid_over_the_recipes():
    """Learning rate and L2 factor of each set; the recipes have those of musk1."""
    for name, rate, factor in (("fox", 1e-4, 0.01), ("musk2", 5e-4, 0.03), ("musk1", 5e-4, 0.005)):
        for learner in ("mi-Net", "gated ABMIL"):
            words = Cell(name, learner).settings
            assert float(words[words.index("--model.optimizer.lr") + 1]) == rate
            assert float(words[words.index("--model.optimizer.weight_decay") + 1]) == 2 * factor
    for learner in ("mi-Net", "MI-Net", "ABMIL"):
        recipe, *words = Cell("musk1", learner).settings
        optimizer = yaml.safe_load((ROOT / recipe).read_text())["model"]["init_args"]["optimizer"]
        assert optimizer["init_args"]["lr"] == float(words[1])
        assert optimizer["init_args"]["weight_decay"] == float(words[3])
    assert Cell("fox", "DSMIL").settings == ["configs/mil/dsmil_classic.yaml"]
    assert Cell("corel_dogs", "DSMIL").settings[1:] == ["--trainer.max_epochs", "4"]
    assert all(len(row) == 5 for row in classic.PUBLISHED.values())
