"""Whole commands on an accelerator (Apple's), pretended by `tests.support.pretend_device`."""

from pathlib import Path

import pytest

import train
from tests.support.pretend_device import pretend_device

ROOT = Path(__file__).resolve().parents[2]
ON = ["--trainer.accelerator", "pretend", "--trainer.strategy", "pretend"]
ON += ["--trainer.inference_mode", "false"]  # whose tensors can't be changed in place there


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "overlay", "again"),
    [
        ("quickstart/mask_rcnn", "digit_scenes", False),
        ("quickstart/yolo", "digit_scenes", True),
        ("mil/mhim_v2", "digit_bags", False),  # two stages, a teacher
    ],
)
def test_train_validate_save_and_test(recipe, overlay, again, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    data = ["--config", f"configs/{recipe}.yaml", "--config", f"configs/_base/data/{overlay}.yaml"]
    small = "small_images" if overlay == "digit_scenes" else "small_bags"
    data += ["--config", f"configs/_base/{small}.yaml", "--data.batch_size", "2"]
    data += ["--data.size", "64"] if overlay == "digit_scenes" else []
    few = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    few += ["--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "1"]
    few += ["--callbacks", "{attention: false, confusion: false, curves: false, gallery: false}"]
    run = ["--runs_dir", str(tmp_path), "--debug", *few, *ON]
    with pretend_device() as waits:
        assert train.main(["fit", *data, *run]) == 0
        assert waits  # nothing on the host makes anybody wait
        (checkpoint,) = tmp_path.glob("*/version_0/checkpoints/last.ckpt")
        if again:
            assert train.main(["test", *data, "--ckpt_path", str(checkpoint), *run]) == 0
    table = checkpoint.parents[1] / "metrics.csv"
    assert len(table.read_text().splitlines()) > 1
