"""Precisions that would convert the batches are refused for images and for bags."""

import pytest

import train
from lightning_modules.precision import check_precision


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_layers_may_be_converted(precision):
    check_precision(precision)


@pytest.mark.parametrize(
    ("recipe", "precision", "remedy"),
    [
        ("mask_rcnn", "64-true", "32-true"),
        ("abmil", "64-true", "32-true"),
        ("mask_rcnn", "bf16-true", "bf16-mixed"),
        ("abmil", "16-true", "16-mixed"),
    ],
)
def test_batches_may_not(recipe, precision, remedy, tmp_path, capsys):
    words = ["fit", "--config", f"configs/quickstart/{recipe}.yaml", "--runs_dir", str(tmp_path)]
    words += ["--trainer.accelerator", "cpu", "--trainer.precision", precision]
    assert train.main([*words, "--trainer.fast_dev_run", "true"]) == 2
    shown = capsys.readouterr().err
    assert f"trainer.precision {precision} would convert batches" in shown
    assert f"set {remedy}" in shown
