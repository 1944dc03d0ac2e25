"""Every model on an accelerator gives the same numbers (`tests.support.pretend_device`)."""

import copy

import pytest
import torch

from models.mil.dtfd import DTFD
from tests.models.mil.test_every_target import TARGETS, module_for, target_bags
from tests.models.seg.conftest import make_scene
from tests.models.seg.deformable_detr.conftest import build_ours as build_detr
from tests.models.seg.yolo.test_detect import tiny
from tests.support.mil_recipes import NAMES, build, prepare, random_bags
from tests.support.pretend_device import DEVICE, OnDevice, pretend_device
from tests.support.small_mask_rcnn import build as build_mask_rcnn

# TransMIL lays each bag out as a square: it asks for sizes and sends an order. ACMIL sends shares.
WAITS = {"transmil": 2, "mhim_transmil": 2, "acmil": 1}


def to_host(tree):
    """Return copies on the host of what a model returned, leaves only."""
    if isinstance(tree, torch.Tensor):
        return [tree.detach().cpu().clone()]
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in to_host(value)]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in to_host(value)]
    return to_host(vars(tree)) if hasattr(tree, "__dict__") else []


def step(module, bags):
    """Return output, losses and gradients of a training step; random choices are keyed."""
    torch.manual_seed(0)
    output = module.network(bags)
    losses = module.network.losses(output, bags)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return [output, losses, gradients]


@pytest.mark.parametrize(
    ("float64", "task", "classes"), [(True, "binary", 2), (False, "multiclass", 3)],
    ids=["NVIDIA", "Apple"],
)  # fmt: skip
@pytest.mark.parametrize("name", NAMES)
def test_bags(name, float64, task, classes):
    if name == "dsmil_classic" and task == "multiclass":
        pytest.skip("its balanced loss is for log-odds")
    bags = random_bags([3, 7, 2, 9], task, classes)
    module, other = (build(name, task, classes) for _ in range(2))
    for each in (module, other):
        prepare(each, bags)
        each.train()
        for part in each.modules():  # drawn on each device in its own way
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    expected = to_host(step(module, bags))
    with pretend_device(float64) as waits:
        there = bags.to(DEVICE)
        other.to(DEVICE)
        waits.clear()
        found = step(other, there)
        counted = dict(waits)
        assert all(isinstance(loss, OnDevice) for loss in found[1].values())
        found = to_host(found)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    if float64:
        assert sum(counted.values()) == WAITS.get(name, 0), counted


@pytest.mark.parametrize("distill", ["maxs", "maxmins", "mas"])
def test_instances_that_dtfd_distils(distill):
    bags = random_bags([40, 25, 60], "multiclass", 3)
    torch.manual_seed(0)
    model = DTFD(12, 3, "multiclass", distill=distill, num_groups=3).eval()
    expected = to_host(model(bags))
    with pretend_device():
        found = to_host(model.to(DEVICE)(bags.to(DEVICE)))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def one_stage():
    return tiny(score_thresh=0.3, max_dets=20)


def two_stage():
    return build_mask_rcnn(score_thresh=0.01, max_dets=20)


def with_queries():
    """Its first samples lie on centres of cells, where interpolation has no derivative."""
    torch.manual_seed(0)
    model = build_detr(dropout=0.0, max_dets=20)
    for name, parameter in model.named_parameters():
        if name.endswith("sampling_offsets.bias"):
            parameter.data += torch.empty_like(parameter).uniform_(0.1, 0.4)
    return model


def predictions(found):
    return [(one.boxes, one.scores, one.labels) for one in found]


@pytest.mark.parametrize("float64", [True, False], ids=["NVIDIA", "Apple"])
@pytest.mark.parametrize("make", [one_stage, two_stage, with_queries])
def test_images(make, float64):
    """A training step and predictions; one image has no object."""
    batch, _, _ = make_scene([(64, 96), (90, 60), (64, 64)], instances=[3, 0, 2])

    def run(model, batch):
        losses = model.train().losses(batch)
        sum(losses.values()).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return losses, gradients, model.eval().predict(batch)

    model = make()
    other = copy.deepcopy(model)
    expected = run(model, batch)
    with pretend_device(float64):
        found = run(other.to(DEVICE), batch.to(DEVICE))
        assert all(isinstance(loss, OnDevice) for loss in found[0].values())
        theirs, masks = [*found[:2], predictions(found[2])], [one.masks for one in found[2]]
        theirs = to_host(theirs)
    ours = to_host([*expected[:2], predictions(expected[2])])
    assert sum(len(one) for one in masks) > 20
    for a, b in zip(theirs, ours, strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).float().norm()) <= 1e-4 * float(b.float().norm()) + 1e-6
    for a, b in zip(masks, expected[2], strict=True):
        assert list(map(list, a)) == list(map(list, b.masks))


def test_waits_of_a_one_stage_step_do_not_grow():
    """Each is for the length of one list of the whole batch."""
    model, counted = one_stage(), []
    with pretend_device(float64=True) as waits:
        model.to(DEVICE).train()
        for counts, crowds in (([2], 0), ([3, 0, 9], 0), ([3, 0, 9], 2)):
            batch, _, _ = make_scene([(64, 96)] * len(counts), instances=counts)
            batch.crowd[:crowds] = True
            batch = batch.to(DEVICE)
            waits.clear()
            sum(model.losses(batch).values()).backward()
            counted.append(sum(waits.values()))
    assert counted == [8, 8, 9], waits


@pytest.mark.parametrize("float64", [True, False], ids=["NVIDIA", "Apple"])
@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("name", ["abmil", "clam_mb", "dsmil", "dtfd"])
def test_bags_with_times_values_and_grades(name, task, float64):
    """Without float64, times stay on the host, where their order is found."""
    bags = target_bags(task, dtype=torch.float32)
    module, other = (module_for(name, task, bags) for _ in range(2))
    expected = to_host([*step(module.eval(), bags), module.network(bags).predictions(task)])
    with pretend_device(float64) as waits:
        there = bags.to(DEVICE)
        assert isinstance(there.labels, OnDevice) == (float64 or task == "ordinal")
        assert there.labels.dtype == bags.labels.dtype
        other.to(DEVICE).eval()
        waits.clear()
        found = step(other, there)
        counted = dict(waits)
        assert all(isinstance(loss, OnDevice) for loss in found[1].values())
        found = to_host([*found, other.network(there).predictions(task)])
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    if float64:
        assert not counted
