"""What run folders say of a training."""

from pathlib import Path

import pytest
import torch

from engine.reports.facts import Predicted, run_facts
from engine.reports.folder import RunFolder
from evaluation.report.page.training import TrainingLog


@pytest.mark.parametrize(("name", "epoch"), [("best.ckpt", 2), ("last.ckpt", None)])
def test_only_a_checkpoint_that_validation_chose_has_a_best_epoch(tmp_path, name, epoch):
    checkpoint = tmp_path / "checkpoints" / name
    checkpoint.parent.mkdir()
    torch.save({"epoch": 2}, checkpoint)
    run = RunFolder(tmp_path, "run", "mil", {}, "", {}, checkpoint, None)
    found = Predicted("bags", "test", 3, "hash", Path("test.csv"), None)
    facts = run_facts(run, found, TrainingLog({}, 10, None, None, 1))
    assert (facts.best_epoch, facts.last_epoch) == (epoch, 1)
