"""Padding, blocked queries, prediction and arguments of `Mask2Former`."""

from fnmatch import fnmatchcase

import pytest
import torch

from models.backbones.timm_features import TimmFeatures
from models.seg.mask2former import Mask2Former
from models.seg.mask2former.decoder import LevelMasks
from models.seg.mask2former.pixel_decoder import PixelFeatures
from tests.support.mask2former_peer import ours, scatter


@pytest.fixture(scope="module")
def model():
    made = ours("resnet", decoder_layers=4)
    scatter(made, seed=5)
    return made


@pytest.mark.parametrize(("norm", "count"), [("bn", 44_023_377), ("frozen_bn", 43_970_257)])
def test_parameters_of_the_published_network(norm, count):
    with torch.device("meta"):
        model = Mask2Former(80, TimmFeatures("resnet50", norm, strides=(4, 8, 16, 32)))
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@torch.no_grad()
def test_padding_is_not_seen(model):
    """Deformable layers and queries read no cell of padding, whatever it holds."""
    generator = torch.Generator().manual_seed(0)
    size, sizes = (64, 96), torch.tensor([[64, 50]])
    levels = [
        torch.randn(1, channels, 64 // stride, 96 // stride, generator=generator)
        for channels, stride in zip((64, 128, 256, 512), (4, 8, 16, 32), strict=True)
    ]
    pixels = model.pixel_decoder(levels, sizes, size)
    last = [(place + 0.5) * 32 < 50 for place in range(3)]
    assert last == [True, True, False]
    # cells of padding changed after the projections, whose norms see them
    changed = [cells.clone() for cells in pixels.levels]
    changed[0].view(1, 2, 3, -1)[:, :, 2] += 100
    other = pixels._replace(levels=changed)
    last_conv = model.pixel_decoder.mask_features
    first, second = (
        model.decoder(one, last_conv, sizes, size).mask_logits[-1] for one in (pixels, other)
    )
    torch.testing.assert_close(first, second)
    blind = model.decoder(other, last_conv, None, size).mask_logits[-1]
    assert float((blind - first).abs().max()) > 1e-3
    layer = model.pixel_decoder.layers[0]
    cells = torch.randn(1, 6, 64, generator=generator)
    places, positions = torch.rand(6, 2, generator=generator), torch.zeros(6, 64)
    padding = torch.tensor([False, False, False, True, True, True])[None, :, None]
    shapes = [(1, 2), (1, 2), (1, 2)]
    seen = [
        layer(c, positions, places, shapes, padding)[:, :3]
        for c in (cells, cells + 10 * padding.float())
    ]
    torch.testing.assert_close(*seen)


def test_a_query_without_a_cell_attends_to_all_valid_ones():
    fine = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(1, 1, 1, 4)
    pixels = PixelFeatures([], [], [(1, 4)], fine)
    masks = LevelMasks(pixels, torch.tensor([[4, 12]]), (4, 16))
    embedding = torch.tensor([[[1.0], [-1.0], [0.0]]])
    bias = torch.tensor([[[0.0], [0.0], [-1.0]]])
    assert masks.allowed(0, embedding, bias)[0].tolist() == [
        [True, True, False, False],
        [False, False, True, False],
        [True, True, True, False],  # blocked everywhere
    ]
    nothing = LevelMasks(pixels, None, (4, 16)).allowed(0, embedding * 0, bias - 1)
    assert bool(nothing.all())


@torch.no_grad()
def test_prediction_computes_the_last_output_alone(model, scene):
    batch, _, _ = scene([(64, 96), (40, 96)])
    found = model.network_outputs(batch)
    images = batch.images.clone()
    whole = model(images, batch.sizes)
    assert len(found.class_logits) == len(found.mask_logits) == 1
    assert len(whole.class_logits) == len(whole.mask_logits) == 5
    torch.testing.assert_close(found.class_logits[0], whole.class_logits[-1])
    torch.testing.assert_close(found.mask_logits[0], whole.mask_logits[-1])


def test_embeddings_are_named(model):
    names = {
        name
        for name, _ in model.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in model.no_weight_decay)
    }
    assert names == {
        "decoder.query_feat.weight",
        "decoder.query_embed.weight",
        "decoder.level_embed.weight",
        "pixel_decoder.level_embed",
    }


def test_half_precision_keeps_the_pixel_decoder_in_single(model, scene):
    batch, _, _ = scene([(64, 64)])
    with torch.autocast("cpu", torch.bfloat16):
        levels = model.backbone(batch.images)
        assert levels[-1].dtype == torch.bfloat16
        pixels = model.pixel_decoder(levels, None, (64, 64))
        terms = model.losses(batch)
    assert pixels.fine.dtype == pixels.levels[0].dtype == torch.float32
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


def test_bad_arguments_are_refused():
    backbone = TimmFeatures("resnet18", strides=(4, 8, 16, 32))
    for message, changed in {
        "width must be a multiple of 32": {"width": 48},
        "and of num_heads 5, got 64": {"width": 64, "num_heads": 5},
        "num_queries must be at least 1": {"num_queries": 0},
        "image_std must be positive": {"image_std": (0.0, 1.0, 1.0)},
        "num_points": {"num_points": 0},
    }.items():
        with pytest.raises(ValueError, match=message):
            Mask2Former(3, backbone, **({"width": 64} | changed))
    with pytest.raises(ValueError, match=r"strides 4, 8, 16 and 32 .* use TimmFeatures"):
        Mask2Former(3, TimmFeatures("resnet18"))


def test_images_of_other_sides_are_refused(model):
    with pytest.raises(ValueError, match="multiples of 32, got 64 x 100"):
        model(torch.zeros(1, 3, 64, 100))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        model(torch.zeros(1, 4, 64, 64))
