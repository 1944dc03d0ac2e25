"""What labels of bags and instances become, from the file to the metrics, as a user runs it."""

import csv
import json
import logging

import h5py
import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

import evaluate
import train
from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from engine.checkpoints.restore import restore

PICTURES = ("curves", "confusion", "attention")
RECIPE = {
    "model": {
        "class_path": "lightning_modules.mil.MILModule",
        "init_args": {
            "model": {
                "class_path": "models.mil.abmil.ABMIL",
                "init_args": {"hidden_sizes": [8], "attention_dim": 4},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03}},
        },
    },
    "trainer": {
        "max_epochs": 3, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "checkpoint": {"monitor": "val/bag_auroc"},
    "callbacks": dict.fromkeys(PICTURES, False),
}  # fmt: skip
NPZ, SLIDES = "npz.TabularBagsDataModule", "features.FeatureBagsDataModule"


@pytest.fixture
def command(tmp_path):
    """Return a function that runs a command of `train.py` and returns the newest run folder."""

    def run(*words, name="run"):
        runs = tmp_path / "runs"
        argv = [
            *words,
            "--runs_dir",
            runs,
            "--trainer.enable_progress_bar",
            "false",
            "--name",
            name,
        ]
        assert train.main([str(word) for word in argv] + ["--debug"]) == 0
        return max((runs / name).iterdir(), key=lambda p: int(p.name.removeprefix("version_")))

    return run


@pytest.fixture
def fit(tmp_path, command):
    """Return a function that trains on a datamodule with arguments."""

    def run(kind, *words, **arguments):
        data = {"class_path": f"datamodules.mil.{kind}", "init_args": arguments}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(RECIPE | {"data": data}))
        return command("fit", "--config", path, *words)

    return run


def rows_of(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


def metric(run, name):
    """Return the values of a column of metrics.csv."""
    return [float(row[name]) for row in rows_of(run / "metrics.csv") if row.get(name)]


def several_labels(count):
    """Two classes of a bag that do not depend on each other, and bags with neither."""
    number = np.arange(count)
    return np.stack([number % 2, number // 2 % 2], axis=1)


def npz(path, labels, **more):
    """Bags of four instances, the third of which shows the classes of its bag."""
    features = np.random.default_rng(0).normal(size=(len(labels), 4, 3))
    features[:, 2, : labels.shape[1]] += 4 * labels
    arrays = {"X": features.reshape(-1, 3), "bag_index": np.arange(len(labels)).repeat(4)}
    np.savez(path, y=labels, **arrays, **more)
    return path


@pytest.mark.slow
def test_several_classes_of_a_file_from_training_to_comparison(fit, command, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    labels = several_labels(80)
    file = npz(tmp_path / "bags.npz", labels)
    drawn = [f"--callbacks.{name}=true" for name in PICTURES]
    run = fit(NPZ, *drawn, file=str(file), batch_size=4, class_names=["er", "pr"])
    assert (run / "pictures" / "attention_epoch_003.png").is_file()
    assert "train: 52 bags, 208 instances; er 26, pr " in caplog.text
    assert metric(run, "val/bag_auroc")[-1] > 0.8
    checkpoint = run / "checkpoints" / "best.ckpt"
    assert restore(checkpoint).links["task"] == "multilabel"

    tested = command("test", "--ckpt_path", checkpoint, name="tested")
    table = tested / "predictions" / "bags.csv"
    rows = rows_of(table)
    columns = [f"{kind}_{c}" for kind in ("label", "score", "prediction") for c in ("er", "pr")]
    assert list(rows[0]) == ["bag_id", *columns, "threshold"]
    numbers = [int(row["bag_id"].removeprefix("bags_")) for row in rows]
    for c, name in enumerate(("er", "pr")):
        assert [int(row[f"label_{name}"]) for row in rows] == labels[numbers, c].tolist()
        scores = np.array([float(row[f"score_{name}"]) for row in rows])
        assert [int(row[f"prediction_{name}"]) for row in rows] == (scores >= 0.5).tolist()
    expected = np.mean([
        roc_auc_score([int(r[f"label_{c}"]) for r in rows], [float(r[f"score_{c}"]) for r in rows])
        for c in ("er", "pr")
    ])  # fmt: skip

    out = tmp_path / "out.json"
    words = ["mil", "--draws", "10", "--out", str(out)]
    for source in (["--predictions", table], ["--ckpt", checkpoint, "--data", file]):
        assert evaluate.main([*words, *map(str, source)]) == 0
        found = json.loads(out.read_text())["metrics"]["bag_auroc"]
        assert found == pytest.approx(expected, abs=1e-9)
    assert (
        evaluate.main(["compare", "--predictions", str(tested), str(table), "--draws", "10"]) == 0
    )
    bare = dict(np.load(file))
    del bare["y"]
    np.savez(tmp_path / "bare.npz", **bare)
    predicted = command("predict", "--ckpt_path", checkpoint, "--data", tmp_path / "bare.npz")
    unlabelled = rows_of(predicted / "predictions" / "bags.csv")
    assert {row["label_er"] for row in unlabelled} == {""} and len(unlabelled) == 80
    again = {row["bag_id"].rpartition("_")[2]: row["score_pr"] for row in unlabelled}
    assert all(
        float(again[str(n)]) == pytest.approx(float(row["score_pr"]), abs=1e-6)
        for n, row in zip(numbers, rows, strict=True)
    )


@pytest.mark.slow
def test_several_classes_of_slides_in_both_layouts(write_slides, fit, command, capsys):
    labels = several_labels(24).T
    names = [";".join(n for n, there in zip("ab", pair, strict=True) if there) or ";"
             for pair in labels.T]  # fmt: skip
    a, b = labels.tolist()
    tables = {
        "columns": write_slides(24, name="columns", patient_id=None, label=None, a=a, b=b),
        "one": write_slides(24, name="one", patient_id=None, label=names),
    }
    files = {}
    for layout, table in tables.items():
        more = {"label_columns": ["a", "b"]} if layout == "columns" else {}
        run = fit(SLIDES, table=str(table), batch_size=4, **more)
        files[layout] = (run / "splits.csv").read_text().splitlines()
        folder = FeatureFolder(table.parent / "features")
        same = FeatureSet(run / "splits.csv", folder, **more)  # it can be given as a table
        assert same.labels.tolist() == labels.T.tolist()
        checkpoint = run / "checkpoints" / "last.ckpt"
        predicted = command("predict", "--ckpt_path", checkpoint, "--data", tables["one"])
        rows = rows_of(predicted / "predictions" / "bags.csv")  # classes are those of a checkpoint
        assert [[int(r["label_a"]), int(r["label_b"])] for r in rows] == labels.T.tolist()
    assert files["columns"][0] == "slide_id,patient_id,a,b,split"
    assert files["one"][0] == "slide_id,patient_id,label,split"
    assert [line.rpartition(",")[2] for line in files["columns"]] == [
        line.rpartition(",")[2] for line in files["one"]
    ]
    bare = write_slides(6, name="bare", label=None, patient_id=None)
    predicted = command("predict", "--ckpt_path", checkpoint, "--data", bare)
    assert {r["label_a"] for r in rows_of(predicted / "predictions" / "bags.csv")} == {""}


def witnesses(run):
    """Return the AUROC of attention for the witnesses of each bag of attention.csv."""
    bags = {}
    for row in rows_of(run / "predictions" / "attention.csv"):
        if row["witness"]:
            bags.setdefault(row["bag_id"], []).append(
                (int(row["witness"]), float(row["attention"]))
            )
    both = [list(zip(*rows, strict=True)) for rows in bags.values()]
    return [roc_auc_score(*pair) for pair in both if len(set(pair[0])) == 2]


def test_instance_labels_of_a_file_are_scored(fit, command, tmp_path):
    labels = (np.arange(60) % 2)[:, None]
    known = np.zeros((60, 4), dtype=int)
    known[:, 2] = labels[:, 0]
    file = npz(tmp_path / "bags.npz", labels, instance_labels=known.ravel())
    content = dict(np.load(file)) | {"y": labels[:, 0]}
    np.savez(file, **content)
    run = fit(NPZ, file=str(file), batch_size=4, standardise=False)
    assert metric(run, "val/witness_auroc")[-1] > 0.8
    tested = command("test", "--ckpt_path", run / "checkpoints" / "last.ckpt", name="tested")
    found = witnesses(tested)
    assert len(found) == 6  # positive bags of the test split
    assert metric(tested, "test/witness_auroc") == [pytest.approx(np.mean(found), abs=1e-6)]
    words = ["mil", "--ckpt", run / "checkpoints" / "last.ckpt", "--data", file, "--draws", 10]
    words += ["--out", tmp_path / "out.json"]
    assert evaluate.main([str(word) for word in words]) == 0
    scored = json.loads((tmp_path / "out.json").read_text())["metrics"]
    assert scored["witness_auroc"] == pytest.approx(np.mean(found), abs=1e-6)


@pytest.mark.slow
def test_instance_labels_of_some_slides_are_scored(write_slides, fit, command):
    """As in CAMELYON16: annotated are the slides with tumour."""
    table = write_slides(24, size=12, patient_id=None)
    for number in range(1, 24, 4):  # h5, positive
        with h5py.File(table.parent / "features" / f"s{number}.h5", "a") as file:
            file["tumour"] = np.arange(12) < 3
    run = fit(
        SLIDES, table=str(table), batch_size=4, eval_batch_size=4, instance_labels_key="tumour"
    )
    tested = command("test", "--ckpt_path", run / "checkpoints" / "last.ckpt", name="tested")
    found = witnesses(tested)
    assert found and metric(tested, "test/witness_auroc") == [
        pytest.approx(np.mean(found), abs=1e-6)
    ]
    plain = fit(SLIDES, table=str(table), batch_size=4)
    assert not metric(plain, "val/witness_auroc")


def test_validation_bags_of_one_class_are_told_and_the_loss_chooses(fit, tmp_path, recwarn, caplog):
    caplog.set_level(logging.INFO)
    labels = np.array([0, 1] * 8 + [0] * 4)
    splits = ["train"] * 16 + ["val"] * 4
    folder = tmp_path / "features"
    folder.mkdir()
    for k, label in enumerate(labels.tolist()):
        np.save(
            folder / f"s{k}.npy", np.random.default_rng(k).normal(label, 1, (5, 3)).astype("f4")
        )
    lines = [
        f"s{k},{'nt'[v]},{split}" for k, (v, split) in enumerate(zip(labels, splits, strict=True))
    ]
    (tmp_path / "slides.csv").write_text("\n".join(["slide_id,label,split", *lines]))
    words = ["--early_stopping.patience", 5, "--trainer.max_epochs", 4]
    run = fit(SLIDES, *words, table=str(tmp_path / "slides.csv"), batch_size=4)
    told = [str(w.message) for w in recwarn]
    (chosen,) = [t for t in told if "best.ckpt is chosen by" in t]
    assert chosen == (
        "val/bag_auroc is not defined in validation (all 4 validation bags have the class n): "
        "best.ckpt is chosen by val/loss instead"
    )
    assert any(
        "will be nan: all 4 validation bags have the class n; give the val" in t for t in told
    )
    assert "train: 16 bags, 80 instances; n 8, t 8" in caplog.text
    assert "val: 4 bags, 20 instances; n 4, t 0" in caplog.text and "test:" not in caplog.text
    losses = metric(run, "val/loss")
    assert len(losses) == 4  # nan has not ended the training
    saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["epoch"] == int(np.argmin(losses))
    words = ["fit", "--ckpt_path", run / "checkpoints" / "last.ckpt", "--trainer.max_epochs", 6]
    assert train.main([str(word) for word in words] + ["--debug"]) == 0
    assert len(metric(run, "val/loss")) == 6
    again = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert again["epoch"] == int(np.argmin(metric(run, "val/loss")))


@pytest.mark.slow
def test_several_classes_are_cross_validated(write_slides, tmp_path, capsys):
    """Folds of a file together, those of slides one by one."""
    a, b = several_labels(24).T.tolist()
    table = write_slides(24, patient_id=None, label=None, a=a, b=b)
    recipe = {k: v for k, v in RECIPE.items() if k != "callbacks"} | {"trainer": {"max_epochs": 3}}
    for kind, data, arguments in (
        (NPZ, npz(tmp_path / "bags.npz", several_labels(40)), {}),
        (SLIDES, table, {"label_columns": ["a", "b"]}),
    ):
        section = {"class_path": f"datamodules.mil.{kind}", "init_args": {"batch_size": 4}}
        section["init_args"] |= arguments
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe | {"data": section}))
        words = ["mil-cv", "--config", tmp_path / "r.yaml", "--data", data, "--folds", 2]
        words += ["--repeats", 1, "--out", tmp_path / "o.json"]
        assert evaluate.main([str(word) for word in words]) == 0
        found = json.loads((tmp_path / "o.json").read_text())["metrics"]
        assert all(0 <= value <= 1 for value in found["bag_auroc"]["folds"])
        said = capsys.readouterr().out
        assert ("folds trained together" in said) == (kind == NPZ)
