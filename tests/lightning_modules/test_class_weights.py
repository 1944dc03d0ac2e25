"""Class weights of a segmentation model: by name, balanced, in the checkpoint, refusals."""

from pathlib import Path

import pytest
import torch
from torch import nn

import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from engine.checkpoints.restore import restore
from lightning_modules.class_weights import resolve_class_weights
from lightning_modules.segmentation import SegmentationModule

ROOT = Path(__file__).resolve().parents[2]
FIT = [
    "fit", "--config", "configs/quickstart/yolo.yaml", "--data.size", "64",
    "--data.digit_size", "[24, 40]", "--data.train_scenes", "12", "--data.val_scenes", "2",
    "--data.batch_size", "4", "--trainer.limit_train_batches", "2", "--trainer.max_epochs", "1",
    *(f"--callbacks.{n}=false" for n in ("curves", "confusion", "gallery", "progress")),
]  # fmt: skip
WEIGHTS = "--model.init_args.class_weights"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def nothing():
    raise AssertionError("not asked for")


def test_by_name_and_balanced():
    names = ("cat", "dog", "cow")
    assert resolve_class_weights({"cow": 3}, names, nothing).tolist() == [1.0, 1.0, 3.0]
    weights = resolve_class_weights("balanced", names, lambda: torch.tensor([90, 10, 0]))
    torch.testing.assert_close(weights, torch.tensor([100 / 180, 100 / 20, 1.0]))
    with pytest.raises(ValueError, match="names dogs, no class; did you mean dog?"):
        resolve_class_weights({"dogs": 2.0}, names, nothing)
    with pytest.raises(ValueError, match="no class; there are cat, dog, cow"):
        resolve_class_weights({"zebra": 2.0}, names, nothing)


def test_what_cannot_be_meant_is_refused_when_it_is_built():
    class Plain(nn.Linear):
        max_dets = 1

        def losses(self, batch, reduction="mean", key=0):
            return {}

        def predict(self, batch):
            return []

    with pytest.raises(TypeError, match="Plain cannot weight classes"):
        SegmentationModule(Plain(1, 1), torch.optim.SGD, class_weights="balanced")
    Plain.set_class_weights = lambda self, weights: None
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="dog must be positive"):
            SegmentationModule(Plain(1, 1), torch.optim.SGD, class_weights={"dog": weight})


def weights_of(module):
    return module.model._class_weights


@pytest.mark.slow
def test_a_run_weights_classes_and_its_checkpoint_knows_them(tmp_path, caplog):
    words = [*FIT, "--model.init_args.log_val_loss", "true", "--runs_dir", str(tmp_path)]
    assert train.main([*words, WEIGHTS, "{3: 8.0}", "--name", "named", "--debug"]) == 0
    assert "class weights: 1 (0) to 8 (3)" in caplog.text
    last = tmp_path / "named" / "version_0" / "checkpoints" / "last.ckpt"
    assert weights_of(restore(last).module).tolist() == [1, 1, 1, 8, 1, 1, 1, 1, 1, 1]
    assert train.main([*words, WEIGHTS, "balanced", "--name", "balanced", "--debug"]) == 0
    found = torch.load(
        tmp_path / "balanced" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True
    )
    weights = torch.tensor(found["segmil"]["facts"]["class_weights"])
    data = DigitScenesDataModule(size=64, digit_size=(24, 40), train_scenes=12)
    counts = torch.from_numpy(data.train_objects()[1]).bincount(minlength=10)
    assert (weights * counts).sum() == pytest.approx(counts.sum())
    some = counts > 0
    torch.testing.assert_close(
        weights[some], counts.sum() / (some.sum() * counts[some]), rtol=1e-5, atol=0
    )
    resume = ["fit", "--ckpt_path", str(last), "--trainer.max_epochs", "2", "--debug"]
    assert train.main([*resume, WEIGHTS, '{"5": 2.0}']) == 0  # the configuration wins
    assert weights_of(restore(last).module).tolist() == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{33: 2.0}", "class_weights names 33, no class; did you mean 3?"),
        ('{"3": 0.0}', "class_weights: 3 must be positive"),
        ("balance", "class_weights"),
    ],
)
def test_wrong_weights_end_the_command(tmp_path, capsys, given, message):
    assert train.main([*FIT, WEIGHTS, given, "--runs_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.ckpt"))
