import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import WandbLogger

from loggers.wandb_media import Media, WandbMedia, box_data, class_ids, label_map
from structures import Instances, RLEMasks

IMAGE = np.zeros((4, 5, 3), dtype=np.uint8)


class RecordingLogger(WandbLogger):
    """Takes what is logged, or raises."""

    def __init__(self, error=None):
        self.error, self.calls = error, []

    def log_image(self, **given):
        if self.error is not None:
            raise self.error
        self.calls.append(given)

    @property
    def experiment(self):
        raise AssertionError("the run must not be touched")


def fake_trainer(logger, first=True):
    return SimpleNamespace(is_global_zero=first, loggers=[object(), logger], global_step=7)


def overlapping():
    """Three squares of side 4 along the diagonal, each covering part of the one before."""
    dense = np.zeros((3, 8, 8), dtype=bool)
    for k in range(3):
        dense[k, 2 * k : 2 * k + 4, 2 * k : 2 * k + 4] = True
    return Instances(
        boxes=torch.tensor([[2.0 * k, 2 * k, 2 * k + 4, 2 * k + 4] for k in range(3)]),
        scores=torch.tensor([0.5, 0.9, 0.7]),
        labels=torch.tensor([0, 1, 2]),
        size=(8, 8),
        masks=RLEMasks.from_dense(dense),
    )


def test_class_ids_leave_zero_to_the_background():
    assert class_ids([], 3) == {0: 1, 1: 2, 2: 3}
    assert class_ids([254], 255)[254] == 255
    assert class_ids([300, 7, 300], 1203) == {7: 1, 300: 2}


def test_better_scores_cover_worse_ones():
    painted = label_map(overlapping(), {0: 1, 1: 2, 2: 3}, (9, 10))
    expected = np.zeros((9, 10), dtype=np.uint8)
    expected[0:4, 0:4] = 1
    expected[4:8, 4:8] = 3
    expected[2:6, 2:6] = 2  # score 0.9 on top of both
    np.testing.assert_array_equal(painted, expected)


def test_small_true_instances_stay_visible():
    dense = np.zeros((2, 4, 4), dtype=bool)
    dense[0, 1:2, 1:2] = True
    dense[1] = True
    truth = Instances(
        torch.zeros(2, 4),
        torch.ones(2),
        torch.tensor([0, 1]),
        (4, 4),
        RLEMasks.from_dense(dense),
    )
    painted = label_map(truth, {0: 1, 1: 2}, (4, 4))
    assert painted[1, 1] == 1
    assert (painted == 2).sum() == 15


def test_ids_beyond_a_byte_are_not_painted():
    painted = label_map(overlapping(), {0: 255, 1: 256, 2: 3}, (8, 8))
    assert sorted(np.unique(painted).tolist()) == [0, 3, 255]


def test_boxes_are_fractions_of_the_canvas():
    rows = box_data(overlapping(), ["a", "b", "c"], {0: 1, 1: 2, 2: 3}, (16, 32), with_scores=True)
    assert rows[1]["position"] == {"minX": 2 / 32, "minY": 2 / 16, "maxX": 6 / 32, "maxY": 6 / 16}
    assert [row["class_id"] for row in rows] == [1, 2, 3]
    assert [row["box_caption"] for row in rows] == ["a 0.50", "b 0.90", "c 0.70"]
    assert rows[2]["scores"]["score"] == pytest.approx(0.7)
    plain = box_data(overlapping(), ["a", "b", "c"], {0: 1, 1: 2, 2: 3}, (8, 8), with_scores=False)
    assert plain[0]["box_caption"] == "a"
    assert "scores" not in plain[0]


def test_log_hands_over_lists_at_the_optimizer_step():
    logger = RecordingLogger()
    masks = {"truth": {"mask_data": IMAGE[..., 0], "class_labels": {0: "background"}}}
    WandbMedia().log(
        fake_trainer(logger), "val/x", [Media(IMAGE, "one", masks), Media(IMAGE, "two")]
    )
    (call,) = logger.calls
    assert (call["key"], call["step"], call["caption"]) == ("val/x", 7, ["one", "two"])
    assert [image.size for image in call["images"]] == [(5, 4), (5, 4)]
    assert call["masks"] == [masks, None]
    assert call["boxes"] == [None, None]


@pytest.mark.parametrize("first", [True, False])
def test_nothing_is_touched_on_other_processes_or_without_images(first):
    logger = RecordingLogger()
    WandbMedia().log(fake_trainer(logger, first), "val/x", [] if first else [Media(IMAGE, "")])
    assert logger.calls == []


def failures():
    import wandb

    private = type("MailboxClosedError", (Exception,), {"__module__": "wandb.sdk.mailbox.mailbox"})
    return [
        wandb.errors.CommError("no server"),
        private("closed"),
        OSError("disk full"),
        RuntimeError("x"),
        ModuleNotFoundError("No module named 'wandb'"),
    ]


@pytest.mark.parametrize("position", range(5))
def test_a_failing_service_is_reported_once(position, caplog):
    trainer = fake_trainer(RecordingLogger(failures()[position]))
    media = WandbMedia()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            media.log(trainer, "val/x", [Media(IMAGE, "")])
    (record,) = caplog.records
    assert str(failures()[position]) in record.getMessage()


def test_a_mistake_in_the_data_is_not_hidden():
    logger = RecordingLogger(TypeError("caption must be text"))
    with pytest.raises(TypeError, match="caption"):
        WandbMedia().log(fake_trainer(logger), "val/x", [Media(IMAGE, "")])
