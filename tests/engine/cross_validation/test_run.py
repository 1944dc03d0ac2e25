import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

import evaluate
from datamodules.mil.folds import hold_out
from datamodules.mil.npz import TabularBagsDataModule
from datamodules.mil.npz_file import read_bag_file
from datamodules.mil.samplers import BatchPlan
from datamodules.sampling.keys import EpochBatchSampler, keyed_generator
from engine.cross_validation.folds import batches_of_steps, run_fold
from engine.cross_validation.run import cross_validate, read_recipe
from evaluation.mil.scores import evaluate_bags, youden_threshold
from models.mil.abmil import ABMIL
from optim.schedules import Cosine
from structures import BagBatch


@pytest.fixture
def data(tmp_path):
    """Return a file of 30 bags; a positive one holds an instance with a large first feature."""
    random = np.random.default_rng(0)
    sizes = random.integers(1, 6, 30)
    features = random.normal(size=(sizes.sum(), 3))
    labels = np.arange(30) % 2
    first = np.cumsum(sizes) - sizes
    features[first[labels == 1], 0] += 6
    path = tmp_path / "bags.npz"
    np.savez(path, X=features, bag_index=np.repeat(np.arange(30), sizes), y=labels)
    return path


def test_a_fold_alone_equals_the_fold_within_the_run(config, data):
    recipe = config()
    whole = cross_validate(recipe, data, num_folds=3, repeats=2, seed=7, workers=1)
    bags = read_bag_file(data)
    torch.rand(5)  # what the program did before must not matter
    for repeat, fold in ((1, 2), (0, 1)):
        alone = run_fold(bags, whole.folds[repeat], read_recipe(recipe), (7, repeat, fold))
        assert np.array_equal(alone.test, whole.folds[repeat] == fold)
        within = whole.probabilities[repeat, alone.test]
        np.testing.assert_allclose(alone.probabilities, within, rtol=0, atol=1e-6)
    divided = cross_validate(recipe, data, num_folds=3, repeats=2, seed=7, workers=2)
    np.testing.assert_allclose(divided.probabilities, whole.probabilities, rtol=0, atol=1e-6)
    assert divided.metrics["bag_accuracy"] == whole.metrics["bag_accuracy"]


@pytest.mark.slow
def test_folds_together_or_one_by_one_give_the_same(config, data):
    recipe = config()
    together = cross_validate(recipe, data, num_folds=4, repeats=2, workers=2)
    apart = cross_validate(recipe, data, num_folds=4, repeats=2, workers=1, together=False)
    assert together.training == "folds trained together"
    assert apart.training == "folds trained one by one: as asked for"
    np.testing.assert_allclose(together.probabilities, apart.probabilities, rtol=0, atol=1e-6)
    staged = config(("model.init_args.optimizer.class_path", "torch.optim.RMSprop"))
    told = cross_validate(staged, data, num_folds=4, repeats=1, workers=2).training
    assert told == "folds trained one by one: RMSprop may not be elementwise"


def test_the_command_takes_values_and_says_how_it_trained(config, data, tmp_path, capsys):
    words = ["mil-cv", "--config", str(config()), "--data", str(data), "--folds", "3"]
    words += ["--repeats", "1", "--out", str(tmp_path / "out.json")]
    assert evaluate.main([*words, "--trainer.max_steps", "4", "--model.model.gated=true"]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["protocol"].endswith("4 steps each")
    assert found["training"] == "folds trained together"
    assert "note: folds trained together" in capsys.readouterr().out
    changes = ("model.init_args.model.init_args.gated", True), ("trainer.max_steps", 4)
    same = cross_validate(config(*changes), data, 3, 1)
    assert found["metrics"] == json.loads(json.dumps(same.metrics))
    assert evaluate.main([*words, "--one-by-one"]) == 0
    assert "one by one: as asked for" in capsys.readouterr().out
    assert evaluate.main([*words, "--trainer.max_step", "4"]) == 2
    assert "does not follow ['max_step']" in capsys.readouterr().err


def test_folds_train_what_is_not_frozen(config, data, tmp_path):
    recipe = config(("model.init_args.freeze", ["embed.*"]))
    together = cross_validate(recipe, data, num_folds=3, repeats=1)
    apart = cross_validate(recipe, data, num_folds=3, repeats=1, together=False)
    assert together.training == "folds trained together"
    np.testing.assert_allclose(together.probabilities, apart.probabilities, rtol=0, atol=1e-6)
    free = cross_validate(config(), data, num_folds=3, repeats=1)
    assert np.abs(free.probabilities - apart.probabilities).max() > 1e-3
    words = ["mil-cv", "--config", str(config()), "--data", str(data), "--folds", "3"]
    words += ["--repeats", "1", "--out", str(tmp_path / "out.json")]
    assert evaluate.main([*words, "--model.freeze", '["embed.*"]']) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["metrics"] == json.loads(json.dumps(together.metrics))
    assert evaluate.main([*words, "--model.freeze", '["embedd.*"]']) == 2


def test_training_equals_the_loop_written_out(config, data):
    recipe, bags = read_recipe(config(("trainer.max_steps", 9))), read_bag_file(data)
    folds = bags.folds(3, 0, seed=0)
    result = run_fold(bags, folds, recipe, (0, 0, 2))
    train = np.flatnonzero(folds != 2)
    standardised = TabularBagsDataModule(data, fold=2, num_folds=3, val_fraction=0.0).source("test")
    run_seed = int(keyed_generator(6, 0, 0, 2).integers(2**31))
    torch.manual_seed(run_seed)
    model = ABMIL(3, 2, "binary", hidden_sizes=[8], dropout=0.25, attention_dim=4)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    schedule = Cosine(optimizer, 9, warmup=0.1)
    sampler = EpochBatchSampler(train, 4, shuffle=True, seed=run_seed, drop_last=True)
    for epoch in range(2):  # 20 bags: 5 steps an epoch, and 9 in all
        sampler.set_epoch(epoch)
        for keys in list(sampler)[: 5 - epoch]:
            batch = BagBatch.collate([standardised.bag(key.index) for key in keys])
            model.zero_grad()
            logits = model(batch).logits[:, 0]
            F.binary_cross_entropy_with_logits(logits, batch.labels.float()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    test = BagBatch.collate([standardised.bag(b) for b in np.flatnonzero(folds == 2)])
    expected = model.eval()(test).logits[:, 0].sigmoid()
    np.testing.assert_allclose(result.probabilities, expected.detach(), rtol=0, atol=1e-6)


def test_metrics_are_those_of_the_test_folds(config, data):
    result = cross_validate(config(), data, num_folds=3, repeats=2, workers=1)
    labels = np.arange(30) % 2
    expected = []
    for repeat in range(2):
        for fold in range(3):
            test = result.folds[repeat] == fold
            scores = result.probabilities[repeat, test]
            expected.append(evaluate_bags(labels[test], scores, "binary")["bag_accuracy"])
    assert result.metrics["bag_accuracy"]["folds"] == expected
    assert result.metrics["bag_auroc"]["mean"] > 0.8
    assert result.protocol == "6 folds in 2 repeats (stratified, seed 0), 30 steps each"


def test_test_bags_influence_nothing_but_their_own_prediction(config, data, tmp_path):
    recipe, bags = read_recipe(config()), read_bag_file(data)
    folds = bags.folds(3, 0, seed=0)
    first = run_fold(bags, folds, recipe, (0, 0, 0))
    touched = int(np.flatnonzero(first.test)[0])
    features, labels = bags.features.copy(), bags.labels.copy()
    features[bags.offsets[touched] : bags.offsets[touched + 1]] += 3
    labels[touched] = 1 - labels[touched]
    again = run_fold(bags._replace(features=features, labels=labels), folds, recipe, (0, 0, 0))
    np.testing.assert_array_equal(first.probabilities[1:], again.probabilities[1:])
    assert first.probabilities[0] != again.probabilities[0]


def test_seed_repeat_and_fold_each_change_the_training(config, data):
    recipe, bags = read_recipe(config()), read_bag_file(data)
    test = np.zeros(30, dtype=np.int64)
    test[:6] = 1
    keys = [(0, 0, 1), (1, 0, 1), (0, 1, 1)]
    scores = [run_fold(bags, test, recipe, key).probabilities for key in keys]
    assert not np.array_equal(scores[0], scores[1]) and not np.array_equal(scores[0], scores[2])


def test_published_folds_are_used(config, data):
    content = dict(np.load(data))
    published = np.stack([np.arange(30) % 5, np.arange(30) // 6])
    np.savez(data, **content, cv_fold=published)
    result = cross_validate(config(), data, workers=1)
    assert np.array_equal(result.folds, published)
    assert result.protocol.startswith("10 folds in 2 repeats (published)")
    assert result.notes == (f"{data} has published folds in 2 repeat(s): all of them are used",)
    again = cross_validate(config(), data, num_folds=3, repeats=1, workers=1)
    assert np.array_equal(again.folds, published[:1])
    assert again.notes == (f"{data} has published folds: --folds 3 is not used",)
    with pytest.raises(ValueError, match="published folds have 2 repeats"):
        cross_validate(config(), data, repeats=3)


def test_a_chosen_threshold_comes_from_held_out_training_bags(config, data):
    key = (0, 0, 1)
    bags = read_bag_file(data)
    folds = bags.folds(3, 0, seed=0)
    recipe = read_recipe(config(("model.init_args.threshold", "youden")))
    result = run_fold(bags, folds, recipe, key)
    train = np.flatnonzero(folds != 1)
    held_out = hold_out(bags.labels[train], 0.25, key)
    assert held_out.sum() == 5
    # A file without the test fold, in which the held-out bags are the test fold, has to train the
    # same model and gives its scores of these bags.
    rest = bags._replace(
        features=bags.features[bags.rows_of(folds != 1)],
        offsets=np.concatenate([[0], np.cumsum(np.diff(bags.offsets)[train])]),
        labels=bags.labels[train],
    )
    plain = read_recipe(config())
    scores = run_fold(rest, held_out.astype(np.int64), plain, key).probabilities
    assert result.threshold == youden_threshold(bags.labels[train][held_out], scores)


def test_progress_is_told(config, data):
    seen = []
    cross_validate(
        config(), data, num_folds=2, repeats=2, workers=1, progress=lambda *n: seen.append(n)
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_section_may_be_a_file(config, data, tmp_path):
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(config().read_text())["data"])
    )
    recipe = read_recipe(config(("data", "data.yaml")))
    assert (recipe.plan.batch_size, recipe.max_steps, recipe.clip_norm) == (4, 30, 1.0)
    assert (recipe.standardise, recipe.val_fraction) == (True, 0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("trainer", {"gradient_clip_val": 3}), r"trainer\.max_steps or max_epochs"),
        (("trainer", {"max_epochs": -1}), r"trainer\.max_steps or max_epochs"),
        (
            ("trainer.max_steps", "many"),
            r"trainer\.max_steps must be a positive number, got 'many'",
        ),
        (("trainer.accumulate_grad_batches", 0), "accumulate_grad_batches must be a positive"),
        (("trainer.accumulate_grad_batches", {0: 2}), "accumulate_grad_batches must be a positive"),
        (("trainer.limit_train_batches", 2), "does not follow .*limit_train_batches"),
        (("model", None), "needs the section 'model'"),
        (("data.init_args.batch_size", "many"), "recipe.yaml: .*batch_size"),
        (("data.init_args.batchsize", 3), "recipe.yaml: (.|\\n)*batchsize"),
        (
            ("data.init_args", {"sampler": "weighted", "class_weights": [1.0, 2.0, 3.0]}),
            "class_weights has 3 entries for 2 classes",
        ),
    ],
)
def test_wrong_recipes_are_refused(config, data, change, message):
    with pytest.raises(ValueError, match=message):
        cross_validate(config(change), data, num_folds=3)


def test_a_missing_recipe_is_named(data):
    with pytest.raises(ValueError, match=r"absent\.yaml: "):
        cross_validate(Path("absent.yaml"), data)


def test_epochs_end_a_fold_where_they_come_first(config, data):
    """20 training bags in batches of 4: 2 epochs are 10 steps."""
    folds, key = read_bag_file(data).folds(3, 0, seed=0), (0, 0, 2)
    scores = []
    for change in (
        ("trainer", {"max_epochs": 2, "gradient_clip_val": 1.0}),
        ("trainer.max_steps", 10),
        ("trainer.max_epochs", 2),
    ):
        recipe = read_recipe(config(change))
        scores.append(run_fold(read_bag_file(data), folds, recipe, key).probabilities)
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])
    result = cross_validate(config(("trainer.max_epochs", 2)), data, 3, 1, workers=1)
    assert result.protocol.endswith("30 steps or 2 epochs each")


def test_accumulated_batches_make_the_step_of_one_larger_batch(config, data):
    folds, key = read_bag_file(data).folds(3, 0, seed=0), (0, 0, 2)
    scores = []
    for size, together in ((4, 1), (2, 2)):
        recipe = config(
            ("model.init_args.model.init_args.dropout", 0.0),
            ("data.init_args.batch_size", size),
            ("trainer", {"max_epochs": 3, "accumulate_grad_batches": together}),
        )
        scores.append(run_fold(read_bag_file(data), folds, read_recipe(recipe), key).probabilities)
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-5)


def test_the_last_step_of_an_epoch_takes_the_batches_that_are_left():
    sampler = EpochBatchSampler(range(20), 3, shuffle=True, drop_last=True)  # 6 batches an epoch
    assert [len(step) for step in batches_of_steps(sampler, 5, 4)] == [4, 2, 4, 2, 4]


def test_a_sampler_is_followed_for_npz_files(config, data):
    def scores(sampler):
        recipe = config(("data.init_args.sampler", sampler), ("trainer.max_steps", 4))
        return cross_validate(recipe, data, num_folds=2, repeats=1, workers=1).probabilities

    assert not np.array_equal(scores("balanced_batches"), scores("shuffle"))
    weights = {"sampler": "weighted", "class_weights": [1.0, 9.0]}
    recipe = config(*((f"data.init_args.{name}", value) for name, value in weights.items()))
    assert read_recipe(recipe).plan == BatchPlan(4, "weighted", (1.0, 9.0))
