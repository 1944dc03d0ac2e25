"""What a training protocol relies on: progress, factors of loss terms, what follows a step."""

import functools

import pytest
import pytorch_lightning as pl
import torch

from datamodules.mil.digit_bags import DigitBagsDataModule
from datamodules.mil.features import FeatureBagsDataModule
from lightning_modules.mil import MILModule
from models.mil.abmil import ABMIL
from models.mil.aem import AEM
from models.mil.ins import INS
from structures import BagBatch


class Scheduled(ABMIL):
    """Two terms whose weights move in opposite directions, and a note of what it was told."""

    told = None

    def losses(self, output, bags, reduction="mean"):
        bag = super().losses(output, bags, reduction)["bag"]
        return {"bag": bag, "other": 3 * bag.detach() + 0 * bag}

    def loss_factors(self, progress):
        return {"other": 1 - progress}

    def set_training_bags(self, numbers, labels, sizes):
        self.told = numbers, labels, sizes


class Protocol(MILModule):
    """Writes down when it is asked what."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seen = []

    def training_terms(self, bags):
        self.seen.append(("terms", self.progress))
        self.before = self.model.classifier.weight.detach().clone()
        return super().training_terms(bags)

    def after_optimizer_step(self):
        moved = not torch.equal(self.before, self.model.classifier.weight)
        self.seen.append(("stepped", moved))


def protocol(**options):
    torch.manual_seed(0)
    model = Scheduled(64, 2, "binary", hidden_sizes=(8,), attention_dim=4)
    return Protocol(model, lambda p: torch.optim.SGD(p, lr=0.01), **options)


def data():
    return DigitBagsDataModule(train_bags=12, val_bags=4, test_bags=4, batch_size=2)


def fit(module, folder, checkpoint=None, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder,
        num_sanity_val_steps=0, enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data(), ckpt_path=checkpoint)
    return trainer


def test_progress_is_the_share_of_steps_done(tmp_path):
    module = protocol()
    fit(module, tmp_path, max_epochs=2)  # 12 bags, 2 a step: 12 steps
    assert [p for what, p in module.seen if what == "terms"] == [s / 12 for s in range(12)]
    assert [what for what, _ in module.seen] == ["terms", "stepped"] * 12
    assert all(moved for what, moved in module.seen if what == "stepped")


def test_a_step_of_accumulated_batches_is_followed_once(tmp_path):
    module = protocol()
    fit(module, tmp_path, max_epochs=2, accumulate_grad_batches=3)
    steps = [what for what, _ in module.seen]
    assert steps == ["terms", "terms", "terms", "stepped"] * 4
    shares = [p for what, p in module.seen if what == "terms"]
    assert shares == [step / 4 for step in range(4) for _ in range(3)]


def test_the_model_is_told_of_the_training_bags_and_of_no_others(tmp_path):
    module = protocol()
    fit(module, tmp_path, max_epochs=1)
    numbers, labels, sizes = module.model.told
    bags = data().source("train")
    assert numbers.tolist() == bags.index.tolist() == list(range(12))
    assert labels.tolist() == bags.labels.tolist()
    assert sizes.tolist() == bags.sizes().tolist()


class Seen(MILModule):
    """Writes down the types of the features that cross to the device and that a step gets."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.crossing, self.used = set(), set()

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.crossing.add(batch.features.dtype)
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def training_terms(self, bags):
        self.used.add(bags.features.dtype)
        return super().training_terms(bags)

    def validation_step(self, bags, batch_idx):
        self.used.add(bags.features.dtype)
        return super().validation_step(bags, batch_idx)


@pytest.mark.parametrize("options", [{}, {"max_instances": 4}, {"chunk_instances": 3}], ids=str)
def test_half_precision_crosses_to_the_device_and_single_is_trained_on(write_slides, options):
    model = ABMIL(4, 2, "binary", hidden_sizes=(8,), attention_dim=4)
    module = Seen(model, lambda p: torch.optim.SGD(p, lr=0.01))
    slides = FeatureBagsDataModule(write_slides(16), batch_size=4, val_fraction=0.3, **options)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, max_epochs=1,
        enable_model_summary=False, use_distributed_sampler=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=slides)
    trainer.test(module, dataloaders=slides.predict_dataloader(), verbose=False)
    assert (module.crossing, module.used) == ({torch.float16}, {torch.float32})


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_factors_multiply_weights_of_the_recipe(progress):
    module = protocol(loss_weights={"bag": 0.5, "other": 2.0})
    module.progress = progress
    terms = {"bag": torch.tensor(10.0), "other": torch.tensor(100.0)}
    assert float(module.weighted_sum(terms)) == pytest.approx(5 + 200 * (1 - progress))


def test_validation_is_weighted_like_the_step_before_it(tmp_path):
    module = protocol()
    trainer = fit(module, tmp_path, max_epochs=1)  # 6 steps; the last one began at 5 / 6
    logged = trainer.logged_metrics
    bag, other = float(logged["val/loss_bag"]), float(logged["val/loss_other"])
    assert other == pytest.approx(3 * bag)
    assert float(logged["val/loss"]) == pytest.approx(bag + other / 6)


def test_a_checkpoint_brings_progress_back(tmp_path):
    module = protocol()
    trainer = fit(module, tmp_path, max_epochs=4, limit_train_batches=6, max_steps=8)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    record = torch.load(tmp_path / "half.ckpt", weights_only=True)["segmil"]
    assert record["facts"]["progress"] == module.progress == 7 / 8
    rebuilt = protocol()
    rebuilt.restore_facts(record["facts"])
    assert rebuilt.progress == 7 / 8
    again = protocol()
    fit(again, tmp_path, tmp_path / "half.ckpt", max_epochs=4, limit_train_batches=6, max_steps=16)
    assert [p for what, p in again.seen if what == "terms"] == [s / 16 for s in range(8, 16)]


def test_only_the_bag_whose_loss_overflows_is_named():
    model = ABMIL(3, 2, "binary", hidden_sizes=(4,))
    module = MILModule(model, lambda p: torch.optim.SGD(p, lr=0.1)).eval()
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    features[2] = 3e38  # finite, its embedding is not
    with torch.no_grad():
        model.embed[1].weight.fill_(1.0)
    bags = BagBatch(
        features, torch.tensor([0, 2, 4, 5]), torch.tensor([0, 1, 1]), torch.tensor([3, 5, 7]),
        bag_ids=("three", "five", "seven"),
    )  # fmt: skip
    module.on_validation_epoch_start()
    with torch.no_grad():
        together = module.validation_step(bags, 0)
        alone = [float(module.network(bag).logits.sigmoid()) for bag in bags.bags()]
    assert together.logits.shape == (3, 1)
    assert module._losses.not_finite() == ["five"]
    scores = module._collector.scores()
    assert scores.index.tolist() == [3, 5, 7]
    assert scores.probabilities.tolist() == pytest.approx(alone, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_with_a_protocol_of_its_own_is_not_trained_without(wrapped):
    """By `losses` alone INS would train another method, without a word."""
    learner = functools.partial(INS, hidden_sizes=(4,), queue_size=8)
    model = AEM(3, 2, "binary", learner=learner) if wrapped else learner(3, 2, "binary")
    with pytest.raises(TypeError, match="INS needs the module of its own training"):
        MILModule(model, lambda p: torch.optim.SGD(p, lr=0.1))
