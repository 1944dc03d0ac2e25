"""Training on two views: the loss, what it compares, and data without pairs."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch

from datamodules.seg.digit_scenes import DigitScenesDataModule
from lightning_modules.low_light import LowLightModule
from models.backbones.csp import CSPBackbone, Scale
from models.backbones.low_light import LowPassOptions
from models.backbones.timm_fpn import TimmFPN
from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions, MaskRCNN, RPNOptions
from models.seg.yolo import YOLOSeg
from tests.support.colour_segmentor import ColourSegmentor

LOW = LowPassOptions()


def mask_rcnn():
    return MaskRCNN(
        10,
        TimmFPN("resnet10t", fpn_width=16, strides=(4, 8), low_pass=LOW),
        rpn=RPNOptions(anchor_sizes=(24, 40, 56)),
        box=BoxHeadOptions(width=16),
        mask=MaskHeadOptions(width=8, num_convs=1),
    )


def yolo():
    scale = Scale(0.33, 0.125, 256)
    return YOLOSeg(scale, 10, backbone=CSPBackbone(scale, low_pass=LOW))


MODELS = {"mask_rcnn": (mask_rcnn, "body"), "yolo": (yolo, None)}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=1e-3)


@pytest.fixture(scope="module")
def pair():
    """A batch of two views, the dark one with noise."""
    batch = next(iter(DigitScenesDataModule(batch_size=2).train_dataloader()))
    noise = 0.05 * torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(0))
    dark = (batch.images + noise).clamp(0, 1)
    return dataclasses.replace(batch, images=dark, clean_images=batch.images)


def module_of(model, logged):
    made = LowLightModule(model, sgd)
    made._trainer = SimpleNamespace(global_step=3)
    made.log = lambda name, value, **_: logged.update({name: value})
    return made


@pytest.mark.parametrize("name", MODELS)
def test_the_terms_of_both_views_and_the_distance_of_levels(name, pair):
    build, body = MODELS[name]
    torch.manual_seed(0)
    model, logged = build().eval(), {}
    module = module_of(model, logged).eval()
    terms = module.training_terms(pair)
    dark = dataclasses.replace(pair, clean_images=None)
    clean = dataclasses.replace(dark, images=pair.clean_images)
    own = [model.losses(view, key=module.global_step) for view in (clean, dark)]
    assert set(terms) == {*own[0], "dsl"}
    for term, value in own[0].items():
        torch.testing.assert_close(terms[term], value + own[1][term])
    # With norms in eval mode, one pass of both views has the same features.
    seen = []
    part = getattr(model.backbone, body) if body else model.backbone
    hook = part.register_forward_hook(lambda *call: seen.append(list(call[2])))
    both = dataclasses.replace(dark, images=torch.cat([clean.images, dark.images]), **doubled(dark))
    model.losses(both)
    hook.remove()
    levels = [level.chunk(2) for level in seen[0]]
    squares = [(b - a).square() for a, b in levels]
    distance = sum(0.01 * square.clamp(max=0.1).mean() for square in squares)
    torch.testing.assert_close(terms["dsl"], distance, rtol=1e-4, atol=1e-7)
    assert 0 < terms["dsl"] < len(levels) * 0.001
    share = torch.stack([(square > 0.1).float().mean() for square in squares]).mean()
    torch.testing.assert_close(logged["train/dsl_clamped"], share, rtol=1e-2, atol=1e-4)
    assert not part._forward_hooks


def doubled(batch):
    """The other fields of a batch, twice."""
    names = ("sizes", "boxes", "labels", "masks", "counts", "crowd", "index", "original_sizes")
    return {name: torch.cat([getattr(batch, name)] * 2) for name in names} | {
        "image_ids": batch.image_ids * 2
    }


def test_equal_views_double_the_loss(pair):
    same = dataclasses.replace(pair, clean_images=pair.images)
    model = mask_rcnn().eval()
    terms = module_of(model, {}).eval().training_terms(same)
    assert terms["dsl"] == 0
    for term, value in model.losses(dataclasses.replace(same, clean_images=None), key=3).items():
        torch.testing.assert_close(terms[term], 2 * value)


@pytest.mark.parametrize("name", MODELS)
def test_running_statistics_are_those_of_the_dark_view(name, pair):
    """Those of both views fit neither: a model of sRGB images was blind in the dark."""
    torch.manual_seed(0)
    model = MODELS[name][0]()
    alone = copy.deepcopy(model)
    module_of(model, {}).training_terms(pair)
    alone.train().losses(dataclasses.replace(pair, clean_images=None), key=3)
    found, expected = (dict(m.named_buffers()) for m in (model, alone))
    assert any(name.endswith("running_mean") for name in expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(norm.track_running_stats for norm in norms)


def test_gradients_reach_every_trained_parameter(pair):
    model = mask_rcnn()
    module = module_of(model, {})
    sum(module.training_terms(pair).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_models_and_data_that_do_not_serve(pair):
    with pytest.raises(TypeError, match="needs a model with a backbone, not ColourSegmentor"):
        LowLightModule(ColourSegmentor(), sgd)
    module = LowLightModule(yolo(), sgd)
    clean = SimpleNamespace(clean=True)
    for data in (
        None,
        SimpleNamespace(low_light=None),
        SimpleNamespace(low_light=SimpleNamespace(clean=False)),
        SimpleNamespace(low_light=clean, gives_pairs=False),
    ):
        module._trainer = SimpleNamespace(datamodule=data, precision="32-true")
        with pytest.raises(ValueError, match=r"set data.init_args.low_light.clean: true"):
            module.setup("fit")
    with pytest.raises(ValueError, match="the data give none"):
        module.training_terms(dataclasses.replace(pair, clean_images=None))
