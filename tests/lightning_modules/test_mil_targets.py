"""Training and validation on bags with times, values and grades."""

import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from evaluation.targets.scores import METRICS
from lightning_modules.mil import MILModule
from lightning_modules.targets.checks import HEADLINE, check_step, undefined_target_metric
from loggers.metric_names import best_of
from models.losses.survival import cox_shares
from models.mil.abmil import ABMIL
from models.mil.clam import CLAM
from models.mil.target_losses import BreslowCox
from structures import BagBatch, TargetCoding
from tests.models.mil.test_every_target import TARGETS, target_bags

# Bags 0 to 6 train, 7 to 10 validate.
TIMES = torch.tensor(
    [[5, 1], [3, 1], [6, 1], [8, 0], [1, 1], [2, 0], [13, 1], [4, 1], [90, 0], [4, 1], [1, 0]]
).double()
VALUES = torch.stack([TIMES[:, 0] * 100, torch.full((11,), math.nan)], dim=1)
VALUES[::2, 1] = torch.arange(6).double()
LABELS = {
    "cox": TIMES, "discrete_time": TIMES, "regression": VALUES, "ordinal": torch.arange(11) % 3,
}  # fmt: skip


class Data(pl.LightningDataModule):
    """Seven bags to train on and four to validate on."""

    class_names = ("first", "second", "third")

    def __init__(self, task, batch_size=7):
        super().__init__()
        self.task, self.batch_size, self.num_classes = task, batch_size, TARGETS[task]
        sizes = [4, 1, 9, 2, 12, 3, 5, 6, 2, 8, 1]
        random = torch.Generator().manual_seed(0)
        self.bags = BagBatch(
            features=torch.randn(sum(sizes), 12, generator=random),
            offsets=torch.tensor([0, *sizes]).cumsum(0),
            labels=LABELS[task],
            index=torch.arange(11),
        )

    def numbers(self, split):
        return range(7) if split == "train" else range(7, 11)

    def contents(self, split):
        chosen = list(self.numbers(split))
        return self.bags.labels[chosen].numpy(), self.bags.sizes()[chosen].numpy(), ()

    def source(self, split):
        return self.bags

    def evaluation_arguments(self):
        return {}

    def _loader(self, split, size):
        bags = [self.bags.bag(n) for n in self.numbers(split)]
        return torch.utils.data.DataLoader(bags, size, collate_fn=BagBatch.collate)

    def train_dataloader(self):
        return self._loader("train", self.batch_size)

    def val_dataloader(self):
        return self._loader("val", 3)


def abmil(in_features, num_classes, task):
    return ABMIL(in_features, num_classes, task, hidden_sizes=(6,), attention_dim=3)


def module_of(model):
    return MILModule(model, lambda p: torch.optim.SGD(p, lr=0.05))


def fit(module, data, folder):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, max_epochs=2,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder,
        enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


@pytest.mark.parametrize("task", TARGETS)
def test_a_training(task, tmp_path):
    torch.manual_seed(0)
    data, module = Data(task), module_of(abmil(12, TARGETS[task], task))
    before = module.model.classifier.weight.detach().clone()
    trainer = fit(module, data, tmp_path)
    assert not torch.equal(before, module.model.classifier.weight)
    wanted = TargetCoding.fit(task, data.contents("train")[0], TARGETS[task])
    assert module.target_coding == wanted  # of the training bags alone
    fresh = module_of(abmil(12, TARGETS[task], task))
    fresh.restore_facts(module.facts())
    assert fresh.target_coding == wanted
    val = BagBatch.collate([data.bags.bag(n) for n in range(7, 11)])
    with torch.no_grad():
        output = module.eval().network(val)
        loss = module.network.losses(output, module.coded(val))["bag"]
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_array_equal(module.bag_scores.labels, val.labels)  # in users' units
    assert module.bag_scores.labels.dtype == val.labels.numpy().dtype
    wanted = module.predicted(output).double().numpy()
    np.testing.assert_allclose(module.bag_scores.probabilities, wanted, rtol=0, atol=1e-6)


def test_a_model_sees_codes_and_edges_do_not_see_the_validation_bags(tmp_path):
    data, module = Data("discrete_time"), module_of(abmil(12, 4, "discrete_time"))
    fit(module, data, tmp_path)
    assert module.target_coding.edges[-1] == 13  # not 90
    assert module.coded(data.bags).labels[[0, 8], 0].tolist() == [2, 3]
    assert data.bags.labels[8, 0] == 90
    classes = MILModule(ABMIL(12, 2, "binary"), torch.optim.SGD)
    assert classes.coded(data.bags) is data.bags


def test_a_cox_step_of_one_bag_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"always 0.*Raise data.batch_size"):
        fit(module_of(abmil(12, 1, "cox")), Data("cox", batch_size=1), tmp_path)
    check_step("cox", 2)
    check_step("discrete_time", 1)


def test_a_last_batch_of_one_bag_trains_nothing_and_is_fine(tmp_path):
    module = module_of(abmil(12, 1, "cox"))
    fit(module, Data("cox", batch_size=3), tmp_path)  # 3, 3 and 1
    assert all(p.isfinite().all() for p in module.parameters())


def test_training_bags_without_an_event_are_refused(tmp_path):
    data = Data("cox")
    data.bags = dataclass_with(data.bags, TIMES * torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="none of the 7 training bags has an event"):
        fit(module_of(abmil(12, 1, "cox")), data, tmp_path)


def dataclass_with(bags, labels):
    import dataclasses

    return dataclasses.replace(bags, labels=labels)


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_cox_loss_of_a_split_has_one_risk_set(wrapped):
    """Not one a batch, and with the ties of the wrapper."""
    torch.manual_seed(0)
    model = BreslowCox(12, 1, "cox", learner=abmil) if wrapped else abmil(12, 1, "cox")
    module, bags = module_of(model).eval(), target_bags("cox", dtype=torch.float32)
    found = module.validation_metrics([bags.bag(0), *bags.bags()[::-1]])
    with torch.no_grad():
        risks = model(bags).logits[:, 0].double()
    events = bags.labels[:, 1] == 1
    ties = "breslow" if wrapped else "efron"
    loss = cox_shares(risks, bags.labels[:, 0], events, ties).sum() / events.sum()
    assert found["val/loss_bag"] == pytest.approx(float(loss), abs=1e-9)


def test_a_bag_that_is_not_finite_is_named():
    bags = target_bags("cox", dtype=torch.float32)
    bags.features[bags.offsets[3]] = math.nan
    module = module_of(abmil(12, 1, "cox")).eval()
    with pytest.raises(ValueError, match=r"loss is not finite: val; samples \['14'\]"):
        module.validation_metrics([bags])


def test_weights_of_terms_that_a_task_drops():
    weights = {"bag": 0.7, "instance": 0.3}
    for task, wanted in (("cox", {}), ("ordinal", weights), ("multiclass", weights)):
        model = CLAM(12, 1 if task == "cox" else 3, task)
        module = MILModule(model, torch.optim.SGD, loss_weights=weights)
        assert module.loss_weights == wanted


def test_metrics_of_classes_are_not_said_to_be_undefined():
    assert module_of(abmil(12, 1, "cox")).undefined("val/bag_auroc") == ""


@pytest.mark.parametrize("task", TARGETS)
def test_values_are_in_the_units_of_users(task):
    torch.manual_seed(0)
    module, bags = module_of(abmil(12, TARGETS[task], task)).eval(), Data(task).bags
    module.fit_targets(LABELS[task].numpy(), TARGETS[task])
    with torch.no_grad():
        output = module.network(bags)
    found = module.predicted(output)
    if task != "regression":
        assert torch.equal(found, output.predictions(task))
        return
    mean, deviation = (torch.tensor(v) for v in (np.nanmean(VALUES, 0), np.nanstd(VALUES, 0)))
    assert torch.allclose(found, output.logits.double() * deviation + mean)


@pytest.mark.parametrize("task", TARGETS)
def test_metrics_that_labels_leave_undefined_have_a_reason(task):
    main = HEADLINE[task]
    labels = LABELS[task].numpy()
    assert undefined_target_metric(main, labels, task, 3) == ""
    assert undefined_target_metric("loss", labels, task, 3) == ""
    constant = np.zeros_like(labels)
    if task == "ordinal":
        main = "bag_auroc"
    assert undefined_target_metric(main, constant, task, 3)
    unknown = labels * 0 - 1 if task == "ordinal" else labels * math.nan
    assert undefined_target_metric(main, unknown, task, 3) == "no validation bag has a known target"
    if task == "cox":
        assert "after the training" in undefined_target_metric("bag_ibs", labels, task, 1)


def test_every_metric_can_be_monitored_by_its_direction():
    for task, names in METRICS.items():
        for name in names:
            wanted = "min" if name in ("bag_ibs", "bag_mae", "bag_rmse") else "max"
            assert best_of(f"val/{name}", MILModule) == wanted, (task, name)


def test_an_early_event_has_a_high_risk():
    """C is that of the risks as they are, of the known bags alone."""
    module, bags = module_of(abmil(12, 1, "cox")).eval(), Data("cox").bags
    with torch.no_grad():
        risk = module.network(bags).risk("cox").numpy()
    module.fit_targets(LABELS["cox"].numpy(), 1)
    found = module.validation_metrics(bags.bags())
    pairs = [
        float(risk[i] > risk[j])
        for (i, (t, d)) in enumerate(TIMES.tolist())
        for (j, (s, e)) in enumerate(TIMES.tolist())
        if d == 1 and (t < s or (t == s and e == 0 and i != j))
    ]
    assert found["val/bag_c_index"] == pytest.approx(sum(pairs) / len(pairs))
    assert "val/bag_ibs" not in found
