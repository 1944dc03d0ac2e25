"""Every model trains on times, values and grades, for each recipe in configs/mil.

`pytest tests/models/mil/test_every_target.py -k dsmil` looks at one. What is refused is listed.
"""

import dataclasses
import math

import pytest
import torch

from lightning_modules.mil import MILModule
from models.losses.bag_loss import counted_bags
from models.losses.survival import discrete_time_loss, ordinal_loss, regression_loss
from tests.models.losses.test_survival import literal_share
from tests.models.mil.test_every_model import (
    assert_close,
    assert_gradients,
    gradients_of,
    joint_terms,
    training_step,
    without_dropout,
)
from tests.support.mil_recipes import (
    NAMES,
    build,
    class_paths,
    prepare,
    random_bags,
    settings,
)

TARGETS = {"cox": 1, "discrete_time": 4, "regression": 2, "ordinal": 3}
LOGITS = {"cox": 1, "discrete_time": 4, "regression": 2, "ordinal": 2}
REFUSED = {(name, task) for name in NAMES for task in TARGETS if name.startswith("ins")}
REFUSED |= {
    (f"abmil_{loss}", task)
    for loss in ("class_weighted", "focal", "logit_adjusted")
    for task in TARGETS
}
REFUSED |= {(name, t) for name in NAMES for t in TARGETS if "sc_mil" in name and t != "ordinal"}
REFUSED.add(("noisy_or_instance", "regression"))
TRAINED = [(n, t) for n in NAMES for t in TARGETS if (n, t) not in REFUSED]
SIZES = [4, 1, 9, 2, 12, 3, 5]

# One of each kind of output.
KINDS = ["abmil", "acmil", "clam_mb", "dsmil", "dtfd", "mi_net_ds", "mhim_v2"]


def first_recipes():
    """Names of the first recipe of each combination of classes; others are slow tests.

    So is the largest, whose parts are among them.
    """
    found = {}
    for name in NAMES:
        found.setdefault(tuple(class_paths(settings(name)["model"]["init_args"]["model"])), name)
    return set(found.values()) - {"mhim_transmil"}


FIRST = first_recipes()


def cases(quick):
    """Return all cases, those that ``quick`` does not choose as slow tests."""
    marked = [pytest.param(n, t, marks=[] if quick(n, t) else pytest.mark.slow) for n, t in TRAINED]
    return pytest.mark.parametrize(("name", "task"), marked)


# TransMIL takes as long as all others.
every_target = cases(lambda name, task: name in FIRST and (name != "transmil" or task == "cox"))
each_kind = cases(lambda name, task: name in KINDS)


def target_bags(task, sizes=SIZES, dtype=torch.float64, events=True):
    """Return bags with tied times, unknown values and unknown grades."""
    numbers = torch.arange(len(sizes))
    times = torch.tensor([2.0, 1, 2, 2, 3, 1, 0.5]).double()[: len(sizes)]
    happened = (numbers % 3 != 1) if events else numbers < 0
    labels = {
        "cox": torch.stack([times, happened.double()], dim=1),
        "discrete_time": torch.stack([(numbers % 4).double(), happened.double()], dim=1),
        "regression": torch.stack([times, -times], dim=1),
        "ordinal": numbers % 3,
    }[task]
    return dataclasses.replace(random_bags(sizes, dtype=dtype), labels=labels)


def module_for(name, task, bags, **arguments):
    return prepare(build(name, task, TARGETS[task], **arguments), bags)


def check_gradients(gradients):
    for parameter, gradient in gradients.items():
        assert gradient is not None, f"{parameter} gets no gradient"
        assert gradient.isfinite().all(), parameter


@every_target
def test_training_reaches_every_parameter(name, task):
    bags = target_bags(task, dtype=torch.float32)
    module = module_for(name, task, bags).train()
    terms, gradients = training_step(module, bags)
    assert "bag" in terms
    assert all(t.ndim == 0 and t.isfinite() for t in terms.values())
    check_gradients(gradients)
    assert any(g.any() for g in gradients.values())
    output = module.eval().network(bags)
    assert output.logits.shape == (len(bags), LOGITS[task])
    predictions = output.predictions(task)
    assert predictions.isfinite().all()
    if task == "ordinal":
        torch.testing.assert_close(predictions.sum(1), torch.ones(len(bags)))


@each_kind
def test_a_batch_without_a_target_gives_zero_gradients(name, task):
    """None is missing: the others of a distributed step wait for all of them."""
    bags = target_bags(task, sizes=[3, 1, 6], dtype=torch.float32, events=False)
    unknown = {"regression": torch.full((3, 2), math.nan).double(), "ordinal": torch.full((3,), -1)}
    bags = dataclasses.replace(bags, labels=unknown.get(task, bags.labels))
    module = module_for(name, task, bags).train()
    terms, gradients = training_step(module, bags)
    assert all(t.isfinite() for t in terms.values())
    check_gradients(gradients)
    if task != "discrete_time":
        supervised = set(module.eval().network(bags).supervised())
        assert all(terms[n].item() == 0 for n in supervised & set(terms))


@pytest.mark.slow
@every_target
def test_losses_of_bags_add_up(name, task):
    """And, but for Cox, those of a batch are those of single bags, with their gradients."""
    bags = target_bags(task)
    module = module_for(name, task, bags).double().eval()
    model = module.network
    output = model(bags)
    each, mean = model.losses(output, bags, "none"), model.losses(output, bags)
    assert set(mean) == set(each)
    supervised, counted = set(output.supervised()), counted_bags(bags.labels, task)
    for term, value in mean.items():
        assert each[term].shape == (len(bags),)
        if task == "cox" and term in supervised:
            assert_close(each[term].sum() / counted.sum(), value)
            assert not each[term][~counted].any()
        else:
            assert_close(each[term].mean(), value)
    assert_close(mean["bag"], by_hand(output, bags, task))
    if task == "cox":
        return
    singles = [model.losses(model(bag), bag) for bag in bags.bags()]
    for term in mean:
        apart = torch.stack([found[term] for found in singles])
        assert_close(each[term], apart)
        if term not in joint_terms(module):
            wanted = gradients_of(apart.mean(), module)
            assert_gradients(gradients_of(mean[term], module), wanted, term)


def by_hand(output, bags, task):
    """The loss of the labels, mean over predictions of a bag, from formulas tested elsewhere."""
    logits, present = output.supervised()["bag"]
    assert present is None
    several = logits.view(len(bags), -1, logits.shape[-1]).unbind(1)
    losses = {
        "discrete_time": discrete_time_loss, "ordinal": ordinal_loss,
        "regression": regression_loss,
    }  # fmt: skip
    if task in losses:
        return torch.stack([losses[task](one, bags.labels) for one in several]).mean()
    times, events = bags.labels[:, 0].tolist(), bags.labels[:, 1].tolist()
    shares = [
        literal_share(i, one[:, 0].tolist(), times, events)
        for one in several
        for i in range(len(bags))
    ]
    return torch.tensor(sum(shares) / len(several) / sum(events), dtype=torch.float64)


@pytest.mark.slow
@every_target
def test_training_steps_of_single_bags(name, task):
    """In training, with masks, groups and views, the mean of single bags but for Cox."""
    if task == "cox":
        pytest.skip("a risk set is a batch")
    bags = target_bags(task, sizes=[4, 1, 12, 30])
    module = without_dropout(module_for(name, task, bags).double().train())
    left_out = joint_terms(module)
    state = {n: v.clone() for n, v in module.state_dict().items()}
    together, gradients = training_step(module, bags, leave_out=left_out)
    gradients = {n: None if g is None else g.clone() for n, g in gradients.items()}
    sums, total = dict.fromkeys(together, 0.0), {}
    for bag in bags.bags():
        module.load_state_dict(state)
        terms, apart = training_step(module, bag, leave_out=left_out)
        for term, value in terms.items():
            sums[term] += value.detach() / 4
        for parameter, gradient in apart.items():
            if gradient is not None:
                total[parameter] = total.get(parameter, 0.0) + gradient / 4
    for term, value in together.items():
        assert_close(value.detach(), sums[term])
    assert_gradients(gradients, {n: total.get(n) for n in gradients}, name)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        pytest.param(n, t, marks=[] if t == "cox" or "noisy" in n else pytest.mark.slow)
        for n, t in sorted(REFUSED)
    ],
)
def test_what_is_refused_says_why(name, task):
    with pytest.raises(ValueError, match=f"task {task} (has|have)|the task\\s+{task} are none"):
        build(name, task, TARGETS[task])


@pytest.mark.parametrize("task", ["cox", "regression", "ordinal"])
@pytest.mark.parametrize("name", ["abmil", "clam_mb", "dsmil", "dtfd"])
def test_a_split_is_scored_as_a_whole(name, task):
    """Whatever the batches: each bag counts once, those without a target not at all."""
    bags = target_bags(task, dtype=torch.float32)
    if task in ("regression", "ordinal"):
        unknown = -1 if task == "ordinal" else math.nan
        bags.labels[2] = unknown
    module = module_for(name, task, bags).eval()
    with torch.no_grad():
        whole = module.network.losses(module.network(bags), bags)
    wanted = {n: float(v) for n, v in whole.items()}
    for parts in (bags.bags(), [bags]):
        assert isinstance(module, MILModule)
        found = module.validation_metrics(parts)
        for term, value in wanted.items():
            assert found[f"val/loss_{term}"] == pytest.approx(value, abs=2e-5, rel=2e-5), term
