"""What `fit` says about images before it trains; `test_bag_labels.py` has bags."""

import logging

import pytest

import train
from engine.training.data_facts import print_data_facts
from tests.faults import sets


@pytest.mark.slow
def test_images_and_a_size_that_no_validation_object_has(tmp_path, caplog, recwarn):
    caplog.set_level(logging.INFO)
    words = [word for word in sets.COCO[1:] if word not in ("--trainer.fast_dev_run", "true")]
    words += ["--data.root", sets.write_coco(tmp_path / "coco"), "--runs_dir", tmp_path / "runs"]
    words += ["--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1]
    network = "--model.init_args.model.init_args."
    words += [f"{network}box.width", 16, f"{network}mask.width", 8]
    words += ["--checkpoint.monitor", "val/segm_map_large"]
    assert train.main([str(word) for word in words]) == 0
    for split in ("train", "val"):
        line = f"{split}: 3 images (1 without an object), 3 objects; cell 2, dot 1"
        assert caplog.messages.count(line) == 1
    assert not any(message.startswith("test: ") for message in caplog.messages)
    (told,) = [str(w.message) for w in recwarn if "best.ckpt is chosen by" in str(w.message)]
    assert told == (
        "val/segm_map_large is not defined in validation (no object of the validation images is "
        "large): best.ckpt is chosen by train/loss instead"
    )
    assert len(list((tmp_path / "runs").rglob("best.ckpt"))) == 1


def test_a_datamodule_of_somebody_else_is_not_described(caplog):
    print_data_facts(object())
    assert caplog.messages == []
