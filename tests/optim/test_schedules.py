"""Learning-rate traces against closed forms written out by hand."""

import math

import pytest
import torch

from lightning_modules.resuming import follow_configuration, hyperparameters
from optim.schedules import Constant, Cosine, InverseTime, Linear, MultiStep


def trace(make, steps, lrs=(1.0,)):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in lrs]
    optimizer = torch.optim.SGD(
        [{"params": [p], "lr": r} for p, r in zip(parameters, lrs, strict=True)]
    )
    schedule = make(optimizer)
    rows = []
    for _ in range(steps):
        rows.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rows


def test_cosine_with_warmup_by_hand():
    rows = trace(lambda o: Cosine(o, 10, warmup=0.2, warmup_start=0.5, final=0.1), 11)
    # warm-up: 0.5, 0.75; then p = (step - 2) / 8 through 0.1 + 0.9 (1 + cos(pi p)) / 2
    expected = [0.5, 0.75] + [0.1 + 0.9 * (1 + math.cos(math.pi * p / 8)) / 2 for p in range(9)]
    assert [r[0] for r in rows] == pytest.approx(expected, abs=1e-12)


def test_every_group_keeps_its_own_rate():
    rows = trace(lambda o: Cosine(o, 4), 4, lrs=(1.0, 0.1))
    assert all(head == pytest.approx(10 * backbone) for head, backbone in rows)


def test_multistep_counts_milestones_over_the_whole_run():
    rows = trace(lambda o: MultiStep(o, 10, milestones=[0.5, 0.8], gamma=0.1, warmup_steps=2), 10)
    expected = [0.001, 0.5005, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]
    assert [r[0] for r in rows] == pytest.approx(expected)


def test_inverse_time_by_hand():
    rows = trace(lambda o: InverseTime(o, 7, rate=0.5, warmup_steps=2, warmup_start=0.2), 7)
    # warm-up: 0.2, 0.6; then 1 / (1 + t / 2) with t = 0, 1, 2, 3, 4, whatever the length of the run
    expected = [0.2, 0.6, 1, 2 / 3, 1 / 2, 2 / 5, 1 / 3]
    assert [r[0] for r in rows] == pytest.approx(expected, abs=1e-12)
    longer = trace(lambda o: InverseTime(o, 9, rate=0.5, warmup_steps=2, warmup_start=0.2), 7)
    assert longer == rows


def test_constant_and_resume_give_the_same_trace():
    assert [r[0] for r in trace(lambda o: Constant(o, 3), 3)] == [1.0, 1.0, 1.0]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    first = Cosine(optimizer, 8, warmup=0.25)
    for _ in range(3):
        optimizer.step()
        first.step()
    state = first.state_dict()
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    second = Cosine(other, 8, warmup=0.25)
    second.load_state_dict(state)
    other.step()
    second.step()
    optimizer.step()
    first.step()
    assert second.get_last_lr() == first.get_last_lr()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: Cosine(o, 0), "at least one step"),
        (lambda o: Cosine(o, 5, warmup=1.0), "share of the run"),
        (lambda o: MultiStep(o, 5, milestones=[2]), "milestones are shares"),
        (lambda o: InverseTime(o, 5, rate=-1.0), "finite and not negative"),
        (lambda o: InverseTime(o, 5, rate=math.nan), "finite and not negative"),
        (lambda o: Constant(o, 5, warmup_steps=-1), "warmup_steps must not be negative, got -1"),
        (lambda o: Constant(o, 5, warmup_start=1.5), r"warmup_start is a factor in \[0, 1\], got"),
        (lambda o: Cosine(o, 5, warmup_start=-0.1), "warmup_start is a factor"),
        (lambda o: Cosine(o, 5, final=1.1), "final is a factor"),
        (lambda o: MultiStep(o, 5, milestones=[0.5], gamma=10), "gamma is a factor"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=message):
        make(optimizer)


def test_a_run_shorter_than_its_warmup_ends_at_the_full_rate():
    rows = trace(lambda o: Constant(o, 3, warmup_steps=9, warmup_start=0.0), 3)
    assert [r[0] for r in rows] == [0, 0.5, 1]


def groups_of(names, **options):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in names]
    return [{"params": [p], "name": n, **options} for p, n in zip(parameters, names, strict=True)]


NAMES = ("backbone", "backbone_bias", "head_no_decay", "head_bias")
WARM = {"warmup_steps": 4, "warmup_start": 0.0, "final": 0.1, "warmup_momentum": 0.8}
WARM["warmup_bias_lr"] = 0.1


def test_linear_warms_up_rates_momentum_and_biases_each_its_own_way():
    optimizer = torch.optim.SGD(groups_of(NAMES), lr=0.01, momentum=0.9, nesterov=True)
    schedule = Linear(optimizer, 10, **WARM)
    rates, momenta = [], []
    for _ in range(11):
        rates.append([g["lr"] for g in optimizer.param_groups])
        momenta.append({g["momentum"] for g in optimizer.param_groups})
        optimizer.step()
        schedule.step()
    decay = [0.01 * (1 - 0.9 * p / 6) for p in range(7)]
    weights = [0, 0.0025, 0.005, 0.0075, *decay]
    biases = [0.1, 0.0775, 0.055, 0.0325, *decay]
    for column, expected in enumerate([weights, biases, weights, biases]):
        assert [row[column] for row in rates] == pytest.approx(expected, abs=1e-12), NAMES[column]
    assert [len(m) for m in momenta] == [1] * 11
    found = [m.pop() for m in momenta]
    assert found == pytest.approx([0.8, 0.825, 0.85, 0.875] + [0.9] * 7, abs=1e-12)


def test_the_momentum_of_adam_is_its_first_beta():
    optimizer = torch.optim.AdamW(groups_of(["head"]), betas=(0.9, 0.99))
    schedule = Linear(optimizer, 10, warmup_steps=2, warmup_momentum=0.5)
    found = []
    for _ in range(3):
        found.append(optimizer.param_groups[0]["betas"])
        optimizer.step()
        schedule.step()
    assert found == [(0.5, 0.99), (0.7, 0.99), (0.9, 0.99)]


def test_without_warmup_linear_leaves_momentum_alone_from_the_first_step():
    optimizer = torch.optim.SGD(groups_of(["head_bias"]), lr=1.0, momentum=0.9)
    Linear(optimizer, 10, warmup_momentum=0.5, warmup_bias_lr=0.1)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]) == (1.0, 0.9)


def test_linear_goes_on_where_a_warmup_was_cut():
    def make():
        optimizer = torch.optim.SGD(groups_of(NAMES), lr=0.01, momentum=0.9)
        configured = hyperparameters(optimizer)
        return optimizer, Linear(optimizer, 10, **WARM), configured

    first, schedule, _ = make()
    for _ in range(3):
        first.step()
        schedule.step()
    second, resumed, configured = make()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    follow_configuration(second, configured, resumed)
    for _ in range(3):
        for ours, theirs in zip(second.param_groups, first.param_groups, strict=True):
            assert (ours["lr"], ours["momentum"]) == (theirs["lr"], theirs["momentum"])
        for optimizer, plan in ((first, schedule), (second, resumed)):
            optimizer.step()
            plan.step()


@pytest.mark.parametrize(
    ("optimizer", "names", "options", "message"),
    [
        (torch.optim.SGD, ["head", "head_no_decay"], {"warmup_bias_lr": 0.1}, "separate_biases"),
        (torch.optim.Adagrad, ["head"], {"warmup_momentum": 0.8}, "Adagrad has no momentum"),
        (torch.optim.SGD, ["head"], {"warmup_momentum": 0.8}, "SGD has no momentum to .* set its"),
        (torch.optim.SGD, ["head"], {"warmup_momentum": 1.0}, "warmup_momentum must be"),
        (torch.optim.SGD, ["head_bias"], {"warmup_bias_lr": -1.0}, "finite and not negative"),
        (torch.optim.SGD, ["head_bias"], {"warmup_bias_lr": math.inf}, "finite and not negative"),
        (torch.optim.SGD, ["head"], {"final": 1.5}, "final is a factor"),
    ],
)
def test_linear_refuses_what_it_cannot_do(optimizer, names, options, message):
    with pytest.raises(ValueError, match=message):
        Linear(optimizer(groups_of(names), lr=0.1), 10, **options)


def test_a_rate_of_biases_without_groups_of_biases_is_refused():
    """Not only where groups have other names, also where an optimizer was made without any."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=r"separate_biases: true, or leave out warmup_bias_lr"):
        Linear(optimizer, 10, warmup_bias_lr=0.1)
