"""The pass over the training bags after a training: best, last, resumed, several processes."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from callbacks.run.checkpoints import RunCheckpoint
from engine.checkpoints.atomic_io import AtomicCheckpointIO
from evaluation.targets.censoring import breslow
from evaluation.targets.training_bags import TrainingBags
from lightning_modules.mil import MILModule
from lightning_modules.targets import after_training
from lightning_modules.targets.checks import HEADLINE
from models.mil.abmil import ABMIL
from tests.support.target_bags import COUNT, WIDTH, TargetBags, bags_of


def module_for(task, lr=0.05):
    torch.manual_seed(0)
    model = ABMIL(WIDTH, COUNT[task], task, hidden_sizes=(5,), attention_dim=3)
    return MILModule(model, lambda p: torch.optim.AdamW(p, lr=lr))


def fit(folder, task="cox", epochs=4, ckpt_path=None, devices=1, accumulate=1):
    saved = RunCheckpoint(
        dirpath=folder, filename="best", monitor=f"val/{HEADLINE[task]}", mode="max",
        enable_version_counter=False,
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, logger=False, enable_progress_bar=False,
        max_epochs=epochs, enable_model_summary=False, use_distributed_sampler=False,
        callbacks=[saved], plugins=[AtomicCheckpointIO()], log_every_n_steps=1,
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    module = module_for(task)
    trainer.fit(module, datamodule=TargetBags(task), ckpt_path=ckpt_path)
    return module


def content(folder, name):
    return torch.load(folder / f"{name}.ckpt", weights_only=True)


def expected(state, task):
    """Return what the weights of a checkpoint say of the training bags, all at once."""
    module = module_for(task).eval()
    module.load_state_dict(state)
    bags = bags_of(task)
    with torch.no_grad():
        risk = module.network(bags).risk(task).numpy()[:40]
    return bags.labels[:40].numpy(), risk


@pytest.mark.parametrize("task", ["cox", "discrete_time"])
def test_best_and_last_have_the_facts_of_their_own_weights(task, tmp_path):
    module = fit(tmp_path, task)
    for name in ("best", "last"):
        saved = content(tmp_path, name)
        labels, risk = expected(saved["state_dict"], task)
        found = TrainingBags.from_plain(saved["segmil"]["facts"]["training_bags"])
        np.testing.assert_array_equal(found.time, labels[:, 0])
        np.testing.assert_array_equal(found.event, labels[:, 1] == 1)
        np.testing.assert_allclose(found.risk, np.sort(risk), rtol=0, atol=1e-6)
        assert (found.baseline is None) == (task == "discrete_time")
        if task == "cox":
            wanted = breslow(labels[:, 0], labels[:, 1] == 1, risk)
            np.testing.assert_array_equal(found.baseline.times, wanted.times)
            np.testing.assert_allclose(found.baseline.log_hazard, wanted.log_hazard, atol=1e-6)
    last = content(tmp_path, "last")
    assert module.training_bags.plain() == last["segmil"]["facts"]["training_bags"]
    for name, value in module.state_dict().items():  # not those of best
        assert torch.equal(value, last["state_dict"][name])


@pytest.mark.parametrize(("task", "accumulate"), [("cox", 3), ("regression", 2)])
def test_a_resumed_training_ends_in_the_same_files(task, accumulate, tmp_path):
    """Weights, moments of the optimizer, coding, edges and risks, bit for bit."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(whole, task, epochs=4, accumulate=accumulate)
    fit(cut, task, epochs=2, accumulate=accumulate)
    resumed = fit(cut, task, 4, ckpt_path=cut / "last.ckpt", accumulate=accumulate)
    for name in ("best", "last"):
        first, second = (content(folder, name) for folder in (whole, cut))
        facts = [dict(file["segmil"]["facts"]) for file in (first, second)]
        if name == "best":  # maybe of an epoch before the cut, when fewer were planned
            for known in facts:
                known.pop("progress")
        assert facts[0] == facts[1], name
        for key, value in first["state_dict"].items():
            assert torch.equal(value, second["state_dict"][key])
        kept = [file["optimizer_states"][0]["state"] for file in (first, second)]
        for number, moments in kept[0].items():
            for key, value in moments.items():
                assert torch.equal(value, kept[1][number][key]), (number, key)
    assert task == "regression" or resumed.training_bags.risk is not None


def test_a_resumed_training_forgets_the_risks_of_earlier_weights(tmp_path):
    fit(tmp_path, epochs=1)
    module = module_for("cox")
    module.restore_facts(content(tmp_path, "last")["segmil"]["facts"])
    assert module.training_bags.baseline is not None
    module.training_bags = module.training_bags.without_risks()
    assert module.training_bags.risk is None and module.training_bags.baseline is None
    assert module.target_facts()["training_bags"].keys() == {"time", "event"}


def test_a_risk_that_is_not_finite_leaves_the_facts_out(recwarn):
    bags = TrainingBags.of(bags_of("cox").labels[:3].numpy())
    found = after_training.fitted(bags, {0: 1.0, 1: np.nan, 2: 0.0}, range(3), module_for("cox"))
    assert found.risk is None
    assert "1 training bags have a risk that is not finite" in str(recwarn.pop().message)


def test_cuts_of_kept_quantiles_are_those_of_all_risks():
    random = np.random.default_rng(0)
    labels = np.stack([random.integers(1, 50, 5000), np.ones(5000)], axis=1)
    risk = random.normal(size=5000)
    kept = TrainingBags.of(labels).with_risks(risk, "cox")
    assert kept.risk.size == 841
    for groups in range(2, 9):
        share = np.arange(1, groups) / groups
        np.testing.assert_allclose(
            np.quantile(kept.risk, share), np.quantile(risk, share), rtol=0, atol=1e-12
        )
    again = TrainingBags.from_plain(kept.plain())
    np.testing.assert_array_equal(again.baseline.log_hazard, kept.baseline.log_hazard)
