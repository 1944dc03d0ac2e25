"""How a recipe says by which metric weights are selected and when a training ends."""

import pytest
import yaml

from engine.config.recipe import Recipe
from engine.cross_validation.recipe import Choice, read_recipe
from engine.cross_validation.selection import Interval, Selection, Stopping

BEST = Choice("best", 0.3)
STOPPING = "pytorch_lightning.callbacks.EarlyStopping"


@pytest.fixture
def recipe(config, tmp_path):
    """Return a function that adds sections, files and words to the recipe of the tests."""

    def written(words=(), overlays=(), **sections):
        content = yaml.safe_load(config().read_text())
        content["checkpoint"] = {"monitor": "val/bag_auroc", "filename": "best"}
        content["trainer"] |= sections.pop("trainer", {})
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(content | sections))
        files = [file]
        for number, overlay in enumerate(overlays):
            files.append(tmp_path / f"overlay{number}.yaml")
            files[-1].write_text(yaml.safe_dump(overlay))
        return Recipe(tuple(files), tuple(words))

    return written


def selection(recipe):
    return read_recipe(recipe, BEST).selection


def test_the_metric_is_that_of_the_best_checkpoint(recipe):
    assert selection(recipe()) == Selection("val/bag_auroc", "max", 0.3)
    loss = selection(recipe(["--checkpoint.monitor", "val/loss"]))
    assert (loss.monitor, loss.mode) == ("val/loss", "min")
    assert selection(recipe(["--checkpoint.mode=min"])).mode == "min"
    often = selection(recipe(["--trainer.val_check_interval", "4"]))
    assert often.interval == Interval(4, 1)
    steps = {"val_check_interval": 10, "check_val_every_n_epoch": None}
    assert selection(recipe(trainer=steps)).interval == Interval(10, None)
    assert read_recipe(recipe()).selection is None


def test_early_stopping_of_a_section_of_a_callback_and_of_both(recipe):
    section = selection(recipe(early_stopping={"patience": 4}))
    assert section.stopping == (Stopping("val/bag_auroc", "max", 4, 0.0),)
    words = ["--early_stopping.patience", "2", "--early_stopping.min_delta", "0.1"]
    assert selection(recipe(words)).stopping == (Stopping("val/bag_auroc", "max", 2, 0.1),)
    arguments = {"monitor": "val/loss", "patience": 10, "mode": "min", "verbose": True}
    callback = {"class_path": STOPPING, "init_args": arguments}
    by_loss = Stopping("val/loss", "min", 10, 0.0)
    assert selection(recipe(trainer={"callbacks": [callback]})).stopping == (by_loss,)
    both = selection(recipe(trainer={"callbacks": callback}, early_stopping={}))
    assert both.stopping == (Stopping("val/bag_auroc", "max", 10, 0.0), by_loss)
    off = recipe(overlays=[{"early_stopping": None}], early_stopping={"patience": 4})
    assert selection(off).stopping == ()
    assert read_recipe(off).selection is None


SOME = {"class_path": STOPPING, "init_args": {"monitor": "val/loss"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": {}}, "--select best needs a metric, but checkpoint.monitor names none"),
        ({"checkpoint": {"monitor": "val/segm_map"}}, "val/segm_map, which is no metric of a val"),
        ({"checkpoint": {"monitor": "train/loss"}}, "train/loss, which is no metric of a valid"),
        ({"checkpoint": {"monitor": "val/bag_aurocc"}}, r"did you mean val/bag_auroc\?"),
        ({"checkpoint": {"monitor": "val/loss", "mode": "up"}}, "mode must be max or min"),
        ({"early_stopping": {"patience": 0}}, "early_stopping.patience must be at least 1"),
        ({"early_stopping": {"patients": 3}}, "early_stopping has no patients; it has patience"),
        ({"early_stopping": {"patience": "two"}}, "early_stopping.patience must be a number"),
        ({"trainer": {"callbacks": [{"class_path": STOPPING}]}}, "trainer.*monitor"),
        (
            {"trainer": {"callbacks": {**SOME, "init_args": {"monitor": "val/x"}}}},
            "EarlyStopping.monitor is val/x, which is no metric",
        ),
        (
            {"trainer": {"callbacks": [
                {**SOME, "init_args": {"monitor": "val/loss", "stopping_threshold": 0.1}}
            ]}},
            "stopping_threshold of EarlyStopping has no effect",
        ),
        (
            {"trainer": {"callbacks": ["LearningRateMonitor"]}},
            "callback LearningRateMonitor of trainer.callbacks has no effect",
        ),
        ({"trainer": {"val_check_interval": "00:10"}}, "val_check_interval must be a number"),
        (
            {"trainer": {"val_check_interval": 0.5, "check_val_every_n_epoch": None}},
            "val_check_interval must be a number",
        ),
        ({"trainer": {"check_val_every_n_epoch": 0}}, "check_val_every_n_epoch must be at least"),
    ],
)  # fmt: skip
def test_wrong_recipes_are_refused(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        selection(recipe(**changes))


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"trainer": {"callbacks": [SOME]}}, [], "trainer.callbacks needs .* give --select best"),
        ({"early_stopping": {}}, ["--early_stopping.patience", "3"], "has no effect with --select"),
        ({"early_stopping": {"patience": 3}}, [], "early_stopping needs validation bags"),
        ({"ema": {"decay": 0.9}}, [], "ema has no effect in cross-validation"),
        ({"wandb": {"project": "p"}}, [], "wandb has no effect .* give --wandb PROJECT"),
        ({}, ["--checkpoint.monitor", "val/loss"], "--checkpoint.monitor has no effect with"),
        ({}, ["--checkpoint.save_top_k", "3"], "--checkpoint.save_top_k has no effect in"),
        ({}, ["--trainer.val_check_interval", "3"], "--trainer.val_check_interval has no effect"),
        ({}, ["--trainer.log_every_n_steps", "3"], "--trainer.log_every_n_steps has no effect"),
        ({}, ["--data.eval_batch_size", "3"], "--data.eval_batch_size has no effect"),
    ],
)
def test_what_has_no_effect_on_the_last_weights_is_refused(recipe, changes, words, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe(words, **changes))


def test_callbacks_can_be_switched_off(recipe):
    trained = recipe(["--trainer.callbacks", "null"], trainer={"callbacks": [SOME]})
    assert read_recipe(trained).selection is None
