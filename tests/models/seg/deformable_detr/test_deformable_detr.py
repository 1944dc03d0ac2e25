"""Deformable DETR: outputs, losses of images and batches, padding, what is refused."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import ops

from models.backbones.timm_features import TimmFeatures
from models.seg.deformable_detr import DeformableDETR
from models.seg.deformable_detr.criterion import (
    Matches,
    find_objects,
    mask_losses,
    mask_targets,
    matched_masks,
)
from models.seg.deformable_detr.output import Decoded
from models.seg.queries.targets import image_objects
from tests.models.seg.deformable_detr.conftest import CLASSES, QUERIES, build_ours, our_options

TERMS = {"class", "box", "giou", "mask", "dice"}


@pytest.fixture
def network(variant):
    torch.manual_seed(0)
    return build_ours(**our_options(variant))


def test_outputs_are_those_of_every_layer(network):
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found = network(images)
    assert [logits.shape for logits in found.class_logits] == [(2, QUERIES, CLASSES)] * 3
    assert [boxes.shape for boxes in found.boxes] == [(2, QUERIES, 4)] * 3
    assert [masks.shape for masks in found.mask_logits] == [(2, QUERIES, 16, 24)]
    assert [queries.shape for queries in found.decoded.queries] == [(2, QUERIES, 64)] * 3
    # another head reads the queries without a change of the network
    again = network.classify(found.decoded.queries)
    assert all(torch.equal(one, two) for one, two in zip(again, found.class_logits, strict=True))


def test_valid_sizes_that_are_full_change_nothing(network):
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        plain, full = network(images), network(images, torch.tensor([(64, 96)] * 2))
    for name in ("class_logits", "boxes", "mask_logits"):
        for one, two in zip(getattr(plain, name), getattr(full, name), strict=True):
            assert torch.equal(one, two)


def test_what_is_in_the_padding_does_not_matter(network):
    torch.manual_seed(1)
    sizes = torch.tensor([(64, 96), (40, 50)])
    images = torch.rand(2, 3, 64, 96)
    other = images.clone()
    other[1, :, 40:] = 0.7
    other[1, :, :, 50:] = 0.1
    with torch.no_grad():
        one, two = network(images, sizes), network(other, sizes)
    assert torch.equal(one.mask_logits[0], two.mask_logits[0])
    assert torch.equal(one.boxes[-1], two.boxes[-1])
    assert (one.boxes[-1][1, :, :2] <= torch.tensor([50 / 96, 40 / 64])).all()  # valid centres


def test_losses_train_every_variant_under_bfloat16(network, scene):
    batch = scene([(64, 96), (60, 70)], instances=[3, 0])[0]
    with torch.autocast("cpu", torch.bfloat16):
        terms = network.train().losses(batch)
    assert set(terms) == TERMS
    assert all(term.dtype == torch.float32 and term > 0 for term in terms.values())
    sum(terms.values()).backward()
    missing = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


def test_losses_of_images_sum_to_those_of_the_batch(network, scene):
    network = network.double()
    batch = scene([(64, 96), (64, 96)], instances=[3, 1])[0]
    batch = dataclasses.replace(batch, images=batch.images.double(), boxes=batch.boxes.double())
    each = network.losses(batch, reduction="none")
    whole = network.losses(batch)
    for name, values in each.items():
        expected = (values * torch.tensor([3, 1])).sum() / 4
        torch.testing.assert_close(whole[name], expected, rtol=1e-9, atol=0)


def test_crowds_are_no_targets(network, scene):
    batch = scene([(64, 96)], instances=[3])[0]
    crowd = dataclasses.replace(batch, crowd=torch.tensor([False, True, False]))
    kept = torch.tensor([0, 2])
    fields = ("boxes", "labels", "masks", "crowd")
    fewer = {name: getattr(batch, name)[kept] for name in fields}
    without = dataclasses.replace(batch, **fewer, counts=torch.tensor([2]))
    found, expected = network.losses(crowd), network.losses(without)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_more_objects_than_queries_warn_with_the_image(scene):
    torch.manual_seed(0)
    network = build_ours(num_queries=2)
    batch = scene([(64, 96)], instances=[3])[0]
    with pytest.warns(UserWarning, match="image 100 has 3 objects, but the model has 2 queries"):
        terms = network.losses(batch)
    assert all(bool(term.isfinite()) for term in terms.values())


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_masks_are_read_at_every_fourth_pixel_from_the_third(stride, scene):
    batch = scene([(62, 90)], instances=[2])[0]
    masks = batch.masks[:, stride // 2 :: stride, stride // 2 :: stride]
    rows, columns = -(-62 // stride), -(-90 // stride)
    masks = F.pad(masks, (0, columns - masks.shape[2], 0, rows - masks.shape[1]))
    coarse = dataclasses.replace(batch, masks=masks, mask_stride=stride)
    found = mask_targets(coarse, torch.tensor([1, 0]), (64, 96))
    assert found.shape == (2, 16, 24)
    start = {1: 2, 2: 3, 4: 2}[stride]  # a cell of two pixels was read at its second
    expected = batch.masks[:, start::4, start::4]
    assert torch.equal(found[:, : expected.shape[1], : expected.shape[2]], expected[[1, 0]])


def test_a_mask_stride_that_does_not_divide_four_is_refused(scene):
    masks = torch.zeros(1, 22, 32, dtype=torch.bool)
    batch = dataclasses.replace(scene([(64, 96)], [1])[0], masks=masks, mask_stride=3)
    with pytest.raises(ValueError, match="mask_stride must divide the stride 4"):
        build_ours().losses(batch)


def test_fewer_masks_are_computed_than_there_are_queries(scene):
    network = build_ours(max_dets=5)
    batch = scene([(64, 96)], instances=[1])[0]
    outputs = network.network_outputs(batch)
    assert outputs.mask_logits[0].shape == (1, 5, 16, 24)
    with torch.no_grad():
        scores = network(batch.images).class_logits[-1].sigmoid().flatten()
    expected = scores.topk(5).values
    found = outputs.class_logits[0].sigmoid().flatten().topk(5).values
    torch.testing.assert_close(found, expected)


class Two(nn.Module):
    feature_channels = (8, 16)


class Coarse(nn.Module):
    feature_channels = (8, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, images):
        return [self.conv(images)[..., ::16, ::16]] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 100}, "width must be a multiple of num_heads and of the 32 groups"),
        ({"width": 96, "num_heads": 5}, "got width 96 and num_heads 5"),
        ({"num_queries": 0}, "num_queries must be at least 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"two_stage": True, "box_refine": False}, "it needs box_refine: true"),
        ({"assignment": "simota"}, "assignment must be one of hungarian, sim_ota, got 'simota'"),
        ({"backbone": Two()}, "Two does not declare the widths of its levels of strides 8, 16"),
        ({"image_std": (1.0, 0.0, 1.0)}, "image_std must be positive"),
    ],
)
def test_wrong_arguments_are_refused(options, words):
    given = {"width": 64, "num_heads": 4, **options}
    backbone = given.pop("backbone", None) or TimmFeatures("resnet10t")
    with pytest.raises(ValueError, match=words):
        DeformableDETR(CLASSES, backbone, **given)


def test_wrong_images_and_levels_are_refused():
    network = build_ours()
    with pytest.raises(ValueError, match="multiples of 32, got 64 x 90"):
        network(torch.zeros(1, 3, 64, 90))
    network.backbone = Coarse()
    with pytest.raises(ValueError, match=r"Coarse must return levels of \[\(8, 8\), \(4, 4\)"):
        network(torch.zeros(1, 3, 64, 64))
    few = build_ours(two_stage=True, num_queries=100)
    with pytest.raises(ValueError, match="chooses 100 queries among the cells .* have 85"):
        few(torch.zeros(1, 3, 64, 64))


def test_padding_has_no_mask_loss(scene):
    batch = scene([(64, 96)], instances=[2])[0]
    wider = dataclasses.replace(
        batch, images=F.pad(batch.images, (0, 64)), masks=F.pad(batch.masks, (0, 64))
    )
    objects = find_objects(batch, image_objects(batch, 3))
    matches = Matches(torch.tensor([3, 5]), torch.tensor([0, 1]), torch.tensor([0, 0]), [2])
    decoded = Decoded([torch.randn(1, 9, 4)], [torch.rand(1, 9, 2)], [], torch.zeros(1), None)
    torch.manual_seed(0)
    logits = torch.randn(2, 16, 40)

    def losses(mask_of, batch):
        return mask_losses(matched_masks(decoded, mask_of, batch, objects, matches))

    narrow = losses(lambda *_: logits[..., :24], batch)
    padded = losses(lambda *_: logits, wider)
    for name, value in narrow.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-6, atol=0)
    truth = mask_targets(batch, torch.tensor([0, 1]), (64, 96)).float()
    focal = ops.sigmoid_focal_loss(logits[..., :24], truth, alpha=0.25, gamma=2)
    torch.testing.assert_close(narrow["mask"][0], focal.mean(dim=(1, 2)).sum())


def test_dropout_is_where_the_authors_have_it():
    network = build_ours(dropout=0.25)
    rates = [part.p for part in network.modules() if isinstance(part, nn.Dropout)]
    assert rates == [0.25] * (2 * 3 + 3 * 3)  # attention, and after both layers of the ffn
    assert [layer.self_attention.dropout for layer in network.decoder] == [0.25] * 3
