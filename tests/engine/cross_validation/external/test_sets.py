"""External sets against the checkpoints of the folds, and what is refused before training."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import evaluate
from engine.cross_validation import workers
from engine.deploy.bags import predict_bags
from evaluation.mil.scores import evaluate_bags
from evaluation.statistics.bootstrap import bootstrap_intervals
from tests.engine.conftest import RECIPE


def write_bags(path, seed, count=40, shift=0.0, width=3, **changes):
    """Bags of patients of two, whose first feature tells the class; ``seed`` names patients."""
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(count // 2), 2)
    sizes, labels = random.integers(1, 5, count), patient % 2
    features = random.normal(size=(sizes.sum(), width)) + shift
    features[:, 0] += np.repeat(1.5 * labels, sizes)
    arrays = {
        "X": features, "bag_index": np.repeat(np.arange(count), sizes), "y": labels,
        "groups": np.char.add(f"{seed}p", patient.astype(str)),
    }  # fmt: skip
    changed = {k: v for k, v in (arrays | changes).items() if v is not None}
    np.savez(path, **changed)
    return path


def run(*words):
    return evaluate.main([str(word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("external")
    recipe = yaml.safe_load(yaml.safe_dump(RECIPE))
    recipe["model"]["init_args"]["threshold"] = "youden"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_bags(folder / "bags.npz", 0)
    (folder / "there").mkdir()
    write_bags(folder / "other.npz", 1, 48, shift=2.0)
    write_bags(folder / "there" / "other.npz", 2, 24)
    return folder


def at_fold(entry, number):
    return {name: summary["folds"][number] for name, summary in entry["metrics"].items()}


def words(place, *more):
    base = ["mil-cv", "--config", place / "recipe.yaml", "--data", place / "bags.npz"]
    return [*base, "--folds", 2, "--repeats", 2, "--trainer.devices", 1, *more]


@pytest.fixture(scope="module")
def found(place):
    sets = ["--external", place / "other.npz", place / "there" / "other.npz"]
    more = ["--save-checkpoints", place / "weights", "--save-external", place / "sets"]
    assert run(*words(place, *sets, *more, "--out", place / "cv.json")) == 0
    return json.loads((place / "cv.json").read_text())["external"]


@pytest.mark.slow
def test_models_are_the_checkpoints_and_the_ensemble_is_their_mean(place, found):
    assert list(found) == [str(place / "other.npz"), str(place / "there" / "other.npz")]
    places = [(r, k) for r in range(2) for k in range(2)]
    for name, entry in found.items():
        file, weights = Path(name), place / "weights"
        alone = [predict_bags(weights / f"repeat{r}_fold{k}.ckpt", file) for r, k in places]
        assert len({one.threshold for one in alone}) > 1
        for number, one in enumerate(alone):
            scores = one.scores
            own = evaluate_bags(scores.labels, scores.probabilities, "binary", one.threshold)
            assert own == pytest.approx(at_fold(entry, number))
        mean = np.mean([one.scores.probabilities for one in alone], axis=0)
        threshold = np.mean([one.threshold for one in alone])
        labels, ensemble = alone[0].scores.labels, entry["ensemble"]
        assert ensemble["threshold"] == pytest.approx(threshold)
        wanted = evaluate_bags(labels, mean, "binary", threshold)
        assert ensemble["metrics"] == pytest.approx(wanted)
        if len(labels) == 24:  # 6 patients of each class
            assert ensemble["intervals"]["bag_auroc"] == [None, None] and ensemble["notes"]
            continue
        groups = alone[0].scores.groups
        intervals = bootstrap_intervals(labels, mean, "binary", threshold, groups=groups)
        for metric, interval in intervals.items():
            assert ensemble["intervals"][metric] == pytest.approx(interval)
        assert entry["metrics"]["bag_auroc"]["mean"] > 0.6


def test_tables_of_the_ensemble_give_its_numbers(place, found, tmp_path):
    files = ("other_bags.csv", "other_2_bags.csv")
    assert sorted(file.name for file in (place / "sets").iterdir()) == sorted(files)
    for file, entry in zip(files, found.values(), strict=True):
        table = place / "sets" / file
        assert run("mil", "--predictions", table, "--out", tmp_path / "one.json") == 0
        alone = json.loads((tmp_path / "one.json").read_text())
        assert alone["metrics"] == entry["ensemble"]["metrics"]
        assert alone["intervals"] == entry["ensemble"]["intervals"]


class Killed(BaseException):
    """Not an Exception, so that nothing handles it."""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_external_predictions(place, tmp_path, monkeypatch, capsys):
    out, trained, run_fold = tmp_path / "cv.json", [], workers.run_fold
    base = words(place, "--one-by-one", "--out")
    more = ["--external", place / "other.npz"]
    assert run(*base, tmp_path / "whole.json", *more) == 0

    def stops(*arguments):
        if len(trained) == 2:
            trained.append(None)
            raise Killed
        trained.append(arguments[3])
        return run_fold(*arguments)

    monkeypatch.setattr(workers, "run_fold", stops)
    with pytest.raises(Killed):
        run(*base, out, *more)
    assert run(*base, out) == 2  # without the set
    assert "external" in capsys.readouterr().err
    assert run(*base, out, *more) == 0 and len(trained) == 5
    again, whole = (json.loads(p.read_text()) for p in (out, tmp_path / "whole.json"))
    assert again["external"] == whole["external"] and again["metrics"] == whole["metrics"]


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        ({"width": 5}, [], "bags have 5 features, those of"),
        ({"y": None}, [], "no labels, so that they cannot be scored"),
        ({"y": np.arange(30) % 3}, [], "y"),
        ({"groups": np.repeat(["0p3", "0p17", "x"], 10)}, [], "2 patients are also among the bags"),
        ({"X": "same"}, [], "bags are also among"),
        ({}, ["--save-external", "HERE"], "would replace the input"),
        ({}, ["--external", "other_bags.npz"], "twice; name each set once"),
        ({}, ["--external", "none.npz"], "none.npz: no such file"),
        ({}, ["--external", "slides.csv"], "is a table of slides, and --data"),
        ({}, ["--external", "slides.csv:nowhere"], "no folder nowhere; name the folder"),
    ],
)
def test_what_is_refused_before_training(place, tmp_path, monkeypatch, capsys, changes, more, said):
    monkeypatch.setattr(workers, "run_folds", lambda *_: pytest.fail("something was trained"))
    if "X" in changes:
        bags = dict(np.load(place / "bags.npz"))
        del bags["groups"]
        path = tmp_path / "other_bags.npz"
        np.savez(path, **bags)
    else:
        path = write_bags(tmp_path / "other_bags.npz", 3, 30, **changes)
    (tmp_path / "slides.csv").write_text("slide_id,label\n")
    if "HERE" in more:
        path.rename(tmp_path / "x_bags.csv")  # what would be written for x.npz
        path = write_bags(tmp_path / "x.npz", 3, 30)
        (tmp_path / "x_bags.csv").unlink()
        (tmp_path / "x_bags.csv").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    more = [str(tmp_path) if word == "HERE" else word for word in more]
    assert run(*words(place, "--external", path, *more, "--out", "cv.json")) == 2
    error = capsys.readouterr().err
    assert said in error
    assert not (tmp_path / "cv.json").exists()


def test_shared_patients_are_named_or_accepted(place, tmp_path, capsys):
    path = write_bags(tmp_path / "mine.npz", 0, 20)
    base = words(place, "--external", path, "--trainer.max_steps", 2)
    assert run(*base) == 2
    assert "0p0, 0p1, 0p2, 0p3, 0p4 and 5 more. Scores on what was" in capsys.readouterr().err
    assert run(*base, "--allow-overlap") == 0
    assert "20 bags, 4 models" in capsys.readouterr().out
    assert run(*words(place, "--allow-overlap")) == 2
    assert "--allow-overlap has an effect with --external alone" in capsys.readouterr().err


def test_a_checkpoint_refuses_what_it_was_trained_on(place, found, tmp_path, capsys):
    checkpoint = place / "weights" / "repeat0_fold0.ckpt"
    base = ["mil", "--ckpt", checkpoint, "--draws", 2, "--data"]
    assert run(*base, place / "bags.npz") == 0  # its own test fold
    path = write_bags(tmp_path / "mine.npz", 0, 20)
    assert run(*base, path) == 2
    error = capsys.readouterr().err
    assert "patients are also among the training bags of" in error and str(checkpoint) in error
    assert run(*base, path, "--allow-overlap") == 0
    assert run("mil", "--predictions", place / "sets/other_bags.csv", "--allow-overlap") == 2
    assert "--allow-overlap has an effect with --ckpt or --calibrate" in capsys.readouterr().err


@pytest.mark.slow
def test_slides_with_features_elsewhere(config, write_slides, tmp_path, capsys):
    kind = "datamodules.mil.features.FeatureBagsDataModule"
    data = {"class_path": kind, "init_args": {"batch_size": 4}}
    recipe = config(("data", data), ("trainer", {"max_steps": 3}))
    table = write_slides(16, label=["benign", "tumour"] * 8)
    other = write_slides(
        12, name="b", label=["tumour", "benign"] * 6, patient_id=[f"q{k // 3}" for k in range(12)]
    )
    (other.parent / "features").rename(tmp_path / "elsewhere")
    base = ["mil-cv", "--config", recipe, "--data", table, "--folds", 2, "--repeats", 1]
    base += ["--trainer.devices", 1, "--trainer.accelerator", "cpu"]
    name = f"{other}:{tmp_path / 'elsewhere'}"
    more = ["--save-checkpoints", tmp_path / "w", "--out", tmp_path / "cv.json"]
    assert run(*base, "--external", name, *more) == 0
    entry = json.loads((tmp_path / "cv.json").read_text())["external"][str(other)]
    alone = predict_bags(tmp_path / "w/repeat0_fold1.ckpt", other, tmp_path / "elsewhere")
    assert alone.scores.labels.tolist() == [1, 0] * 6
    own = evaluate_bags(alone.scores.labels, alone.scores.probabilities, "binary")
    assert own == pytest.approx(at_fold(entry, 1))
    clash = write_slides(12, name="c", label=["tumour", "benign"] * 6)
    assert run(*base, "--external", clash) == 2
    assert "slides.csv: 6 patients are also among the bags of" in capsys.readouterr().err
    wrong = write_slides(12, name="d", label=["tumour", "other"] * 6, patient_id=None)
    assert run(*base, "--external", wrong) == 2
    assert "'other' is not one of the 2 classes" in capsys.readouterr().err
