import dataclasses

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from datamodules.mil.npz_file import read_bag_file
from engine.checkpoints.stages import (
    first_stage_config,
    first_stage_section,
    interrupted_run,
    staged_class,
    unfinished_stage,
)
from engine.cross_validation.folds import run_fold
from engine.cross_validation.run import cross_validate, read_recipe
from lightning_modules.mhim import MHIMModule
from lightning_modules.mil import MILModule
from lightning_modules.rebuilding import without_sources
from lightning_modules.staged import load_exactly
from models.mil.abmil import ABMIL
from models.mil.mhim import MHIM
from models.mil.mhim.masking import MaskRatios

LEARNER = {
    "class_path": "models.mil.abmil.ABMIL",
    "init_args": {"hidden_sizes": [6], "attention_dim": 4, "dropout": 0.25},
}
OPTIMIZER = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.01, "weight_decay": 0.1}}
RECIPE = {
    "model": {
        "class_path": "lightning_modules.mhim.MHIMModule",
        "init_args": {
            "model": {
                "class_path": "models.mil.mhim.MHIM",
                "init_args": {"learner": LEARNER, "masks": {"random": 0.3}, "momentum": 0.9},
            },
            "optimizer": OPTIMIZER,
            "loss_weights": {"consistency": 0.5, "bag": 2.0},
            "threshold": 0.5,
        },
    },
    "data": {
        "class_path": "datamodules.mil.npz.TabularBagsDataModule",
        "init_args": {"batch_size": 4},
    },
    "trainer": {"max_steps": 6},
}


@pytest.fixture
def recipe_file(tmp_path):
    file = tmp_path / "mhim.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    return file


@pytest.fixture
def bag_file(tmp_path):
    random, sizes = np.random.default_rng(0), np.tile([1, 2, 7, 3], 5)
    labels = np.arange(20) % 2
    features = random.normal(size=(sizes.sum(), 5)) + np.repeat(labels, sizes)[:, None]
    file = tmp_path / "bags.npz"
    np.savez(file, X=features, bag_index=np.repeat(np.arange(20), sizes), y=labels)
    return file


def module_for(**options):
    model = MHIM(
        5, 2, "binary",
        learner=lambda *facts: ABMIL(*facts, hidden_sizes=(6,), attention_dim=4),
        masks=MaskRatios(random=0.3),
    )  # fmt: skip
    return MHIMModule(model, torch.optim.AdamW, **options)


def test_the_first_stage_of_mhim_is_the_plain_model():
    section = first_stage_section(RECIPE["model"])
    assert section == {
        "class_path": "lightning_modules.mil.MILModule",
        "init_args": {
            "model": LEARNER, "optimizer": OPTIMIZER, "threshold": 0.5,
            "loss_weights": {"bag": 2.0},
        },
    }  # fmt: skip
    assert RECIPE["model"]["init_args"]["loss_weights"] == {"consistency": 0.5, "bag": 2.0}
    arguments = RECIPE["model"]["init_args"] | {"teacher": "t.ckpt"}
    assert first_stage_section(RECIPE["model"] | {"init_args": arguments}) is None
    assert first_stage_section(section) is None
    for learner in ("m.X", {"class_path": "m.X"}):
        model = {"init_args": {"learner": learner, "masks": {}}}
        found = MHIMModule.first_stage({"init_args": {"model": model, "init_from": "w.ckpt"}})
        assert found["init_args"] == {
            "model": {"class_path": "m.X", "init_args": {}}, "loss_weights": None,
        }  # fmt: skip
    assert staged_class(RECIPE["model"]) is MHIMModule


def test_the_first_stage_has_everything_else_of_the_run(tmp_path):
    config = RECIPE | {"ckpt_path": "x.ckpt", "config": ["r.yaml"], "seed_everything": 3}
    section = {"class_path": "lightning_modules.mil.MILModule"}
    own = first_stage_config(config, section, None)
    assert own == {k: RECIPE[k] for k in ("data", "trainer")} | {
        "model": section, "seed_everything": 3,
    }  # fmt: skip
    last = tmp_path / "last.ckpt"
    assert first_stage_config(config, section, last)["ckpt_path"] == str(last)
    elsewhere = config | {"checkpoint": {"dirpath": "files", "monitor": "val/loss"}}
    own = first_stage_config(elsewhere, section, None)
    assert own["checkpoint"] == {"dirpath": "files/first_stage", "monitor": "val/loss"}
    assert elsewhere["checkpoint"]["dirpath"] == "files"


def test_which_run_a_checkpoint_of_a_first_stage_belongs_to(tmp_path):
    run = tmp_path / "run"
    first = run / "first_stage" / "checkpoints" / "last.ckpt"
    second = run / "checkpoints" / "last.ckpt"
    first.parent.mkdir(parents=True)
    first.touch()
    assert interrupted_run(first) is None  # nothing says what the second stage would be
    (run / "config.yaml").touch()
    assert interrupted_run(first) == run
    assert unfinished_stage(second) == first
    second.parent.mkdir()
    second.touch()
    assert interrupted_run(first) is None  # the second stage has begun with its weights
    assert unfinished_stage(second) == second
    assert interrupted_run(second) is None
    assert unfinished_stage(tmp_path / "checkpoints" / "last.ckpt").name == "last.ckpt"


def test_only_the_very_weights_are_taken():
    module = nn.Linear(2, 1)
    with pytest.raises(ValueError, match=r"bias: missing; other: unknown; weight: \(1, 3\) for"):
        load_exactly(module, {"weight": torch.zeros(1, 3), "other": torch.zeros(1)})
    with pytest.raises(ValueError, match="bias: not finite"):
        load_exactly(module, {"weight": torch.zeros(1, 2), "bias": torch.tensor([torch.inf])})
    load_exactly(module, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    assert module.weight.tolist() == [[1.0, 1.0]]


def test_what_mhim_takes_over():
    module = module_for()
    own = {n: v.clone() for n, v in module.mhim.student.state_dict().items()}
    state = {n: torch.full_like(v, 0.5) for n, v in own.items()}
    assert not module.first_stage_loaded
    module.receive(state)
    assert module.first_stage_loaded
    assert all((v == 0.5).all() for v in module.mhim.teacher.state_dict().values())
    for name, value in module.mhim.student.state_dict().items():
        assert torch.equal(value, state[name] if name.startswith("embed.") else own[name])


def test_the_optimizer_has_the_student_alone():
    module = module_for()
    groups = module.build_optimizer().param_groups
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in module.mhim.student.parameters()}


def test_the_share_of_the_training_reaches_masks_and_momentum(monkeypatch):
    module, calls = module_for(), []
    monkeypatch.setattr(module.mhim, "update_teacher", calls.append)
    monkeypatch.setattr(module.mhim, "training_losses", lambda bags, share: {bags: share})
    module.progress = 0.25
    module.after_optimizer_step()
    assert calls == [0.25]
    assert module.training_terms("bags") == {"bags": 0.25}


def test_a_checkpoint_asks_for_no_file_and_keeps_networks_of_that_name():
    network = {"class_path": "models.mil.layers.lenet.LeNetEncoder", "init_args": {"side": 8}}
    learner = {"class_path": "models.mil.abmil.ABMIL", "init_args": {"encoder": network}}
    for module, argument in (("mhim.MHIMModule", "teacher"), ("sc_mil.SCMILModule", "encoder")):
        path = f"lightning_modules.{module}"
        given = {argument: "t.ckpt", "init_from": "i.pt", "model": learner}
        assert without_sources({"class_path": path, "init_args": given}) == {
            "class_path": path, "init_args": {argument: None, "init_from": None, "model": learner},
        }  # fmt: skip


def test_training_without_a_first_stage_is_refused():
    with pytest.raises(ValueError, match="begins with the weights of its first stage and has none"):
        module_for().on_fit_start()
    with pytest.raises(TypeError, match="MHIMModule trains an MHIM, not a Linear"):
        MHIMModule(nn.Linear(1, 1), torch.optim.AdamW)


def test_each_fold_trains_its_own_first_stage(recipe_file, bag_file, monkeypatch):
    taken, take = [], MHIMModule.load_first_stage

    def take_and_tell(self, state):
        taken.append({n: v.clone() for n, v in state.items()})
        take(self, state)

    monkeypatch.setattr(MHIMModule, "load_first_stage", take_and_tell)
    result = cross_validate(recipe_file, bag_file, 2, 1, workers=1)
    assert len(taken) == 2
    assert result.protocol.endswith(" in each of two stages")
    assert not torch.equal(taken[0]["classifier.weight"], taken[1]["classifier.weight"])
    assert result.probabilities.shape == (1, 20)


def test_a_fold_without_a_first_stage_is_refused(recipe_file, bag_file):
    recipe = dataclasses.replace(read_recipe(recipe_file), first=None)
    with pytest.raises(ValueError, match="begins with the weights of its first stage"):
        run_fold(read_bag_file(bag_file), np.arange(20) % 2, recipe, (0, 0, 1))


def test_the_first_stage_of_a_fold_is_trained_on_its_training_bags(
    recipe_file, bag_file, monkeypatch
):
    steps, terms = [], MILModule.training_terms

    def terms_and_tell(self, bags):
        steps.append((type(self).__name__, self.progress, bags.index.tolist()))
        return terms(self, bags)

    def mhim_and_tell(self, bags):
        steps.append((type(self).__name__, self.progress, bags.index.tolist()))
        return mhim(self, bags)

    mhim = MHIMModule.training_terms
    monkeypatch.setattr(MILModule, "training_terms", terms_and_tell)
    monkeypatch.setattr(MHIMModule, "training_terms", mhim_and_tell)
    folds = np.arange(20) // 2 % 2
    run_fold(read_bag_file(bag_file), folds, read_recipe(recipe_file), (0, 0, 1))
    names = [name for name, *_ in steps]
    assert names == ["MILModule"] * 6 + ["MHIMModule"] * 6
    assert [progress for _, progress, _ in steps] == [s / 6 for s in range(6)] * 2
    assert {bag for *_, bags in steps for bag in bags} <= set(np.flatnonzero(folds == 0).tolist())


def test_a_teacher_in_cross_validation_is_refused(recipe_file, bag_file):
    recipe = yaml.safe_load(recipe_file.read_text())
    recipe["model"]["init_args"]["teacher"] = "t.ckpt"
    recipe_file.write_text(yaml.safe_dump(recipe))
    with pytest.raises(ValueError, match="teacher may have seen the test bags"):
        cross_validate(recipe_file, bag_file, 2, 1, workers=1)
