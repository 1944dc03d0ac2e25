"""INS by its recipe through `train.py fit`, on slides larger than a step."""

import pytest

from benchmarks.mil.ins_targets import fit, means, write_slides

pytestmark = pytest.mark.slow
QUICK = [
    "--model.model.queue_size",
    "256",
    "--trainer.accelerator",
    "cpu",
    "--data.num_workers",
    "0",
]


def test_every_instance_of_every_slide_is_visited_in_an_epoch(tmp_path):
    """The target of a visited instance moves; two epochs, and the warm-up is part of the first."""
    table, _ = write_slides(tmp_path, size=300, share=0.05, strength=5.0)
    targets = fit(table, tmp_path / "runs", [*QUICK, "--trainer.max_epochs", "2"])
    assert (targets[0::2] != 0.5).all()  # positive slides
    assert (targets[1::2] == 0).all()


def test_targets_of_witnesses_end_positive_and_others_negative(tmp_path):
    """At a twentieth of the scale of `benchmarks/mil/ins_targets.py`, which needs 15 minutes."""
    table, witnesses = write_slides(tmp_path, size=200, share=0.05, strength=5.0)
    quick = [*QUICK, "--trainer.check_val_every_n_epoch", "20", "--trainer.max_epochs", "40"]
    witness, other = means(fit(table, tmp_path / "runs", quick), witnesses)
    assert witness > 0.85
    assert other < 0.10
