import csv
import math

import pytest

from callbacks.results.class_table import ClassTable, class_rows


def rows(folder):
    with (folder / "run" / "per_class.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_images_have_ap_by_class(stand_in, make_trainer, tmp_path):
    module = stand_in.SegModule()
    trainer = make_trainer([ClassTable()], max_epochs=3)
    trainer.fit(module, stand_in.images(), stand_in.images())
    square, bar = rows(tmp_path)
    assert (square["split"], square["epoch"], square["category_id"]) == ("val", "2", "5")
    # The square is 16 wide and moved by 4: IoU 12/20 = .6, right at three of the ten thresholds;
    # the bar is exact.
    assert (square["name"], square["instances"]) == ("square", "6")
    assert float(square["segm_map"]) == pytest.approx(0.3)
    assert (float(square["segm_map_50"]), float(square["segm_map_75"])) == (1.0, 0.0)
    assert float(bar["segm_map"]) == float(bar["box_map"]) == 1.0
    trainer.test(module, stand_in.images(), verbose=False)
    assert [(r["split"], r["epoch"]) for r in rows(tmp_path)] == [("test", "")] * 2


def test_bags_have_scores_by_class(stand_in, make_trainer, tmp_path):
    # Bag k has logit k - 2 and label k mod 2: from bag 2 on all are called positive.
    trainer = make_trainer([ClassTable()])
    trainer.validate(stand_in.BagModule(), stand_in.bags(), verbose=False)
    absent, present = rows(tmp_path)
    assert (absent["name"], absent["bags"], absent["predicted"]) == ("absent", "4", "2")
    assert (float(absent["recall"]), float(absent["precision"])) == (0.25, 0.5)
    assert (float(present["recall"]), float(present["precision"])) == (0.75, 0.5)
    # Of 16 pairs the positive is the larger in 1 + 2 + 3 + 4.
    assert float(present["auroc"]) == 10 / 16


def test_undefined_values_are_empty_and_unlabelled_bags_left_out(stand_in, make_trainer, tmp_path):
    trainer = make_trainer([ClassTable()])
    module = stand_in.BagModule()
    trainer.validate(module, stand_in.bags(numbers=(1, 3)), verbose=False)
    absent, present = rows(tmp_path)
    assert (absent["auroc"], absent["recall"], present["bags"]) == ("", "", "2")
    module.bag_scores.labels[:] = -1
    assert class_rows(module) == []
    module.bag_scores.labels[0] = 1
    assert [r["bags"] for r in class_rows(module)] == [0, 1]


@pytest.mark.slow
def test_the_table_reaches_wandb(stand_in, make_trainer, offline_wandb, read_wandb):
    from loggers.run import build_loggers, finish_loggers
    from loggers.wandb_logger import WandbOptions

    loggers = build_loggers(offline_wandb / "x" / "version_0", WandbOptions())
    trainer = make_trainer([ClassTable()], logger=loggers)
    trainer.fit(stand_in.BagModule(), stand_in.bags(), stand_in.bags(numbers=(1, 3)))
    finish_loggers(loggers)
    (run,) = (offline_wandb / "x/version_0/wandb").glob("offline-run-*")
    table = read_wandb(run).tables("val/per_class")
    assert [row["name"] for row in table] == ["absent", "present"]
    assert table[0]["auroc"] is None
    assert table[1]["f1"] == pytest.approx(2 / 3)  # bag 1 is missed, bag 3 found
    assert not math.isnan(table[1]["recall"])
