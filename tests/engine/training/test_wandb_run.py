"""A whole training with W&B offline, as a user starts it, read back from disk."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import evaluate
import train

ROOT = Path(__file__).resolve().parents[3]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
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
@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_a_resumed_training_goes_on_in_the_same_wandb_run(path, offline_wandb, read_wandb):
    """One of a sweep, whose goal is logged as a number."""
    sweep = yaml.safe_load(path.read_text())
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


@pytest.mark.slow
def test_everything_of_an_image_training_is_there(offline_wandb, read_wandb):
    recipe = ["fit", "--config", "configs/quickstart/mask_rcnn.yaml", *OVERLAY]
    small = ["--data.val_scenes", "5", "--data.eval_batch_size", "3", "--trainer.max_epochs", "1"]
    shown = ["--callbacks.gallery.num_pictures", "2", "--callbacks.gallery.score", "0.06"]
    run(*recipe, *small, *shown, "--trainer.limit_train_batches", "3", "--runs_dir", offline_wandb)
    (offline,) = wandb_runs(offline_wandb / "mask_rcnn" / "version_0")
    found = read_wandb(offline)
    assert found.config["data"]["init_args"]["val_scenes"] == 5
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


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.name)
def test_sweeps_are_what_wandb_and_the_command_line_take(path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] in ("maximize", "minimize")
    assert set(sweep) <= {
        "program", "project", "name", "method", "metric", "early_terminate", "parameters", "command"
    }  # fmt: skip
    assert (ROOT / sweep["program"]).is_file()
    choices = {}
    for name, given in sweep["parameters"].items():
        if "values" in given:
            choices[name] = given["values"]
        else:
            assert given["distribution"] in ("uniform", "log_uniform_values")
            assert 0 < given["min"] < given["max"]
            choices[name] = [given["min"], given["max"]]
    command = sweep["command"]
    assert command[:3] == ["${env}", "${interpreter}", "${program}"]
    assert command[-1] == "${args}"
    for k in range(max(map(len, choices.values()))):
        words = [f"--{name}={values[k % len(values)]}" for name, values in choices.items()]
        assert train.main([*command[3:-1], *words, "--print_config"]) == 0
