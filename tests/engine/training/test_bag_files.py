"""Training on bags of a file and applying the checkpoint to other files, as a user does."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml

import evaluate
import train
from engine.checkpoints.restore import restore

RECIPE = {
    "model": {
        "class_path": "lightning_modules.mil.MILModule",
        "init_args": {
            "model": {
                "class_path": "models.mil.abmil.ABMIL",
                "init_args": {"hidden_sizes": [8], "attention_dim": 4},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01}},
        },
    },
    "trainer": {
        "max_epochs": 2, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "checkpoint": {"monitor": "val/bag_auroc"},
}  # fmt: skip


@pytest.fixture
def fit(tmp_path):
    """Return a function that trains and returns the run folder."""

    def run(kind, name, **arguments):
        data = {"class_path": f"datamodules.mil.{kind}", "init_args": arguments}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(RECIPE | {"data": data}))
        argv = ["fit", "--config", str(path), "--runs_dir", str(tmp_path / "runs"), "--debug"]
        assert train.main(argv) == 0
        return tmp_path / "runs" / name / "version_0"

    return run


@pytest.fixture
def score(tmp_path, capsys):
    """Return a function that runs `evaluate.py mil` and returns its JSON, or its error."""

    def run(checkpoint, data, *more):
        out = tmp_path / "out.json"
        argv = ["mil", "--ckpt", checkpoint, "--data", data, "--draws", 10, "--out", out, *more]
        argv.append("--allow-overlap")  # files of one seed begin with the same bags
        code = evaluate.main([str(word) for word in argv])
        said = capsys.readouterr()
        return said.err if code == 2 else json.loads(out.read_text())

    return run


@pytest.fixture
def predict(tmp_path):
    """Return a function that runs `train.py predict` and returns the rows of bags.csv."""

    def run(checkpoint, data, *more):
        argv = ["predict", "--ckpt_path", checkpoint, "--data", data, "--runs_dir", tmp_path / "p"]
        argv += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *more]
        assert train.main([str(word) for word in argv]) == 0
        folder = max((tmp_path / "p" / "predict").iterdir(), key=lambda p: p.stat().st_mtime)
        with (folder / "predictions" / "bags.csv").open() as stream:
            return list(csv.DictReader(stream))

    return run


def expected_score(checkpoint, bag):
    with torch.no_grad():
        bag = bag.in_single_precision()
        return restore(checkpoint).module.network(bag).probabilities("binary").item()


@pytest.mark.slow
def test_slides_from_training_to_prediction(write_slides, fit, score, predict, tmp_path):
    table = write_slides(32, label=["neg", "pos"] * 16)
    run = fit(
        "features.FeatureBagsDataModule", "slides", table=str(table), batch_size=4,
        eval_batch_size=3, token_budget=16, max_instances=5,
        sampler="class_balanced", fold=1, num_folds=4,
    )  # fmt: skip
    with (run / "splits.csv").open() as stream:
        split = {row["slide_id"]: row["split"] for row in csv.DictReader(stream)}
    assert len(split) == 32 and list(split.values()).count("test") == 8
    checkpoint = run / "checkpoints" / "last.ckpt"

    own = score(checkpoint, table)  # the test split of this very table
    assert [b["bag_id"] for b in own["bags"]] == [s for s, part in split.items() if part == "test"]
    from datamodules.mil.feature_set import FeatureSet

    bags = FeatureSet(table)
    by_hand = {bags.bag_ids[b]: expected_score(checkpoint, bags.bag(b)) for b in range(32)}
    for row in own["bags"]:
        assert row["score"] == pytest.approx(by_hand[row["bag_id"]], abs=1e-6)

    other = write_slides(32, name="other", label=["pos"] * 32)  # the same features, one class
    whole = score(checkpoint, other)
    assert len(whole["bags"]) == 32 and {b["label"] for b in whole["bags"]} == {1}
    unlabelled = write_slides(32, name="unlabelled", label=None)
    assert "have no labels, so they cannot be scored" in score(checkpoint, unlabelled)
    rows = predict(checkpoint, unlabelled)
    assert list(rows[0]) == ["bag_id", "label", "score", "patient_id", "prediction", "threshold"]
    assert {row["label"] for row in rows} == {""} and rows[5]["patient_id"] == "p1_1"
    for row, scored in zip(rows, whole["bags"], strict=True):
        assert float(row["score"]) == scored["score"]
        assert float(row["score"]) == pytest.approx(by_hand[row["bag_id"]], abs=1e-6)

    (other.parent / "features").rename(tmp_path / "elsewhere")
    assert score(checkpoint, other, "--features", tmp_path / "elsewhere")["bags"] == whole["bags"]
    assert score(checkpoint, other)["bags"] == whole["bags"]  # where the training's features lie
    assert "no such folder" in score(checkpoint, other, "--features", tmp_path / "nowhere")
    narrow = write_slides(8, name="narrow", width=3)
    assert "bags have 3 features, the checkpoint was trained on 4" in score(checkpoint, narrow)
    wrong = write_slides(8, name="wrong", label=["neg", "mixed"] * 4)
    assert "label 'mixed' is not one of the 2 classes, for example" in score(checkpoint, wrong)
    skipped = score(checkpoint, wrong, "--bad-data", "skip")
    assert len(skipped["bags"]) == 4 and sum(skipped["skipped"].values()) == 4


def npz(path, labels, width=3, **more):
    labels = np.asarray(labels)
    random = np.random.default_rng(0)
    arrays = {
        "X": random.normal(size=(labels.size * 2, width)) + labels.repeat(2)[:, None],
        "bag_index": np.arange(labels.size).repeat(2), "y": labels,
    } | more  # fmt: skip
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.slow
def test_three_classes_on_files_that_lack_some(fit, score, predict, write_slides, tmp_path):
    file = npz(tmp_path / "three.npz", np.arange(45) % 3)
    run = fit("npz.TabularBagsDataModule", "three", file=str(file), batch_size=4)
    checkpoint = run / "checkpoints" / "last.ckpt"
    with (run / "splits.csv").open() as stream:
        assert next(csv.reader(stream)) == ["bag_id", "patient_id", "label", "split"]
    patients = np.array([f"p{i // 2}" for i in range(10)])
    some = npz(tmp_path / "some.npz", np.arange(10) % 2 * 2, groups=patients)
    scored = score(checkpoint, some)
    assert [b["label"] for b in scored["bags"]] == [0, 2] * 5
    assert all(len(b["score"]) == 3 for b in scored["bags"])
    rows = predict(checkpoint, some)
    assert [row["patient_id"] for row in rows] == patients.tolist()
    assert [row["label"] for row in rows] == ["0", "2"] * 5
    columns = [[float(row[f"score_{c}"]) for c in range(3)] for row in rows]
    assert columns == [b["score"] for b in scored["bags"]]
    bare = npz(tmp_path / "bare.npz", np.arange(10) % 2 * 2, y=None)
    assert "have no labels, so they cannot be scored" in score(checkpoint, bare)
    unlabelled = predict(checkpoint, bare)
    assert {row["label"] for row in unlabelled} == {""} and "patient_id" not in unlabelled[0]
    assert [[float(r[f"score_{c}"]) for c in range(3)] for r in unlabelled] == columns
    four = npz(tmp_path / "four.npz", np.arange(8) % 4)
    assert "2 x label 3, for example bag 3; bag 7; use the classes 0 to 2" in score(
        checkpoint, four
    )
    slides = write_slides(6, width=3)
    assert "standardises the features of an npz file" in score(checkpoint, slides)


@pytest.mark.slow
def test_cross_validation_of_slides_by_the_command(write_slides, tmp_path, capsys):
    table = write_slides(24)
    recipe = RECIPE | {"data": {"class_path": "datamodules.mil.features.FeatureBagsDataModule"}}
    recipe["data"]["init_args"] = {"batch_size": 4, "bag": "patient"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    argv = ["mil-cv", "--config", "r.yaml", "--data", table, "--folds", 3, "--repeats", 1]
    argv[2] = tmp_path / "r.yaml"
    assert evaluate.main([str(w) for w in [*argv, "--out", tmp_path / "o.json"]]) == 2
    assert "enable_model_summary" in capsys.readouterr().err
    del recipe["trainer"]["enable_model_summary"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    assert evaluate.main([str(w) for w in [*argv, "--out", tmp_path / "o.json"]]) == 0
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["protocol"] == (
        "3 folds in 1 repeats (stratified, seed 0, by patient), 2 epochs each"
    )
    assert len(written["metrics"]["bag_auroc"]["folds"]) == 3 and written["skipped"] == {}
    published = write_slides(24, name="p", patient_id=None, fold=[0, 1, 2] * 8)
    argv[4] = published
    assert evaluate.main([str(w) for w in argv[:-2]]) == 0
    said = capsys.readouterr().out
    assert "published folds: --folds 3 is not used" in said
    assert "in 1 repeat(s): all of them are used" in said


@pytest.mark.slow
def test_faults_end_in_one_message(write_slides, tmp_path, capsys, caplog, monkeypatch):
    table = write_slides(16)
    values = np.load(table.parent / "features" / "s0.npy")
    values[1, 2] = np.nan
    for i in range(0, 16, 4):
        np.save(table.parent / "features" / f"s{i}.npy", values)
    data = {
        "class_path": "datamodules.mil.features.FeatureBagsDataModule",
        "init_args": {"table": str(table)},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE | {"data": data}))
    argv = ["fit", "--config", str(tmp_path / "r.yaml"), "--runs_dir", str(tmp_path / "runs")]
    message = "row 1: feature 2 is NaN, infinite or beyond float32; extract the slide again"
    joint = "4 x feature 2 is NaN, infinite or beyond float32, for example s0.npy, slide s0, row 1"
    assert train.main(argv) == 2  # before training
    assert f"features: {joint}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    monkeypatch.setattr("datamodules.mil.feature_set._VALUES_LIMIT", 0)
    assert train.main(argv) == 2  # found when the bag is read
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert train.main([*argv, "--data.num_workers", "1"]) == 2
    said = capsys.readouterr().err
    assert message in said.splitlines()[-1] and "Traceback" not in said
    assert train.main([*argv, "--data.bad_data", "skip"]) == 0
    assert f"slide s0, {message}" in caplog.text
    check = ["check-data", "--config", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "c.json")]
    assert evaluate.main(check) == 2
    found = json.loads((tmp_path / "c.json").read_text())
    assert [p["item"] for p in found["problems"]] == ["s0", "s4", "s8", "s12"]
    assert found["counts"]["train"]["features"] == 4
