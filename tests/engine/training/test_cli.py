"""The command line as a user types it, on small embedded data."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from engine.checkpoints.restore import restore

ROOT = Path(__file__).resolve().parents[3]
TINY_SCENES = [
    "--data.val_scenes", "6", "--data.test_scenes", "5", "--data.eval_batch_size", "3",
    "--trainer.limit_train_batches", "4", "--trainer.max_epochs", "1",
    "--callbacks.curves", "false", "--callbacks.confusion", "false",
]  # fmt: skip
BAGS = [
    "--config", "configs/quickstart/abmil.yaml", "--callbacks.curves", "false",
    "--callbacks.attention", "false", "--callbacks.confusion", "false",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(*arguments):
    assert train.main([str(a) for a in arguments]) == 0


def column(run_dir, name):
    with (run_dir / "metrics.csv").open() as stream:
        return [float(r[name]) for r in csv.DictReader(stream) if r.get(name)]


@pytest.fixture(scope="module")
def seg_run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    os.chdir(ROOT)
    arguments = ["fit", "--config", "configs/quickstart/mask_rcnn.yaml", *TINY_SCENES]
    # A low threshold makes the nearly untrained model say something.
    arguments += ["--model.init_args.model.init_args.score_thresh", "0.0"]
    run(*arguments, "--runs_dir", runs, "--debug")
    return runs / "mask_rcnn" / "version_0"


@pytest.fixture(scope="module")
def mil_run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    os.chdir(ROOT)
    arguments = ["fit", *BAGS, "--trainer.max_epochs", "2"]
    run(*arguments, "--model.init_args.threshold", "youden", "--runs_dir", runs, "--debug")
    return runs / "abmil" / "version_0"


@pytest.fixture(scope="module")
def mil_test(mil_run):
    """What `test` leaves for the best checkpoint; the recipe is that of its run."""
    runs = mil_run.parents[1]
    checkpoint = ["--ckpt_path", mil_run / "checkpoints" / "best.ckpt"]
    run("test", *checkpoint, "--runs_dir", runs, "--name", "t")
    return runs / "t" / "version_0"


@pytest.mark.slow
def test_the_run_folder_holds_what_is_promised(seg_run):
    names = {p.relative_to(seg_run).as_posix() for p in seg_run.rglob("*") if p.is_file()}
    expected = {"config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    assert expected <= names
    assert any(n.startswith("pictures/gallery") for n in names)
    resolved = yaml.safe_load((seg_run / "config.yaml").read_text())
    assert resolved["data"]["init_args"]["val_scenes"] == 6


def test_logged_ap_checkpoint_ap_and_json_ap_are_one_number(seg_run, tmp_path):
    logged = column(seg_run, "val/segm_map")[-1]
    data = DigitScenesDataModule(val_scenes=6)
    images, annotations = data.write_split("val", tmp_path)
    checkpoint = seg_run / "checkpoints" / "best.ckpt"
    predictions, first, second = (tmp_path / f"{n}.json" for n in ("p", "a", "b"))
    common = ["coco", "--annotations", annotations]
    from_checkpoint = [*common, "--ckpt", checkpoint, "--images", images]
    from_checkpoint += ["--save-predictions", predictions, "--out", first]
    assert evaluate.main([str(a) for a in from_checkpoint]) == 0
    from_file = [*common, "--predictions", predictions, "--out", second]
    assert evaluate.main([str(a) for a in from_file]) == 0
    numbers = [json.loads(p.read_text())["metrics"]["segm_map"] for p in (first, second)]
    assert json.loads(predictions.read_text())
    assert numbers == [logged, logged]


def test_a_checkpoint_alone_predicts_images_of_a_folder(seg_run, tmp_path):
    images, _ = DigitScenesDataModule(test_scenes=3).write_split("test", tmp_path / "scenes")
    checkpoint = seg_run / "checkpoints" / "last.ckpt"
    run("predict", "--ckpt_path", checkpoint, "--data", images, "--runs_dir", tmp_path)
    written = tmp_path / "predict" / "version_0" / "predictions"
    rows = json.loads((written / "predict.json").read_text())
    assert {r["image_id"] for r in rows} == {1, 2, 3}
    assert {r["category_id"] for r in rows} <= set(range(1, 11))
    assert len(list(written.rglob("*.png"))) == 3


def test_a_restored_module_gives_the_same_predictions(seg_run):
    content = torch.load(seg_run / "checkpoints" / "best.ckpt", weights_only=True)
    restored = restore(seg_run / "checkpoints" / "best.ckpt")
    for name, value in restored.module.state_dict().items():
        assert torch.equal(value, content["state_dict"][name])
    assert restored.module.category_map.names == tuple("0123456789")
    assert restored.data["class_path"] == "datamodules.seg.digit_scenes.DigitScenesDataModule"
    assert not restored.module.training


@pytest.mark.slow
def test_bags_threshold_travels_and_test_never_moves_it(mil_run, mil_test):
    threshold = restore(mil_run / "checkpoints" / "best.ckpt").module.threshold
    assert threshold != 0.5
    accuracy = column(mil_test, "test/bag_accuracy")[-1]
    with (mil_test / "predictions" / "bags.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 500
    correct = [(float(r["score"]) >= threshold) == (r["label"] == "1") for r in rows]
    assert accuracy == pytest.approx(sum(correct) / 500, abs=1e-12)


def test_evaluate_mil_repeats_the_test_metrics_from_checkpoint_and_file(
    mil_run, mil_test, tmp_path
):
    checkpoint = mil_run / "checkpoints" / "best.ckpt"
    recipe = "configs/quickstart/abmil.yaml"
    logged = column(mil_test, "test/bag_auroc")[-1]
    outs = tmp_path / "a.json", tmp_path / "b.json"
    table = mil_test / "predictions" / "bags.csv"
    first = ["mil", "--ckpt", checkpoint, "--data", recipe, "--draws", "20", "--out", outs[0]]
    second = ["mil", "--predictions", table, "--draws", "20", "--out", outs[1]]
    assert [evaluate.main([str(a) for a in c]) for c in (first, second)] == [0, 0]
    numbers = [json.loads(p.read_text())["metrics"]["bag_auroc"] for p in outs]
    assert numbers == [logged, logged]


@pytest.mark.parametrize("flag", ["--score", "--overlays"])
def test_flags_for_images_are_not_for_bags(flag, mil_run, tmp_path, capsys):
    words = ["predict", "--ckpt_path", mil_run / "checkpoints/best.ckpt", "--runs_dir", tmp_path]
    assert train.main([str(w) for w in [*words, flag, "1"]]) == 2
    assert f"{flag} is for images" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_resuming_continues_where_the_run_stopped(mil_run, tmp_path):
    last = mil_run / "checkpoints" / "last.ckpt"
    run("fit", *BAGS, "--ckpt_path", last, "--trainer.max_epochs", "3", "--runs_dir", tmp_path)
    content = torch.load(tmp_path / "abmil/version_0/checkpoints/last.ckpt", weights_only=True)
    assert content["epoch"] == 3  # the number of finished epochs
    assert content["global_step"] == 75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--config", "nothere.yaml"], "nothere.yaml"),
        (["predict", "--ckpt_path", "nothere.ckpt"], "nothere.ckpt: no such checkpoint"),
        (["predict"], "predict needs --ckpt_path"),
        (["test"], "test needs --ckpt_path FILE or --config RECIPE.yaml"),
        (["validate", "--ckpt_path", "nothere.ckpt"], "nothere.ckpt: no such checkpoint"),
        (
            ["fit", "--config", "configs/quickstart/abmil.yaml", "--data.batch_sise", "3"],
            "batch_sise",
        ),
        (
            ["fit", "--config", "configs/quickstart/abmil.yaml", "--data.batch_size", "many"],
            "batch_size",
        ),
        (
            ["fit", "--config", "configs/seg/mask_rcnn_nuclei.yaml", "--data.root", "nowhere"],
            "nowhere",
        ),
    ],
)
def test_wrong_input_ends_with_one_message_and_code_2(arguments, message, capsys, tmp_path):
    if arguments[0] == "fit":
        arguments = [*arguments, "--runs_dir", str(tmp_path)]
    assert train.main(arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


UNITS = "lightning_modules.segmentation.has_bfloat16_units"
HALF = ["--config", "configs/quickstart/mask_rcnn.yaml", "--config", "configs/_base/bf16.yaml"]


@pytest.mark.slow
def test_bfloat16_trains_and_its_checkpoint_remembers_it(tmp_path, monkeypatch):
    monkeypatch.setattr(UNITS, lambda: True)
    run("fit", *HALF, *TINY_SCENES, "--trainer.accelerator", "cpu", "--runs_dir", tmp_path)
    run_dir = tmp_path / "mask_rcnn" / "version_0"
    restored = restore(run_dir / "checkpoints" / "last.ckpt")
    assert restored.precision == "bf16-mixed"
    assert next(restored.module.parameters()).dtype == torch.float32


def test_bfloat16_is_refused_without_units_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(UNITS, lambda: False)
    arguments = ["fit", *HALF, *TINY_SCENES, "--trainer.accelerator", "cpu", "--runs_dir", tmp_path]
    assert train.main([str(a) for a in arguments]) == 2
    shown = capsys.readouterr().err
    assert "no bfloat16 units" in shown
    assert "leave out configs/_base/bf16.yaml" in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_checkpoint_scores_its_own_test_fold_and_all_bags_of_another_file(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    features = rng.normal(size=(60, 4)) + labels[:, None]
    for name, count in (("own", 60), ("other", 20)):
        np.savez(
            tmp_path / f"{name}.npz",
            X=features[:count],
            bag_index=np.arange(count),
            y=labels[:count],
        )
    fit = ["fit", "--config", "configs/mil/abmil.yaml", "--trainer.max_steps", "100"]
    own = ["--data.file", tmp_path / "own.npz", "--data.fold", "3"]
    run(*fit, *own, "--runs_dir", tmp_path)
    checkpoint = tmp_path / "abmil/version_0/checkpoints/best.ckpt"
    config = ["--config", "configs/mil/abmil.yaml", *own, "--ckpt_path", checkpoint]
    run("test", *config, "--runs_dir", tmp_path, "--name", "t")
    logged = column(tmp_path / "t" / "version_0", "test/bag_auroc")[-1]
    counts = {}
    for name in ("own", "other"):
        out = tmp_path / f"{name}.json"
        data = ["--data", tmp_path / f"{name}.npz", "--draws", "10", "--out", out]
        data += ["--allow-overlap"] * (name == "other")  # its bags are the first of the file
        assert evaluate.main([str(a) for a in ["mil", "--ckpt", checkpoint, *data]]) == 0
        record = json.loads(out.read_text())
        counts[name] = len(record["bags"])
        if name == "own":
            assert record["metrics"]["bag_auroc"] == logged
    assert counts == {"own": 6, "other": 20}
