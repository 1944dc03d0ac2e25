"""Low-pass layers in every backbone: published counts, places, frozen stages, weights by name."""

import pytest
import torch
from torch import nn

from models.backbones.csp import CSPBackbone
from models.backbones.low_light import LowPassOptions
from models.backbones.resnet_fpn import ResNet50FPN
from models.backbones.timm_features import TimmFeatures
from models.backbones.timm_fpn import TimmFPN
from models.ops.low_light.adaptive_downsampling import AdaptiveDownsample, ChannelAffine
from models.ops.low_light.smooth_convolution import SmoothConv, fold_smooth_convs

BOTH, STRIDE = LowPassOptions(), LowPassOptions(placement="stride")
IMAGES = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))


def more(build, **options):
    """Parameters that low-pass layers add."""
    with torch.device("meta"):
        with_layers, without = build(low_pass=LowPassOptions(**options)), build()
    return sum(p.numel() for p in with_layers.parameters()) - sum(
        p.numel() for p in without.parameters()
    )


def test_published_counts():
    assert more(ResNet50FPN) == 2_156_992
    assert more(ResNet50FPN, placement="stride") == 2_156_992
    for_layer1 = more(lambda **low: ResNet50FPN(trainable_stages=3, **low))
    assert for_layer1 == 2_142_976
    assert more(lambda **low: TimmFPN("convnext_tiny", **low)) == 3_457_728
    assert more(lambda **low: TimmFPN("convnext_tiny", **low), scb=False) == 163_296
    assert more(lambda **low: TimmFPN("resnet50", **low), awd=False) == 1_291_456


def outputs(network, images=IMAGES):
    levels = network(images)
    return list(levels.values()) if isinstance(levels, dict) else levels


TIMM = ["resnet10t", "resnet26d", "convnext_atto"]
BUILDS = {
    **{f"{name} FPN": lambda name=name, **low: TimmFPN(name, 8, **low) for name in TIMM},
    "features": lambda **low: TimmFeatures("resnet10t", **low),
    "gn": lambda **low: TimmFeatures("resnet10t", norm="gn", **low),
    "csp": lambda **low: CSPBackbone("n", **low),
    "R50": lambda **low: ResNet50FPN(fpn_width=8, trainable_stages=3, **low),
}
CASES = [(name, p) for name in BUILDS for p in ("blur", "stride") if "convnext" not in name]
CASES += [("convnext_atto FPN", "blur")]


@pytest.mark.parametrize(("name", "placement"), CASES)
def test_shapes_names_and_gradients(name, placement):
    plain = BUILDS[name]()
    made = BUILDS[name](low_pass=LowPassOptions(placement=placement))
    levels = outputs(made)
    assert [level.shape for level in levels] == [level.shape for level in outputs(plain)]
    assert plain.state_dict().keys() < made.state_dict().keys()
    sum(level.square().sum() for level in levels).backward()
    trained = [p for p in made.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    filters = [m for m in made.modules() if isinstance(m, AdaptiveDownsample)]
    assert [m.stride for m in filters] == [2 if placement == "stride" else 1] * 3
    assert all(p.requires_grad for m in filters for p in m.parameters())


def smooth(network):
    return [name for name, m in network.named_modules() if isinstance(m, SmoothConv)]


def test_places_of_the_branches():
    basic = smooth(TimmFPN("resnet10t", 8, low_pass=BOTH))
    assert basic == [f"body.layer{k}.0.conv{n}" for k in (1, 2, 3, 4) for n in (1, 2)]
    with torch.device("meta"):
        bottleneck = smooth(ResNet50FPN(trainable_stages=3, low_pass=BOTH))
        convnext = smooth(TimmFPN("convnext_atto", 8, low_pass=BOTH))
    depths = {2: 4, 3: 6, 4: 3}
    assert bottleneck == [f"body.layer{k}.{n}.conv2" for k, d in depths.items() for n in range(d)]
    assert len(convnext) == 2 + 2 + 6 + 2
    assert all(name.endswith("conv_dw") for name in convnext)
    half = smooth(TimmFPN("resnet10t", 8, trainable_stages=2, low_pass=BOTH))
    assert half == basic[4:]
    assert not smooth(TimmFPN("resnet10t", 8, low_pass=LowPassOptions(scb=False)))


@torch.no_grad()
def test_the_filter_is_before_the_stage():
    """With both layers switched to constants, the network is the plain one after a mean of 3x3."""
    made = TimmFPN("resnet10t", 8, strides=(4, 8), low_pass=LowPassOptions(scb=False)).eval()
    plain = TimmFPN("resnet10t", 8, strides=(4, 8)).eval()
    plain.load_state_dict(made.state_dict(), strict=False)
    nn.init.zeros_(made.body["awd_layer2"].gate[-1].weight)
    fine, coarse = made.body(IMAGES)
    padded = nn.functional.pad(fine, (1, 1, 1, 1), mode="reflect")
    expected = plain.body["layer2"](nn.functional.avg_pool2d(padded, 3, 1))
    torch.testing.assert_close(fine, plain.body(IMAGES)[0])
    torch.testing.assert_close(coarse, expected)


@torch.no_grad()
def test_strides_move_into_the_filter():
    made = TimmFPN("resnet26d", 8, low_pass=STRIDE).eval()
    seen = {}
    for name in ("layer1", "awd_layer2", "layer2"):
        made.body[name].register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: tuple(out.shape[2:])})
        )
    made(IMAGES)
    assert seen == {"layer1": (24, 16), "awd_layer2": (12, 8), "layer2": (12, 8)}


@pytest.mark.parametrize("name", ["resnet10t FPN", "csp", "R50"])
@torch.no_grad()
def test_a_folded_backbone_is_a_network_without_branches(name):
    made = BUILDS[name](low_pass=LowPassOptions(awd=False)).eval()
    plain = BUILDS[name]().eval()
    before = outputs(made)
    assert fold_smooth_convs(made) == len(smooth(BUILDS[name](low_pass=BOTH)))
    plain.load_state_dict(made.state_dict())
    scale = max(level.abs().max().item() for level in before)
    for folded, wanted in zip(outputs(plain), before, strict=True):
        torch.testing.assert_close(folded, wanted, rtol=1e-5, atol=1e-5 * max(1.0, scale))


@torch.no_grad()
def test_channels_last_is_the_same_function():
    made = TimmFPN("resnet10t", 8, low_pass=BOTH).eval()
    wanted = outputs(made)
    made.to(memory_format=torch.channels_last)
    found = outputs(made, IMAGES.contiguous(memory_format=torch.channels_last))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_norms_of_the_filters():
    kinds = {
        norm: {type(m.norm) for m in made.modules() if isinstance(m, AdaptiveDownsample)}
        for norm in ("bn", "frozen_bn", "gn")
        for made in [TimmFPN("resnet10t", 8, norm=norm, low_pass=BOTH)]
    }
    assert kinds == {"bn": {nn.BatchNorm2d}, "frozen_bn": {ChannelAffine}, "gn": {nn.GroupNorm}}


@torch.no_grad()
def test_four_channels_see_what_three_see_where_the_greens_are_equal():
    torch.manual_seed(0)
    plain = TimmFPN("resnet10t", 8).eval()
    torch.manual_seed(0)
    made = TimmFPN("resnet10t", 8, in_channels=4).eval()
    planes = IMAGES[:, [0, 1, 2, 1]]
    torch.testing.assert_close(made(planes)["0"], plain(IMAGES)["0"], rtol=1e-4, atol=1e-5)
    assert CSPBackbone("n", in_channels=4).stem.conv.weight.shape[1] == 4
    assert ResNet50FPN(in_channels=4).body.conv1.weight.shape[1] == 4
    with pytest.raises(ValueError, match="in_channels must be 3"):
        CSPBackbone("n", in_channels=1)


def test_what_is_refused():
    with pytest.raises(ValueError, match="tf_efficientnet_lite0 is neither"):
        TimmFPN("tf_efficientnet_lite0", 8, low_pass=BOTH)
    with pytest.raises(ValueError, match="need their stride; use blur"):
        TimmFPN("convnext_atto", 8, low_pass=STRIDE)
    with pytest.raises(ValueError, match="no trained stage"):
        TimmFPN("resnet10t", 8, trainable_stages=0, low_pass=BOTH)
    with pytest.raises(ValueError, match=r"low_pass.init must be binomial or repo, got 'box'"):
        LowPassOptions(init="box")
    with pytest.raises(ValueError, match="needs awd or scb"):
        LowPassOptions(awd=False, scb=False)
