"""A whole training with W&B offline, as a user starts it, read back from disk."""

import base64
import csv
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule

ROOT = Path(__file__).resolve().parents[3]
OVERLAY = ["--config", "configs/_base/wandb.yaml"]
ABMIL = ["fit", "--config", "configs/quickstart/abmil.yaml", *OVERLAY]


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(*arguments):
    assert train.main([str(a) for a in arguments]) == 0


def column(run_dir, name):
    with (run_dir / "metrics.csv").open() as stream:
        return [float(r[name]) for r in csv.DictReader(stream) if r.get(name)]


def wandb_runs(folder):
    return sorted((folder / "wandb").glob("offline-run-*"))


@pytest.mark.slow
def test_everything_of_a_bag_training_is_there(offline_wandb, read_wandb):
    small = ["--data.init_args.val_bags", "20", "--data.init_args.train_bags", "40"]
    group = ["--wandb.group", "seeds", "--wandb.job_type", "seed1", "--seed_everything", "1"]
    options = [*small, *group, "--trainer.max_epochs", "2", "--wandb.checkpoints", "both"]
    run(*ABMIL, *options, "--runs_dir", offline_wandb)
    folder = offline_wandb / "abmil" / "version_0"
    (offline,) = wandb_runs(folder)
    found = read_wandb(offline)

    config = found.config
    assert config["data"]["class_path"] == "datamodules.mil.digit_bags.DigitBagsDataModule"
    assert config["data"]["init_args"]["val_bags"] == 20
    assert config["data"]["init_args"]["target"] == 9  # resolved: the recipe does not say it
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1.0e-3
    assert config["seed_everything"] == 1
    record = json.loads((folder / "provenance.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{16}", config["data_hash"])
    for key in ("data_hash", "git_commit", "git_dirty", "versions", "command"):
        assert config[key] == record[key]
    assert (found.record["run_group"], found.record["job_type"]) == ("seeds", "seed1")

    scores = column(folder, "val/bag_auroc")
    assert found.summary["val/bag_auroc"]["max"] == pytest.approx(max(scores), abs=1e-12)
    assert found.summary["val/bag_auroc"]["last"] == pytest.approx(scores[-1], abs=1e-12)
    losses = column(folder, "val/loss")
    assert found.summary["val/loss"]["min"] == pytest.approx(min(losses), abs=1e-6)
    best = int(np.argmax(scores))
    assert found.summary["best/val/bag_auroc"] == pytest.approx(scores[best], abs=1e-12)
    assert found.summary["best/val/loss"] == pytest.approx(losses[best], abs=1e-6)
    assert found.summary["best/epoch"] == best
    logged = [h["val/bag_auroc"] for h in found.history if "val/bag_auroc" in h]
    assert logged == pytest.approx(scores, abs=1e-12)

    bags = found.tables("val/bags")
    assert len(bags) == 20
    assert [row["error"] for row in bags] == sorted((r["error"] for r in bags), reverse=True)
    assert 0 <= bags[0]["attention 3"] <= bags[0]["attention 2"] <= bags[0]["attention 1"] <= 1
    assert [row["name"] for row in found.tables("val/per_class")] == ["without 9", "with 9"]
    confusion = found.tables("val/confusion_table")
    assert sum(row["nPredictions"] for row in confusion) == 20
    wrong = sum(row["nPredictions"] for row in confusion if row["Actual"] != row["Predicted"])
    assert wrong == sum(row["truth"] != row["decision"] for row in bags)
    roc = found.tables("val/roc_table")
    area = np.trapezoid([r["lineVal"] for r in roc], [r["step"] for r in roc])
    assert area == pytest.approx(scores[-1])
    assert found.tables("val/pr_table")[-1]["step"] == 1.0
    for key in ("val/attention", "val/curves"):
        (image,) = [h for h in found.history if f"{key}.count" in h][-1:]
        assert all((offline / "files" / name).is_file() for name in image[f"{key}.filenames"])
    models = [a for a in found.artifacts if a["type"] == "model"]
    assert [set(a["aliases"]) - {"latest"} for a in models] == [{"last"}, {"best"}]


@pytest.mark.slow
def test_a_resumed_training_goes_on_in_the_same_wandb_run(offline_wandb, read_wandb):
    """One of a sweep, whose goal is logged as a number."""
    sweep = yaml.safe_load((ROOT / "configs/sweeps/abmil_digits.yaml").read_text())
    goal = sweep["metric"]["name"]
    quick = ["--trainer.limit_train_batches", "5", "--trainer.max_epochs", "1"]
    off = [f"--callbacks.{n}=false" for n in ("attention", "curves", "confusion", "bag_table")]
    started = [*sweep["command"][3:-1], "--wandb.mode", "offline", *quick, *off]
    run(*started, "--runs_dir", offline_wandb)
    (folder,) = offline_wandb.glob("*/version_0")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    run("fit", "--ckpt_path", checkpoint, "--trainer.max_epochs", "2")
    first, second = (read_wandb(one) for one in wandb_runs(folder))
    assert first.record["run_id"] == second.record["run_id"]
    assert first.config["data_hash"] == second.config["data_hash"]
    epochs = [[h["epoch"] for h in f.history if "val/loss" in h] for f in (first, second)]
    assert epochs == [[0], [1]]
    assert isinstance(first.summary[goal], float)
    assert second.summary[goal] == max(column(folder, goal.removeprefix("best/")))


@pytest.fixture(scope="module")
def image_run(module_wandb, read_wandb):
    """The folder of a training on images, and what W&B has of it."""
    recipe = ["fit", "--config", "configs/quickstart/mask_rcnn.yaml", *OVERLAY]
    small = ["--data.val_scenes", "5", "--data.eval_batch_size", "3", "--trainer.max_epochs", "1"]
    shown = ["--callbacks.gallery.num_pictures", "2", "--callbacks.gallery.score", "0.06"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        steps = ["--trainer.limit_train_batches", "3"]
        run(*recipe, *small, *shown, *steps, "--runs_dir", module_wandb)
    folder = module_wandb / "mask_rcnn" / "version_0"
    (offline,) = wandb_runs(folder)
    return folder, read_wandb(offline)


@pytest.mark.slow
def test_everything_of_an_image_training_is_there(image_run):
    _, found = image_run
    assert found.config["data"]["init_args"]["val_scenes"] == 5
    assert found.record["run_group"] == "mask_rcnn/version_0"
    assert set(found.summary["val/segm_map"]) == {"max", "last"}
    (gallery,) = [h for h in found.history if "val/gallery.count" in h]
    assert gallery["val/gallery.count"] == 2
    assert all("truth" in masks for masks in gallery["val/gallery.all_masks"])
    rows = found.tables("val/pictures")
    assert len(rows) == 2
    assert all(row["instances"] >= 2 for row in rows)
    assert len(found.tables("val/per_class")) == 10
    names = {row["Actual"] for row in found.tables("val/confusion_table")}
    assert "background" in names
    assert len(names) == 11
    lines = {row["lineKey"] for row in found.tables("val/pr_table")}
    assert "all classes" in lines
    # Each prediction is a row, and each object that none of them finds.
    instances = found.tables("val/instances")
    missed = [row for row in instances if row["error"] == "miss"]
    assert len(instances) - len(missed) == sum(row["predicted"] for row in rows)
    assert 0 < len(missed) <= sum(row["instances"] for row in rows)
    assert all(row["area"] > 0 and row["score"] is None for row in missed)


def results(found):
    """Artifacts other than those that W&B makes of tables, by type."""
    made = [a for a in found.artifacts if a["type"] != "run_table"]
    return {a["type"]: a | {"metadata": json.loads(a["metadata"])} for a in made}


def inputs(*artifacts):
    return [{key: a[key] for key in ("type", "name", "digest")} for a in artifacts]


@pytest.mark.slow
def test_artifacts_of_a_training_say_what_they_were_made_from(image_run):
    folder, found = image_run
    made = results(found)
    assert list(made) == ["dataset", "model"]
    assert made["dataset"]["name"] == f"dataset-{found.config['data_hash']}"
    assert made["model"]["name"] == f"model-{found.record['run_id']}"
    assert made["model"]["metadata"]["inputs"] == inputs(made["dataset"])
    (content,) = made["model"]["manifest"]["contents"]
    assert "local_path" not in content  # nothing is copied
    assert content["ref"] == (folder / "checkpoints/best.ckpt").as_uri()
    digest = hashlib.md5((folder / "checkpoints/best.ckpt").read_bytes()).digest()
    assert content["digest"] == base64.b64encode(digest).decode()


@pytest.mark.slow
def test_an_evaluation_is_a_run_beside_its_training(
    image_run, module_wandb, read_wandb, monkeypatch, capsys
):
    folder, training = image_run
    monkeypatch.chdir(module_wandb)
    images, truth = DigitScenesDataModule(test_scenes=2).write_split("test", Path("scenes"))
    checkpoint = folder / "checkpoints/best.ckpt"
    words = ["coco", "--ckpt", checkpoint, "--annotations", truth, "--images", images]
    words += ["--save-predictions", "p.json", "--wandb", "p", "--out", "out.json"]
    assert evaluate.main([str(word) for word in words]) == 0
    assert "logged to W&B (offline): runs/evaluate_coco/version_0" in capsys.readouterr().out
    (offline,) = wandb_runs(Path("runs/evaluate_coco/version_0"))
    found = read_wandb(offline)
    assert (found.record["job_type"], found.record["project"]) == ("evaluate", "p")
    assert found.record["run_group"] == training.record["run_group"]
    assert found.config["trainings"] == [training.record["run_id"]]
    assert found.state == "finished"
    record = json.loads(Path("out.json").read_text())
    for name, value in record["metrics"].items():
        assert found.summary.get(f"evaluate/{name}") == value  # None where undefined
    assert [row["name"] for row in found.tables("evaluate/per_class")] == list("0123456789")
    assert any("evaluate/curves.path" in h for h in found.history)
    made = results(found)
    assert list(made) == ["dataset", "model", "predictions"]
    # The model is the same version as in the training, and was made from the same data.
    model = results(training)["model"]
    assert inputs(made["model"]) == inputs(model)
    assert made["model"]["metadata"]["inputs"] == model["metadata"]["inputs"]
    assert made["predictions"]["metadata"]["inputs"] == inputs(made["dataset"], made["model"])
    (content,) = made["predictions"]["manifest"]["contents"]
    staged = Path(content["local_path"])
    assert staged.is_relative_to(module_wandb)
    assert json.loads(staged.read_text()) == json.loads(Path("p.json").read_text())
    references = {c["path"]: c.get("ref") for c in made["dataset"]["manifest"]["contents"]}
    assert references.pop("dataset.json") is None
    files = sorted(path.resolve().as_uri() for path in [truth, *images.iterdir()])
    assert sorted(references.values()) == files


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_an_alert(offline_wandb, read_wandb, capsys):
    small = ["--data.init_args.val_bags", "20", "--data.init_args.train_bags", "40"]
    much = ["--model.init_args.optimizer.init_args.lr", "1e30", "--trainer.max_epochs", "1"]
    words = [*ABMIL, *small, *much, "--runs_dir", str(offline_wandb)]
    assert train.main(words) == 2
    said = capsys.readouterr().err
    (offline,) = wandb_runs(offline_wandb / "abmil" / "version_0")
    found = read_wandb(offline)
    (alert,) = found.alerts
    assert alert["level"] == "ERROR"
    assert re.fullmatch(r"loss is not finite at step \d+", alert["title"])
    assert alert["text"].partition(": ")[2][:40] in said
    assert found.state == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_every_fold_of_a_cross_validation_is_a_run_of_one_group(
    fails, offline_wandb, read_wandb, monkeypatch, caplog
):
    monkeypatch.chdir(offline_wandb)
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    features = rng.normal(size=(12, 3)) + labels[:, None]
    np.savez("bags.npz", X=features, bag_index=np.arange(12), y=labels)
    recipe = yaml.safe_load((ROOT / "configs/mil/abmil.yaml").read_text())
    recipe["trainer"]["max_steps"], recipe["data"]["init_args"]["batch_size"] = 2, 4
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    if fails:
        import wandb

        def refuse(**given):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(wandb, "init", refuse)
    words = ["mil-cv", "--config", "recipe.yaml", "--data", "bags.npz", "--folds", "2"]
    words += ["--repeats", "1", "--wandb", "p", "--out", "out.json"]
    assert evaluate.main(words) == 0
    metrics = json.loads(Path("out.json").read_text())["metrics"]
    folders = sorted(Path("runs/recipe_cv/version_0").glob("*/wandb/offline-run-*"))
    if fails:
        assert not folders
        assert len([r for r in caplog.records if "W&B" in r.getMessage()]) == 1
        return
    found = [read_wandb(folder) for folder in folders]
    assert [f.record["job_type"] for f in found] == ["repeat0-fold0", "repeat0-fold1"]
    assert {f.record["run_group"] for f in found} == {"recipe_cv/version_0"}
    values = [f.summary["test/bag_auroc"] for f in found]
    assert values == pytest.approx(metrics["bag_auroc"]["folds"])
    assert [f.config["fold"] for f in found] == [0, 1]
