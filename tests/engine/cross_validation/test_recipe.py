"""What cross-validation reads of recipes, overlays and single values."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentError

from engine.config.recipe import Recipe
from engine.cross_validation.recipe import read_recipe

RECIPE = {
    "model": {
        "class_path": "lightning_modules.mil.MILModule",
        "init_args": {
            "model": {
                "class_path": "models.mil.abmil.ABMIL",
                "init_args": {"hidden_sizes": [8], "dropout": 0.25},
            },
            "optimizer": {
                "class_path": "torch.optim.SGD",
                "init_args": {"lr": 0.01, "weight_decay": 0.1},
            },
        },
    },
    "data": {
        "class_path": "datamodules.mil.npz.TabularBagsDataModule",
        "init_args": {"batch_size": 4},
    },
    "trainer": {"max_steps": 30},
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a recipe."""

    def written(content, name="recipe.yaml"):
        (tmp_path / name).write_text(yaml.safe_dump(content))
        return tmp_path / name

    return written


def groups(recipe):
    return recipe.build(2, 5, "binary").build_optimizer().param_groups[1:]  # of what decays


def test_values_win_over_overlays_and_these_over_the_recipe(write):
    overlay = {
        "model": {"init_args": {"optimizer": {"init_args": {"lr": 0.02, "momentum": 0.9}}}},
        "trainer": {"max_epochs": 3},
    }
    files = (write(RECIPE), write(overlay, "overlay.yaml"))
    laid = groups(read_recipe(Recipe(files)))[0]
    assert (laid["lr"], laid["momentum"], laid["weight_decay"]) == (0.02, 0.9, 0.1)
    words = ("--model.optimizer.lr", "3e-4", "--trainer.max_steps=7", "--data.batch_size", "2")
    recipe = read_recipe(Recipe(files, words))
    assert groups(recipe)[0]["lr"] == 3e-4 and groups(recipe)[0]["momentum"] == 0.9
    assert (recipe.max_steps, recipe.max_epochs, recipe.plan.batch_size) == (7, 3, 2)
    assert read_recipe(files[0]).max_epochs is None


def test_paths_may_leave_init_args_out(write):
    file = write(RECIPE)
    short = ("--model.model.gated", "true", "--model.model.hidden_sizes", "[6, 5]")
    full = (
        "--model.init_args.model.init_args.gated=true",
        "--model.init_args.model.init_args.hidden_sizes=[6, 5]",
    )
    sections = [Recipe((file,), words).section("model") for words in (short, full)]
    assert sections[0] == sections[1]
    model = read_recipe(Recipe((file,), short)).build(2, 5, "binary").model
    assert model.attention_gate is not None and model.embed[3].out_features == 5
    assert model.embed[-1].p == 0.25  # what is not named stays


def test_a_value_that_was_not_there_is_added(write):
    recipe = {**RECIPE, "data": {"class_path": "datamodules.mil.npz.TabularBagsDataModule"}}
    words = (
        "--data.standardise",
        "false",
        "--trainer.max_steps",
        "null",
        "--trainer.max_epochs",
        "2",
    )
    read = read_recipe(Recipe((write(recipe),), words))
    assert (read.standardise, read.max_steps, read.max_epochs) == (False, None, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seed_everything", "3"), "unrecognized argument --seed_everything"),
        (("--callbacks.ema", "3"), "unrecognized argument --callbacks.ema"),
        (("model.model.gated", "3"), "unrecognized argument model.model.gated"),
        (("--trainer.max_steps",), "--trainer.max_steps needs a value"),
        (("--model.model.gatde", "true"), "gatde"),
        (("--data.batch_size", "many"), "batch_size"),
        (("--trainer.limit_train_batches", "2"), "does not follow .*limit_train_batches"),
        (("--model.optimizer", "Adam"), r"Adam cannot be laid over torch.optim.SGD; write"),
        (("--model.model.hidden_sizes", "[8, 4"), r"hidden_sizes: \[8, 4 is not valid YAML"),
        (("--trainer.gradient_clip_val", "much"), "gradient_clip_val must be a number >= 0"),
        (("--data.num_folds", "5"), "no effect in cross-validation; .*see --folds"),
        (("--data.file=b.npz",), "no effect in cross-validation; name the bags by --data"),
        (
            ("--model.optimizer.class_path", "torch.optim.Adam"),
            r"torch.optim.Adam cannot be laid over torch.optim.SGD; write a separate recipe",
        ),
    ],
)
def test_wrong_values_are_refused(write, words, message):
    with pytest.raises((ValueError, ArgumentError), match=message):
        read_recipe(Recipe((write(RECIPE),), words)).build(2, 5, "binary")


def test_clipping_at_zero_is_none_as_in_the_trainer(write):
    for words, norm in ((), None), (("0",), None), (("0.5",), 0.5):
        flags = ("--trainer.gradient_clip_val", *words) if words else ()
        assert read_recipe(Recipe((write(RECIPE),), flags)).clip_norm == norm


def test_overlays_are_checked(write, tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml"):
        read_recipe(Recipe((write(RECIPE), Path("absent.yaml"))))
    other = write({"model": {"class_path": "lightning_modules.ins.INSModule"}}, "other.yaml")
    with pytest.raises(ValueError, match=r"other\.yaml: model: .*INSModule cannot be laid over"):
        read_recipe(Recipe((write(RECIPE), other)))
    (tmp_path / "trainer.yaml").write_text("max_epochs: 9\n")
    named = write({"trainer": "trainer.yaml"}, "named.yaml")
    assert read_recipe(Recipe((write(RECIPE), named))).max_epochs == 9
    with pytest.raises(ValueError, match="'data' must be a mapping or a file"):
        read_recipe(Recipe((write(RECIPE), write({"data": 3}, "number.yaml"))))
