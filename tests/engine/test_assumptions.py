"""A recipe under the algorithmic unit tests trains as it does in a cross-validation."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.mil.base import select_bags
from datamodules.mil.npz import packed
from datamodules.mil.npz_file import read_bag_file
from datamodules.mil.samplers import BatchPlan
from engine.assumptions import recipe_model
from engine.config.sections import module_builder
from engine.cross_validation.folds import FoldRecipe, run_fold
from models.mil.abmil import ABMIL

ROOT = Path(__file__).resolve().parents[2]
WIDTH, STEPS, TRAINED = 5, 8, 9
PLAN = BatchPlan(batch_size=4)
SMALL = {"hidden_sizes": [6], "dropout": 0.25, "attention_dim": 4}
AROUND = {"learner": {"init_args": SMALL}}
RECIPES = {
    "abmil": SMALL,
    "abmil_class_weighted": AROUND,
    "aem": AROUND,
    "clam_sb": SMALL,
    "dsmil_classic": {"hidden_sizes": [6], "attention_dim": 4},
    "dtfd": {"hidden_size": 6, "attention_dim": 4, "num_groups": 2},
    "ins": {"hidden_sizes": [6], "projection_dim": 3, "queue_size": 7, "warmup": 0.4},
    "mhim": {**AROUND, "momentum": 0.5, "momentum_schedule": "cosine"},
    "mhim_v2": {
        **AROUND,
        "recycle": {"init_args": {"width": 6, "tokens": 2, "heads": 2, "head_width": 3}},
    },
    "sc_mil": {**AROUND, "view_instances": 2},
    "sc_mil_two_stage": {**AROUND, "view_instances": 2},
}


def recipe(name):
    return ROOT / f"configs/mil/{name}.yaml"


def model_of(name, seed=0, **changes):
    return recipe_model(recipe(name), RECIPES.get(name, {}) | changes, WIDTH)(seed)


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    """Return 11 bags, more negative than positive ones, whose classes differ."""
    rng = np.random.default_rng(0)
    sizes, labels = rng.integers(3, 7, size=11), np.array([0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1])
    owner = np.repeat(np.arange(11), sizes)
    features = rng.normal(labels[owner, None], 1.0, (len(owner), WIDTH))
    file = tmp_path_factory.mktemp("bags") / "bags.npz"
    np.savez(file, X=features.astype(np.float32), bag_index=owner, y=labels)
    return read_bag_file(file)


def steps_of(bags, seed):
    """Yield the numbers of the bags of each step, as a fold of these bags has them."""
    columns = bags.labels, bags.sizes, bags.weights
    sampler, done = PLAN.build(list(range(TRAINED)), *columns, seed), 0
    for epoch in range(STEPS):
        sampler.set_epoch(epoch)
        for keys in sampler:
            if done < STEPS:
                yield torch.tensor([key.index for key in keys])
            done += 1


def train(model, bags, seed=3):
    """Train through the adapter, as the tests do, and return the model."""
    if model.first_stage() is not None:
        train(model.first_stage(), bags, seed)
    prepared = packed(bags, None)
    columns = bags.labels[:TRAINED].copy(), bags.sizes[:TRAINED].copy()
    model.before_training(*map(torch.from_numpy, columns))
    optimizer = model.module.build_optimizer()
    model.module.train()
    for step, numbers in enumerate(steps_of(bags, seed)):
        batch = select_bags(prepared, numbers)
        model.before_step(step / STEPS, numbers)
        optimizer.zero_grad()
        model.loss([bag.features for bag in batch.bags()], batch.labels).backward()
        optimizer.step()
        model.after_step()
    return model


@pytest.mark.parametrize("name", RECIPES)
def test_training_is_that_of_a_fold_bit_for_bit(name, bags):
    build, kept = recipe_model(recipe(name), RECIPES[name], WIDTH), {}

    def keeping(section, stage):
        def made(*facts):
            kept.setdefault("seed", torch.initial_seed())
            kept[stage] = module_builder(section)(*facts)
            kept[stage].scheduler_factory = None  # the tests hold the rate constant
            kept[stage].choose_threshold = False
            return kept[stage]

        return None if section is None else made

    stages = {"build": keeping(build.section, "last"), "first": keeping(build.first, "first")}
    plan = FoldRecipe(**stages, plan=PLAN, max_steps=STEPS, standardise=False)
    run_fold(bags, (np.arange(11) >= TRAINED).astype(np.int64), plan, (0, 0, 1))
    found = train(build(kept["seed"]), bags, kept["seed"]).module.state_dict()
    wanted = kept["last"].state_dict()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_dtfd_trains_both_tiers(bags):
    model = model_of("dtfd")
    before = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    after = dict(train(model, bags).module.named_parameters())
    assert moved(before, after) == set(before)


def test_mhim_starts_from_its_first_stage_and_the_teacher_follows_the_student(bags):
    model = model_of("mhim", momentum=1.0, momentum_schedule="constant")
    mhim = train(model, bags).module.model
    first = model.first_stage().module.model.state_dict()
    teacher, student = mhim.teacher.state_dict(), mhim.student.state_dict()
    assert not moved(first, teacher)  # momentum 1: it stays
    assert moved(first, student) == set(first)
    followed = train(model_of("mhim"), bags).module.model.teacher.state_dict()
    assert moved(first, followed) == set(first)


def test_ins_moves_what_it_keeps_between_steps(bags):
    module = train(model_of("ins"), bags).module
    memory = module.memory
    assert memory.queue_labels.tolist().count(-1) == 0  # 7 places, more instances than that
    starts = [int(s) for s in memory.starts]
    assert starts == [0, *np.cumsum(bags.sizes[: TRAINED - 1]).tolist()]
    negative = np.repeat(bags.labels == 0, bags.sizes)[: bags.sizes[:TRAINED].sum()]
    targets = memory.targets.numpy()
    assert (targets[negative] == [1, 0]).all()
    assert (targets[~negative] != 0.5).all()


def test_the_second_stage_of_sc_mil_trains_the_head_alone(bags):
    model = train(model_of("sc_mil_two_stage"), bags)
    first, second = (m.module.model.state_dict() for m in (model.first_stage(), model))
    head = {f"learner.{name}" for name in model.module.model.parts.head}
    assert head
    assert moved(first, second) == head


def test_logits_and_instance_scores_are_the_network_s():
    model = model_of("mi_net", hidden_sizes=[4])
    model.module.eval()
    first, second = torch.randn(3, WIDTH), torch.randn(2, WIDTH)
    logits, scores = model.instance_scores([first, second])
    assert scores.shape == (5, 1)
    assert logits.tolist() == [scores[:3].max().item(), scores[3:].max().item()]
    torch.testing.assert_close(model.logits([first, second]), logits, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(logits.sum(), scores)
    assert gradient.sum().item() == 2
    assert gradient[scores.argmax()] == 1
    assert model_of("abmil").instance_scores([first]) is None


def test_a_model_is_a_function_of_its_seed_in_any_process():
    build = recipe_model(recipe("abmil"), SMALL, WIDTH)
    again = pickle.loads(pickle.dumps(build))
    state = build(3).module.state_dict()
    torch.rand(5)
    assert not moved(state, again(3).module.state_dict())
    assert moved(state, again(4).module.state_dict())


def test_what_a_model_says_of_the_order_of_instances():
    assert model_of("abmil").permutation_invariant is None
    assert model_of("dtfd").permutation_invariant is False
    assert model_of("aem").permutation_invariant is True


def test_arguments_reach_a_nested_model_or_replace_it():
    learner = model_of("aem").module.model.learner
    assert isinstance(learner, ABMIL)
    (layer,) = [part for part in learner.embed if isinstance(part, torch.nn.Linear)]
    assert layer.weight.shape == (6, WIDTH)
    assert layer.bias is None  # the recipe's
    other = {"class_path": "models.mil.mha.MHA", "init_args": {"hidden_size": 8, "heads": 2}}
    replaced = recipe_model(recipe("aem"), {"learner": other}, WIDTH)
    assert replaced.section["init_args"]["model"]["init_args"]["learner"] == other
    assert type(replaced(0).module.model.learner).__name__ == "MHA"


def test_what_is_wrong_with_a_recipe_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.yaml: no such file"):
        recipe_model(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match=r"SegmentationModule does not train on bags"):
        recipe_model(ROOT / "configs/seg/mask_rcnn.yaml")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("model: {class_path: no_such_package.Module}\n")
    with pytest.raises(ValueError, match=r"no_such_package\.Module does not train on bags"):
        recipe_model(unknown)
    empty = tmp_path / "empty.yaml"
    empty.write_text("model: {class_path: lightning_modules.mil.MILModule}\n")
    with pytest.raises(ValueError, match=r"names no model of bags"):
        recipe_model(empty)
    with pytest.raises(Exception, match=r"no_such"):
        recipe_model(recipe("abmil"), {"no_such": 1})
    taught = tmp_path / "taught.yaml"
    text = recipe("mhim").read_text()
    taught.write_text(text.replace("    model:\n", "    teacher: a.ckpt\n    model:\n", 1))
    with pytest.raises(ValueError, match=r"teacher names weights for other features"):
        recipe_model(taught)
