"""Run folders for reports: of a segmentor without a network, and tables of bags."""

import csv
import json

import numpy as np
import yaml

from tests.support.bright_objects import write_bright

METRICS = """epoch,step,train/loss,train/loss_mask,train/loss_box,val/segm_map,time/step,lr-SGD
,9,2.5,1.5,1.0,,0.5,0.1
0,19,,,,0.25,,
,29,1.5,1.0,0.5,,0.25,0.01
1,39,,,,0.75,,
"""


def write_run(folder, name="bright", config=None):
    """Write what every run folder has and return ``folder/runs/name/version_0``."""
    run = folder / "runs" / name / "version_0"
    run.mkdir(parents=True)
    model = {"init_args": {"model": {"class_path": f"some.{name.title()}"}}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": model, **(config or {})}))
    (run / "metrics.csv").write_text(METRICS)
    facts = {"command": "train.py fit", "git_commit": "abc", "versions": {"torch": "1"}}
    (run / "provenance.json").write_text(json.dumps(facts))
    return run


def write_bright_run(folder, name="bright", **options):
    """Write a run of `fit` with a checkpoint of `BrightObjects`."""
    run = write_run(folder, name)
    (run / "checkpoints").mkdir()
    write_bright(run / "checkpoints" / "best.ckpt", **options)
    return run


def write_test_run(folder, name, rows):
    """Write a run of `test` on images with COCO results rows."""
    run = write_run(folder, name, {"ckpt_path": None})
    (run / "predictions").mkdir()
    (run / "predictions" / "test.json").write_text(json.dumps(rows))
    return run


def write_bag_run(folder, name, seed=0, bags=40, classes=2, noise=0.3):
    """Write a run of `test` on bags of 5 instances whose first is the witness."""
    run = write_run(folder, name, {"ckpt_path": None})
    (run / "predictions").mkdir()
    random = np.random.default_rng(seed)
    labels = np.arange(bags) % classes
    scores = np.eye(classes)[labels] + noise * random.random((bags, classes))
    scores /= scores.sum(axis=1, keepdims=True)
    names = ["score"] if classes == 2 else [f"score_c{c}" for c in range(classes)]
    with (run / "predictions" / "bags.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["bag_id", "label", *names])
        for n, (label, row) in enumerate(zip(labels, scores, strict=True)):
            table.writerow([f"b{n}", label, *(row[1:] if classes == 2 else row)])
    with (run / "predictions" / "attention.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["bag_id", "instance", "attention", "witness", "x", "y"])
        for n in range(bags):
            weights = random.dirichlet(np.ones(5))
            for k, weight in enumerate(weights):
                table.writerow([f"b{n}", k, weight, int(k == 0), 256 * k, 512])
    return run
