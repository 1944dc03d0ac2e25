"""Training on known digits, scored on known and on novel ones."""

import csv
import json
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

import evaluate
import train
from callbacks.results.class_table import class_rows
from datamodules.seg.digit_scenes import DigitScenesDataModule
from evaluation.open_world.protocols import evaluate_protocol
from formats.coco.splits import CategorySplit
from lightning_modules.open_world import OpenWorldModule
from structures import Instances, RLEMasks
from tests.support.layers import ROOT

RECIPE = "configs/quickstart/open_world_mask_rcnn.yaml"
SCENES = ["--data.val_scenes", "6", "--data.size", "64", "--data.digits", "[2,4]"]
SCENES += ["--data.digit_size", "[16,28]", "--data.train_scenes", "8"]
TINY = [
    *SCENES, "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.max_steps", "2",
    "--trainer.val_check_interval", "2", "--trainer.enable_progress_bar", "false", "--name", "tiny",
    "--model.init_args.optimizer.init_args.lr", "1e-6",  # random weights find something by chance
]  # fmt: skip
KNOWN, NOVEL = (1, 2, 3, 4, 5, 6), (7, 8, 9, 10)


def data(known=KNOWN, class_agnostic=True, **options):
    options = {"val_scenes": 6, "size": 64, "digits": (2, 4), "eval_batch_size": 4, **options}
    return DigitScenesDataModule(
        known=known, class_agnostic=class_agnostic, digit_size=(16, 28), **options
    )


class Oracle(torch.nn.Module):
    """Finds most objects, at random scores, each with a mask that is moved by some pixels."""

    max_dets = 50

    def __init__(self, truth, labels, masks=True):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.truth, self.labels, self.predicts_masks = truth, labels, masks

    def losses(self, batch, reduction="mean", key=0):
        return {}

    def predict(self, batch):
        found = []
        for image_id in batch.image_ids:
            generator = torch.Generator().manual_seed(image_id)
            objects = [a for a in self.truth["annotations"] if a["image_id"] == image_id]
            objects = [a for a in objects if torch.rand(1, generator=generator) > 0.2] * 2
            masks = RLEMasks.from_coco([a["segmentation"] for a in objects], (64, 64)).decode()
            for mask in masks:
                mask[:] = torch.from_numpy(mask).roll(
                    int(torch.randint(0, 3, (1,), generator=generator)), 1
                )
            boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).view(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            scores = torch.rand(len(objects), generator=generator).sort(descending=True).values
            ids = [a["category_id"] for a in objects]
            found.append(
                Instances(
                    boxes=boxes,
                    scores=scores,
                    labels=torch.tensor([self.labels.get(i, 0) for i in ids], dtype=torch.int64),
                    size=(64, 64),
                    masks=RLEMasks.from_dense(masks, (64, 64)) if self.predicts_masks else None,
                )
            )
        return found


def validated(one, masks=True):
    """Return the module after a validation on a datamodule, and what was logged."""
    labels = {} if one.class_agnostic else {i: k for k, i in enumerate(KNOWN)}
    module = OpenWorldModule(Oracle(one.ground_truth("val"), labels, masks), torch.optim.SGD)
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing"), False)
    trainer = pl.Trainer(accelerator="cpu", devices=1, **silent)
    (logged,) = trainer.validate(module, datamodule=one, verbose=False)
    return module, logged


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("class_agnostic", [True, False])
def test_scores_are_those_of_the_protocol_with_both_roles(class_agnostic, masks):
    one = data(class_agnostic=class_agnostic)
    module, logged = validated(one, masks)
    types = ("bbox", "segm") if masks else ("bbox",)
    kinds = ("box", "segm") if masks else ("box",)
    names = [f"{kind}_{n}" for kind in kinds for n in ("map", "map_50", "ar_10", "ar_100")]
    assert set(logged) == {f"val/{of}_{name}" for of in ("known", "novel") for name in names}
    truth = one.ground_truth("val")
    for of, split in (("novel", KNOWN), ("known", NOVEL)):
        excluded = CategorySplit("excluded", split)
        found = evaluate_protocol("exclude-known", truth, module.results, excluded, iou_types=types)
        for name in names:
            assert logged[f"val/{of}_{name}"] == found[name], name
            assert 0.2 < found[name] < 1
    rows = class_rows(module)
    assert [row["name"] for row in rows] == ([] if class_agnostic else list("012345"))


def with_trainer(known, callbacks=()):
    module = OpenWorldModule(Oracle({}, {}), torch.optim.SGD)
    module._trainer = SimpleNamespace(
        datamodule=data(known), precision="32-true", callbacks=callbacks, state=None
    )
    return module


def test_data_need_a_split_and_prediction_needs_none():
    module = with_trainer(None)
    for stage in ("fit", "validate", "test"):
        with pytest.raises(ValueError, match="set data.init_args.known .*or take the overlay"):
            module.setup(stage)
    module.setup("predict")


def test_facts_have_the_split():
    module = with_trainer(KNOWN)
    module.setup("test")
    other = OpenWorldModule(Oracle({}, {}), torch.optim.SGD)
    other.restore_facts(module.facts())
    assert other.trained_on["known"] == list(KNOWN)


def test_why_a_metric_of_known_objects_has_no_value():
    module, crowd = with_trainer(KNOWN), {"iscrowd": 1}
    module._trainer.datamodule = SimpleNamespace(
        object_counts=lambda _: 1, labelled_truth=lambda _: {"annotations": [crowd]}
    )
    assert module.undefined("val/known_segm_map") == "no validation image has a known object"
    assert module.undefined("val/loss") == ""
    crowd["iscrowd"] = 0
    assert module.undefined("val/known_segm_map") == ""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a run of two steps."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert train.main(["fit", "--config", RECIPE, *TINY, "--runs_dir", str(runs)]) == 0
    return runs / "tiny" / "version_0"


@pytest.mark.slow
def test_a_run_and_its_checkpoint_in_the_command(trained, tmp_path, monkeypatch):
    """`evaluate.py open-world` of the checkpoint gives what the training logged, by its split."""
    monkeypatch.chdir(ROOT)
    with (trained / "metrics.csv").open() as stream:
        logged = [row for row in csv.DictReader(stream) if row["val/known_segm_map"]][-1]
    assert (trained / "pictures" / "gallery_epoch_001.png").exists()
    assert not (trained / "per_class.csv").exists()
    data(train_scenes=8).write_split("val", tmp_path)
    out = tmp_path / "m.json"
    words = ["open-world", "--protocol", "exclude-known", "--out", str(out)]
    words += ["--annotations", str(tmp_path / "annotations" / "instances_val.json")]
    words += ["--ckpt", str(trained / "checkpoints" / "best.ckpt"), "--batch-size", "4"]
    assert evaluate.main(words) == 0
    found = json.loads(out.read_text())
    assert found["known"]["ids"] == list(KNOWN)
    assert found["metrics"]["box_ar_100"] > 0
    for name in ("segm_map", "segm_ar_10", "box_ar_100"):
        assert float(logged[f"val/novel_{name}"]) == pytest.approx(found["metrics"][name])


@pytest.mark.slow
def test_other_commands_take_its_checkpoint(trained, tmp_path, monkeypatch, capsys):
    """They score the known objects, which are its classes; merged, all objects."""
    monkeypatch.chdir(ROOT)
    data(val_scenes=2).write_split("val", tmp_path)
    source = ["--annotations", str(tmp_path / "annotations" / "instances_val.json")]
    source += ["--ckpt", str(trained / "checkpoints" / "best.ckpt"), "--batch-size", "4"]
    scores = {}
    for name, words in {
        "known": ["coco"],
        "merged": ["coco", "--class-agnostic", "--max-dets", "1", "10", "100"],
        "all": ["open-world", "--protocol", "all"],
        "point": ["operating-point", "--score", "0"],
    }.items():
        out = tmp_path / f"{name}.json"
        assert evaluate.main([*words, *source, "--out", str(out)]) == 0
        scores[name] = json.loads(out.read_text())["metrics"]
    assert "was trained on known categories, and only these are scored" in capsys.readouterr().out
    for name in ("segm_map", "box_map", "box_ar_10", "box_ar_100"):
        assert scores["merged"][name] == pytest.approx(scores["all"][name])
    (point,) = scores["point"].values()
    assert point["micro_recall"] is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.known", "null"], "needs data with known and novel categories"),
        (["--checkpoint.monitor", "val/novel_segm_map"], "checkpoint.monitor: val/known_segm_map"),
        (
            ["--checkpoint.monitor", "val/known_segm_mpa"],
            "monitors val/known_segm_mpa, which is never logged; did you mean val/known_segm_map",
        ),
        (
            ["--config", "configs/_base/early_stopping.yaml", "--checkpoint.monitor",
             "val/novel_box_ar_100"],
            "labels of novel objects must not choose a model",
        ),
    ],
)  # fmt: skip
def test_what_is_refused_before_training(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = ["fit", "--config", RECIPE, *TINY, "--runs_dir", str(tmp_path / "runs"), *words]
    assert train.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_training_continues_with_its_known_categories_alone(
    trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    checkpoint = ["--ckpt_path", str(trained / "checkpoints" / "last.ckpt")]
    words = ["--config", RECIPE, *TINY, "--runs_dir", str(tmp_path), *checkpoint]
    assert train.main(["fit", *words, "--data.known", "[1,2]", "--trainer.max_steps", "4"]) == 2
    message = "trained on the known categories 1, 2, 3, 4, 5, 6 (ids), these data have 1, 2 (ids)"
    assert message in capsys.readouterr().err
    assert train.main(["validate", *words, "--data.known", "[1,2]"]) == 0
