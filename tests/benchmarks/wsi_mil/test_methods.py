"""Methods of the slide benchmark are the recipes of configs/mil, and of a family alike."""

import pytest
import torch
import yaml

from benchmarks.wsi_mil.bags import Slides, SlideSet
from benchmarks.wsi_mil.methods import (
    AEM_WEIGHTS,
    ATTENTION,
    EPOCHS,
    INS_EPOCHS,
    METHODS,
    RATE,
    RECIPES,
    SC_BATCH,
    WIDTH,
    build,
    fold_recipe,
    settings_of,
)
from models.mil.mhim import MHIM

SHARED = {
    "hidden_sizes": [WIDTH],
    "attention_dim": ATTENTION,
    "lr": RATE,
    "threshold": 0.5,
    "max_epochs": EPOCHS,
}
OWN = {
    "abmil": {"entropy": 0.0},
    "twice": {"masks": {"random": 0.0}, "consistency": 0.0},
    "shuffled": {"sampler": "shuffle", "batch_size": SC_BATCH},
    "plain_v2": {"width": WIDTH, "head_width": 16},
}
OWN |= {name: {"batch_size": SC_BATCH} for name in ("balanced", "weighted", "sc_mil")}
OWN["mhim_v2"] = OWN["plain_v2"]
INS = {k: SHARED[k] for k in ("hidden_sizes", "threshold", "max_epochs")} | {"queue_size": 1024}
OWN["ins"] = {"max_epochs": INS_EPOCHS}
OWN["ins_subset"] = {"chunk_instances": None, "max_instances": 256}
OWN |= {f"aem_{weight}": {"entropy": weight} for weight in AEM_WEIGHTS}


def differences(old, new):
    """Yield the innermost key and the new value of everything that differs."""
    for key in old | new:
        before, after = old.get(key), new.get(key)
        if key == "masks" and before != after:
            yield key, after
        elif isinstance(before, dict) and isinstance(after, dict):
            yield from differences(before, after)
        elif before != after:
            yield key, after


@pytest.mark.parametrize("name", METHODS)
def test_nothing_but_widths_data_and_lengths_is_replaced(name):
    recipe = yaml.safe_load((RECIPES / f"{METHODS[name].recipe}.yaml").read_text())
    del recipe["checkpoint"]
    changed = dict(differences(recipe, settings_of(name)))
    wanted = (INS if METHODS[name].family == "ins" else SHARED) | OWN.get(name, {})
    unchanged = {k for k in wanted if k not in changed}
    assert unchanged <= {"threshold", "entropy"}  # some recipes have the value themselves
    assert changed == {k: v for k, v in wanted.items() if k not in unchanged}


def protocol(name):
    """Return everything that says how a method is trained, but for the bags of a batch."""
    settings = settings_of(name)
    module, data = settings["model"]["init_args"], dict(settings["data"]["init_args"])
    sampler = data.pop("sampler", None)
    rest = {"data": data, "trainer": settings["trainer"]}
    return rest | {k: module.get(k) for k in ("optimizer", "lr_scheduler")}, sampler


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.baselines])
def test_a_method_is_trained_as_its_baselines(name):
    for baseline in METHODS[name].baselines:
        (ours, own), (theirs, other) = protocol(name), protocol(baseline)
        assert ours == theirs
        assert own == other or baseline in ("weighted", "shuffled")


def first_weights(name, folder):
    torch.manual_seed(3)
    module = build(fold_recipe(name, folder), 64)
    model = module.model
    return {n.removeprefix("learner."): p for n, p in model.named_parameters()}, module


@pytest.mark.parametrize(("name", "baseline"), [("aem", "abmil"), ("sc_mil", "balanced")])
def test_compared_models_begin_with_the_same_weights(name, baseline, tmp_path):
    ours, _ = first_weights(name, tmp_path)
    theirs, _ = first_weights(baseline, tmp_path)
    assert len(theirs) >= 5
    assert all(torch.equal(ours[n], p) for n, p in theirs.items())


def test_a_student_of_two_stages_without_masks_is_the_plain_model(tmp_path):
    plain, first = first_weights("plain", tmp_path)
    _, module = first_weights("twice", tmp_path)
    assert isinstance(module.model, MHIM)
    module.receive(first.model.state_dict())
    bags = SlideSet(1, "train", 1, Slides(sizes=(30, 60)), 3).reader(None, 0)([0, 1, 2], 0)
    module.eval()
    first.eval()
    terms = module.training_terms(bags)
    assert module.loss_weights == {"consistency": 0.0}
    student = module.model.student
    assert torch.equal(student.embed[1].weight, plain["embed.1.weight"])
    whole = student.losses(student(bags), bags)["bag"]
    assert torch.equal(terms["bag"], whole)  # nothing is masked
