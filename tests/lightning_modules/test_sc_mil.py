"""SC-MIL in one stage and in two: which terms train what, and what the second stage takes over."""

import copy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

import train
from datamodules.mil.digit_bags import DigitBagsDataModule
from lightning_modules.sc_mil import SCMILModule
from models.mil.abmil import ABMIL
from models.mil.dsmil import DSMIL
from models.mil.sc_mil import SCMIL

ROOT = Path(__file__).resolve().parents[2]
HEAD = {"learner.classifier.weight", "learner.classifier.bias"}


def learner(*facts):
    return ABMIL(*facts, hidden_sizes=(8,), attention_dim=4, dropout=0.1)


def sc_mil(seed=0, **options):
    torch.manual_seed(seed)
    options = {"view_instances": 4, "projection_dim": 6} | options
    return SCMIL(64, 2, "binary", learner=learner, **options)


def module(model=None, **options):
    def adam(parameters):
        return torch.optim.Adam(parameters, lr=0.01, weight_decay=0.1)

    return SCMILModule(sc_mil() if model is None else model, adam, **options)


def data():
    return DigitBagsDataModule(
        train_bags=12, val_bags=4, test_bags=4, batch_size=4, sampler="balanced_batches"
    )


def fit(trained, folder, checkpoint=None, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, default_root_dir=folder,
        num_sanity_val_steps=0, enable_checkpointing=False, **options,
    )  # fmt: skip
    pl.seed_everything(0, verbose=False)
    trainer.fit(trained, datamodule=data(), ckpt_path=checkpoint, weights_only=True)
    return trainer


def weights(trained):
    return {n: v.clone() for n, v in trained.model.state_dict().items()}


def test_a_step_minimises_the_two_terms_by_the_curriculum():
    trained = module(loss_weights={"contrastive": 2.0}).train()
    bags = data().source("train")
    torch.manual_seed(0)
    terms = trained.training_terms(bags)
    for progress, alpha in [(0.0, 1.0), (0.5, 0.75), (1.0, 0.0)]:
        trained.progress = progress
        expected = 2 * alpha * terms["contrastive"] + (1 - alpha) * terms["bag"]
        torch.testing.assert_close(trained.total_loss(terms, ()), expected, rtol=1e-6, atol=0)
    assert trained.eval().loss_factors() == {}


def test_validation_losses_do_not_follow_the_curriculum(tmp_path):
    trained = module()
    trainer = fit(trained, tmp_path, max_epochs=2)
    logged = trainer.callback_metrics
    assert {"train/loss_contrastive", "train/loss_bag"} <= set(logged)
    assert trained.progress == 5 / 6  # of the last step
    assert logged["val/loss"].item() == pytest.approx(logged["val/loss_bag"].item(), rel=1e-6)
    assert "val/loss_contrastive" not in logged


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    class Save(pl.Callback):
        def on_train_epoch_end(self, trainer, *_):
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "first.ckpt")

    whole, resumed = module(), module(sc_mil(seed=1))
    fit(whole, tmp_path, max_epochs=3, callbacks=[Save()])
    fit(resumed, tmp_path, tmp_path / "first.ckpt", max_epochs=3)
    assert resumed.progress == whole.progress == 8 / 9
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_the_second_stage_trains_the_head_alone(tmp_path):
    first = module(sc_mil(curriculum="contrastive"))
    start = weights(first)
    fit(first, tmp_path, max_epochs=2)
    state = weights(first)
    unmoved = {n for n, v in start.items() if torch.equal(state[n], v)}
    assert unmoved == {"learner.classifier.bias"}  # its weight has shrunk by weight decay

    second = module(sc_mil(seed=5), two_stage=True)
    assert second.needs_first_stage
    fresh = weights(second)
    second.receive(state)
    begun = weights(second)
    assert all(torch.equal(begun[n], fresh[n] if n in HEAD else state[n]) for n in state)
    fit(second, tmp_path, max_epochs=2)
    for name, value in weights(second).items():
        assert torch.equal(value, state[name]) == (name not in HEAD), name
    trained = {n for n, p in second.model.named_parameters() if p.requires_grad}
    assert trained == HEAD


def test_the_second_stage_sees_whole_bags_and_no_contrast():
    second = module(two_stage=True).train()
    bags = data().source("train")
    torch.manual_seed(2)
    terms = second.training_terms(bags)
    torch.manual_seed(2)
    output = second.model(bags)
    assert set(terms) == {"bag"}
    assert terms["bag"] == second.model.losses(output, bags)["bag"]
    assert second.loss_factors() == {}


class WithProjection(ABMIL):
    """A model with a schedule whose head has the name that SC-MIL gives its own part."""

    def __init__(self, *facts):
        super().__init__(*facts, hidden_sizes=(8,), attention_dim=4)
        self.projection = torch.nn.Sequential(torch.nn.Linear(8, 1))

    def pool(self, bags):
        output = super().pool(bags)
        return type(output)(self.projection(output.embeddings), embeddings=output.embeddings)

    def losses(self, output, bags, reduction="mean"):
        terms = super().losses(output, bags, reduction)
        return terms | {"size": output.logits.square().mean()}

    def loss_factors(self, progress):
        return {"size": 1 - progress}


def test_the_second_stage_keeps_the_models_schedule_and_trains_its_head_alone():
    model = SCMIL(64, 2, "binary", learner=WithProjection, view_instances=4)
    second = module(model, two_stage=True, loss_weights={"contrastive": 3.0, "size": 0.5}).train()
    second.progress = 0.75
    terms = second.training_terms(data().source("train"))
    assert set(terms) == {"bag", "size"}
    expected = terms["bag"] + 0.5 * 0.25 * terms["size"]
    torch.testing.assert_close(second.total_loss(terms, ()), expected, rtol=1e-6, atol=0)
    trained = {n for n, p in second.model.named_parameters() if p.requires_grad}
    head = {"projection.0.weight", "projection.0.bias", "classifier.weight", "classifier.bias"}
    assert trained == {f"learner.{name}" for name in head}


def test_the_recipe_of_the_first_stage():
    path = "lightning_modules.sc_mil.SCMILModule"
    recipe = {
        "class_path": path,
        "init_args": {
            "two_stage": True,
            "encoder": None,
            "model": {"class_path": "models.mil.sc_mil.SCMIL", "init_args": {"view_instances": 3}},
            "threshold": 0.5,
        },
    }
    before = copy.deepcopy(recipe)
    found = SCMILModule.first_stage(recipe)
    assert recipe == before
    model = {
        "class_path": "models.mil.sc_mil.SCMIL",
        "init_args": {"view_instances": 3, "curriculum": "contrastive"},
    }
    assert found == {
        "class_path": path,
        "init_args": {"two_stage": False, "model": model, "threshold": 0.5},
    }
    del recipe["init_args"]["encoder"]
    assert SCMILModule.first_stage(recipe) == found
    recipe["init_args"]["encoder"] = "weights.ckpt"
    assert SCMILModule.first_stage(recipe) is None
    recipe["init_args"] |= {"encoder": None, "two_stage": False}
    assert SCMILModule.first_stage(recipe) is None
    del recipe["init_args"]["two_stage"]
    assert SCMILModule.first_stage(recipe) is None


def test_weights_of_another_encoder_are_refused():
    second = module(two_stage=True)
    state = weights(module(sc_mil(projection_dim=7)))
    with pytest.raises(ValueError, match=r"projection.2.bias: \(7,\) for \(6,\)"):
        second.receive(state)
    with pytest.raises(ValueError, match="missing"):
        second.receive({})


def test_what_does_not_fit_together():
    with pytest.raises(ValueError, match="needs two_stage: true"):
        module(encoder="weights.ckpt")
    with pytest.raises(TypeError, match="trains an SCMIL, got ABMIL"):
        module(learner(64, 2, "binary"))

    class Headless(ABMIL):
        def pool(self, bags):
            output = super().pool(bags)
            return type(output)(output.logits, embeddings=output.logits)

    def headless(*facts):
        return Headless(*facts, hidden_sizes=(8,), attention_dim=4)

    model = SCMIL(64, 2, "binary", learner=headless, view_instances=4)
    module(model)
    with pytest.raises(ValueError, match="no parameter to train except those of its embedding"):
        module(model, two_stage=True)


def test_an_embedding_that_chooses_without_a_gradient_has_no_two_stages():
    model = SCMIL(64, 2, "binary", learner=DSMIL, view_instances=4)
    module(model)
    with pytest.raises(ValueError, match=r"of DSMIL depends on \['instance_classifier.weight'\]"):
        module(model, two_stage=True)


def command(*more):
    recipe = "configs/mil/sc_mil_two_stage.yaml"
    words = ["fit", "--config", recipe, "--config", "configs/_base/data/digit_bags.yaml"]
    words += ["--config", "configs/_base/small_bags.yaml"]
    words += ["--data.train_bags", "16", "--data.val_bags", "4", "--trainer.max_epochs", "1"]
    for figures in ("curves", "attention", "confusion"):
        words += [f"--callbacks.{figures}", "false"]
    return [*words, "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--debug", *more]


@pytest.mark.slow
def test_one_command_runs_both_stages(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert train.main(command("--runs_dir", str(tmp_path))) == 0
    (run,) = (tmp_path / "sc_mil_two_stage").iterdir()
    first, second = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (run / "first_stage", run)
    )
    head = {f"model.{name}" for name in HEAD}
    for name, value in first.items():
        assert torch.equal(value, second[name]) == (name not in head), name


def test_a_missing_encoder_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    arguments = ["--model.init_args.encoder", str(tmp_path / "none.ckpt")]
    words = [w for w in command("--runs_dir", str(tmp_path), *arguments) if w != "--debug"]
    assert train.main(words) == 2
    message = capsys.readouterr().err
    assert "none.ckpt" in message
    assert "encoder" in message
