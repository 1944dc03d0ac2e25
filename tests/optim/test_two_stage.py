"""The schedule of two warm-ups against closed forms written out by hand and the published rule."""

import pytest
import torch

from optim.two_stage import TwoStagePoly

NAMES = ("backbone_below3", "backbone_no_decay", "head", "head_no_decay")


def optimizer_of(names=NAMES, lrs=(0.5, 1.0, 1.0, 2.0)):
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "name": name, "lr": lr}
        for name, lr in zip(names, lrs, strict=True)
    ]
    return torch.optim.SGD(groups)


def trace(steps, total, **options):
    optimizer = optimizer_of()
    schedule = TwoStagePoly(optimizer, total, **options)
    rows = []
    for _ in range(steps):
        rows.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rows


def test_heads_warm_up_first_and_then_the_backbone():
    rows = trace(13, 12, warmup_steps=2, backbone_warmup_steps=4, power=2.0)
    heads = [0, 0.5, *[(1 - p / 10) ** 2 for p in range(11)]]
    backbone = [0, 0, 0, 0.25, 0.5, 0.75, *[(1 - p / 6) ** 2 for p in range(7)]]
    for column, (expected, lr) in enumerate(
        [(backbone, 0.5), (backbone, 1.0), (heads, 1.0), (heads, 2.0)]
    ):
        assert [row[column] for row in rows] == pytest.approx([lr * e for e in expected], abs=1e-12)


def published(step, total, backbone, warmup=(500, 1000), power=0.9):
    """Return the factor of EoMT's own schedule."""
    start = sum(warmup) if backbone else warmup[0]
    if step >= start:
        return (1 - (step - start) / (total - start)) ** power
    first = warmup[0] if backbone else 0
    return max(step - first, 0) / warmup[1 if backbone else 0]


def test_it_is_the_published_schedule():
    schedule = TwoStagePoly(optimizer_of(), 88_692, warmup_steps=500, backbone_warmup_steps=1000)
    for step in (0, 1, 250, 499, 500, 501, 1000, 1499, 1500, 1501, 40_000, 88_691, 88_692):
        assert schedule.factor(step) == pytest.approx(published(step, 88_692, False), abs=1e-12)
        expected = published(step, 88_692, True)
        assert schedule.backbone_factor(step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("total", [1, 3, 6])
def test_a_short_run_ends_at_the_full_rate(total):
    rows = trace(total, total, warmup_steps=4, backbone_warmup_steps=8)
    assert rows[-1] == [0.5, 1.0, rows[-1][2], rows[-1][3]]
    assert rows[-1][2] > 0


def test_a_resumed_schedule_goes_on():
    first, second = (TwoStagePoly(optimizer_of(), 9, 2, 3) for _ in range(2))
    for _ in range(4):
        first.optimizer.step()
        first.step()
    second.load_state_dict(first.state_dict())
    for schedule in (first, second):
        schedule.optimizer.step()
        schedule.step()
    assert second.get_last_lr() == first.get_last_lr()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone_warmup_steps": -1}, "backbone_warmup_steps must not be negative"),
        ({"power": 0.0}, "power must be positive"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    arguments = {"warmup_steps": 1, "backbone_warmup_steps": 1} | options
    with pytest.raises(ValueError, match=message):
        TwoStagePoly(optimizer_of(), 9, **arguments)


def test_a_model_without_a_trained_backbone_is_refused():
    with pytest.raises(ValueError, match=r"needs parameter groups named backbone\*"):
        TwoStagePoly(optimizer_of(("head", "head_bias"), (1.0, 1.0)), 9, 1, 1)
