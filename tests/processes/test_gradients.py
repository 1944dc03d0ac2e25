"""The gradient of W processes is that of one with all their samples, in float64 to 1e-6."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.freezing import freeze_parameters
from models.backbones.timm_features import TimmFeatures
from models.backbones.timm_fpn import TimmFPN
from models.mil.abmil import ABMIL
from models.seg.deformable_detr import DeformableDETR
from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions, MaskRCNN, RPNOptions
from models.seg.oln import OLN, OLNProposalOptions
from structures import BagBatch, SegBatch
from structures.processes import mean_over_processes

CLASSES, SIDE = 3, 64


class Total(nn.Module):
    """Runs a model's losses inside ``forward``, where DDP prepares the averaging."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch, key):
        if isinstance(batch, SegBatch):
            terms = self.model.losses(batch, key=key)
        else:
            terms = self.model.losses(self.model(batch), batch)
        return torch.stack(list(terms.values())).sum()


def gradients(model, batch, world, keys=(0, 1)):
    """Return losses and gradients of a few calls; a second one would hang if the first left."""
    step = Total(model)
    step = DistributedDataParallel(step) if world > 1 else step
    found = []
    for key in keys:
        step.zero_grad()
        loss = step(batch, key)
        loss.backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert not set(missing) & trained
        found.append((mean_over_processes(loss.detach()).item(), grads))
    return found


def assert_equal(alone, ranks):
    for one in ranks:
        for (loss, grads), (wanted, reference) in zip(one, alone, strict=True):
            assert loss == pytest.approx(wanted, rel=1e-9)
            assert set(grads) == set(reference)
            # what one parameter gets may be rounding noise: an error is judged by the module
            scale = max(float(g.abs().max()) for g in reference.values())
            for name, wanted_grad in reference.items():
                error = float((grads[name] - wanted_grad).norm())
                assert error <= 1e-6 * float(wanted_grad.norm()) + 1e-13 * scale, name


def images(instances, crowd=()):
    """Return a float64 batch with ``instances[i]`` discs on image i; ``crowd`` names crowds."""
    generator = torch.Generator().manual_seed(3)
    total = sum(instances)
    side = torch.randint(14, 40, (total,), generator=generator)
    corner = (torch.rand(total, 2, generator=generator) * (SIDE - side)[:, None]).long()
    boxes = torch.cat([corner, corner + side[:, None]], dim=1)
    grid = torch.arange(SIDE) + 0.5
    centre, radius = boxes.view(-1, 2, 2).double().mean(1), side / 2
    across = (grid - centre[:, :1]) ** 2
    down = (grid - centre[:, 1:]) ** 2
    size = torch.full((len(instances), 2), SIDE)
    return SegBatch(
        images=torch.rand(len(instances), 3, SIDE, SIDE, generator=generator).double(),
        sizes=size,
        boxes=boxes.double(),
        labels=torch.randint(0, CLASSES, (total,), generator=generator),
        masks=down[:, :, None] + across[:, None, :] < radius[:, None, None] ** 2,
        counts=torch.tensor(instances),
        crowd=torch.isin(torch.arange(total), torch.tensor(crowd, dtype=torch.int64)),
        index=torch.arange(len(instances)) + 7,
        original_sizes=size,
        image_ids=tuple(range(len(instances))),
    )


def part_of_images(batch, chosen):
    rows = torch.repeat_interleave(torch.arange(len(batch)), batch.counts)
    mine = torch.isin(rows, torch.tensor(chosen))
    fields = ("images", "sizes", "counts", "index", "original_sizes")
    packed = ("boxes", "labels", "masks", "crowd")
    return SegBatch(
        **{name: getattr(batch, name)[chosen] for name in fields},
        **{name: getattr(batch, name)[mine] for name in packed},
        image_ids=tuple(batch.image_ids[i] for i in chosen),
    )


def mask_rcnn():
    """Return a small network whose sampling leaves something out everywhere."""
    torch.manual_seed(0)
    model = MaskRCNN(
        CLASSES,
        TimmFPN("resnet10t", fpn_width=16, norm="frozen_bn", strides=(4, 8)),
        rpn=RPNOptions(
            anchor_sizes=(12, 24, 48),
            pre_nms_train=60,
            post_nms_train=40,
            batch_size_per_image=32,
        ),
        box=BoxHeadOptions(width=32, batch_size_per_image=24, sampling_ratio=1),
        mask=MaskHeadOptions(width=8, num_convs=1, max_rois_per_image=3),
    )
    with torch.no_grad():
        for name, weight in model.backbone.body.named_parameters():
            if name.endswith("bn2.weight"):  # timm starts residual branches at zero
                weight.fill_(0.5)
    return model.double()


def mask_rcnn_gradients(rank, world, instances, shares, crowd=(), weights=None, freeze=()):
    batch, model = images(instances, crowd), mask_rcnn()
    if weights is not None:
        model.set_class_weights(torch.tensor(weights))
    freeze_parameters(model, freeze)
    return gradients(model, batch if world == 1 else part_of_images(batch, shares[rank]), world)


@pytest.mark.parametrize(
    ("instances", "shares", "crowd"),
    [
        pytest.param(
            [2, 3, 1, 4], [[0, 1], [2, 3]], (1,), id="equal shares, a crowd", marks=pytest.mark.slow
        ),
        pytest.param([3, 2, 0, 0], [[0, 1], [2, 3]], (), id="one process without objects"),
        pytest.param([0, 0], [[0], [1]], (), id="no object anywhere"),
        pytest.param([2, 1, 3, 0], [[0], [1, 2, 3]], (), id="unequal numbers of images"),
    ],
)
def test_mask_rcnn_on_two(processes, instances, shares, crowd):
    case = {"instances": instances, "shares": shares, "crowd": crowd}
    assert_equal(*processes.beside_one(2, mask_rcnn_gradients, **case))


def test_weighted_classes_and_frozen_parts_on_two(processes):
    """DDP is told of nothing: what is frozen is not among the parameters that it waits for."""
    case = {"instances": [2, 3, 0, 4], "shares": [[0, 1, 2], [3]]}
    case |= {"weights": [0.2, 1.0, 5.0], "freeze": ["backbone.*", "rpn.*"]}
    alone, ranks = processes.beside_one(2, mask_rcnn_gradients, **case)
    assert_equal(alone, ranks)
    assert {name.partition(".")[0] for name in alone[0][1]} == {"roi_heads"}


def oln_gradients(rank, world, instances, shares, crowd):
    batch = images(instances, crowd)
    batch = dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))
    torch.manual_seed(0)
    model = OLN(
        1,
        TimmFPN("resnet10t", fpn_width=16, norm="frozen_bn", strides=(4, 8)),
        rpn=OLNProposalOptions(anchor_sizes=(12, 24, 48), per_level=20, sampled=32),
        box=BoxHeadOptions(width=32, batch_size_per_image=24, sampling_ratio=1),
        mask=MaskHeadOptions(width=8, num_convs=1, max_rois_per_image=3),
        score_hidden=16,
    ).double()
    return gradients(model, batch if world == 1 else part_of_images(batch, shares[rank]), world)


def test_oln_on_two(processes):
    case = {"instances": [2, 0, 1, 4], "shares": [[0, 1], [2, 3]], "crowd": (1,)}
    assert_equal(*processes.beside_one(2, oln_gradients, **case))


@pytest.mark.slow
def test_mask_rcnn_on_three(processes):
    case = {"instances": [2, 0, 3, 1], "shares": [[0], [1], [2, 3]]}
    assert_equal(*processes.beside_one(3, mask_rcnn_gradients, **case))


def bags(task, sizes):
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, {"multiclass": 3}.get(task, 2), (len(sizes),), generator=generator)
    if task == "multilabel":
        labels = torch.randint(0, 2, (len(sizes), 3), generator=generator)
    return BagBatch(
        features=torch.randn(sum(sizes), 6, generator=generator).double(),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=labels,
        index=torch.arange(len(sizes)),
        bag_ids=tuple(f"bag_{i}" for i in range(len(sizes))),
    )


def abmil_gradients(rank, world, task, shares, sizes, **options):
    batch = bags(task, sizes)
    mine = batch if world == 1 else BagBatch.collate([batch.bag(i) for i in shares[rank]])
    torch.manual_seed(0)
    model = ABMIL(6, 2 if task == "binary" else 3, task, hidden_sizes=(8,), **options).double()
    return gradients(model, mine, world)


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("binary", {"gated": False}),
        ("binary", {"gated": True, "branches": 2}),
        ("multiclass", {"gated": True}),
        ("multilabel", {"gated": False}),
    ],
)
def test_abmil_with_unequal_numbers_of_bags(processes, world, task, options):
    """As batches of equal numbers of instances give: one large bag here, many small ones there."""
    shares = [[0], [1, 2, 3, 4, 5], [6, 7]]
    shares = [*shares[:2], shares[2]] if world == 3 else [shares[0], shares[1] + shares[2]]
    case = {"task": task, "shares": shares, "sizes": [40, 1, 9, 3, 1, 12, 5, 20], **options}
    assert_equal(*processes.beside_one(world, abmil_gradients, **case))


def detr_gradients(rank, world, instances, shares, crowd, **options):
    batch = images(instances, crowd)
    torch.manual_seed(0)
    model = DeformableDETR(
        CLASSES,
        TimmFeatures("resnet10t", norm="frozen_bn"),
        num_queries=6,
        width=32,
        num_heads=2,
        encoder_layers=1,
        decoder_layers=2,
        ffn=32,
        dropout=0.0,
        **options,
    ).double()
    return gradients(model, batch if world == 1 else part_of_images(batch, shares[rank]), world)


@pytest.mark.parametrize(
    ("instances", "options"),
    [
        ([0, 0, 0, 0], {"two_stage": False}),
        ([3, 0, 0, 0], {"two_stage": True}),
        ([2, 1, 0, 0], {"two_stage": True, "assignment": "sim_ota"}),
    ],
)
def test_deformable_detr_on_two(processes, instances, options):
    """One process has no object, or none has."""
    crowd = (1,) if sum(instances) else ()
    case = {"instances": instances, "shares": [[0, 1], [2, 3]], "crowd": crowd}
    assert_equal(*processes.beside_one(2, detr_gradients, **case, **options))
