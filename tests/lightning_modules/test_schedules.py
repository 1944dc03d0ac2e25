"""Learning-rate traces against closed forms written out by hand."""

import math

import pytest
import torch

from lightning_modules.schedules import Constant, Cosine, InverseTime, MultiStep


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
        (lambda o: InverseTime(o, 5, rate=-1.0), "must not be negative"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=message):
        make(optimizer)
