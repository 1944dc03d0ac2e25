"""Vision transformers against timm's own forward pass and resampling."""

import pytest
import torch
from torch import nn

from formats.weights.files import load_weights
from models.backbones.timm_vit import TimmViT

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2}
DINO = "vit_small_patch14_reg4_dinov2"


class Net(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def vit(name=DINO, image_size=64, patch_size=16, options=SMALL, **rest):
    return TimmViT(name, image_size, patch_size, options=options, **rest)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [(DINO, 5), ("vit_tiny_patch16_224", 1), ("vit_base_patch16_clip_224", 1)],
    ids=["registers", "class token with a position", "norm before the blocks"],
)
def test_a_whole_square_gives_what_timm_gives(name, prefix):
    torch.manual_seed(0)
    network = vit(name).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.rand(2, 3, 64, 64)
    assert (network.num_prefix, network.width, network.patch_size) == (prefix, 32, 16)
    torch.testing.assert_close(network(images), network.body.forward_features(images))


def test_a_smaller_image_has_the_positions_of_the_top_left_part():
    torch.manual_seed(0)
    network = vit("vit_tiny_patch16_224").eval()
    images = torch.rand(1, 3, 64, 64)
    whole = network.tokens(images)
    part = network.tokens(images[:, :, :32, :48])
    grid = whole[:, 1:].unflatten(1, (4, 4))[:, :2, :3].flatten(1, 2)
    torch.testing.assert_close(part, torch.cat([whole[:, :1], grid], dim=1))


def test_an_image_larger_than_the_square_is_refused_with_both_sizes_and_a_remedy():
    message = r"images of 64 x 96 are larger than the square of 64 x 64 .* image_size 96"
    with pytest.raises(ValueError, match=message):
        vit().tokens(torch.rand(1, 3, 64, 96))


@pytest.mark.parametrize("name", [DINO, "vit_tiny_patch16_224"])
def test_weights_of_another_patch_and_size_are_resampled_as_timm_does(name, tmp_path):
    from timm.models.vision_transformer import checkpoint_filter_fn

    source, network = vit(name), vit(name, image_size=96, patch_size=8)
    expected = checkpoint_filter_fn(source.body.state_dict(), network.body)
    file = tmp_path / "vit.pt"
    head = {} if name == DINO else {"head.weight": torch.ones(5, 32)}
    torch.save(source.body.state_dict() | head, file)
    loaded = vit(name, image_size=96, patch_size=8, weights=str(file))
    segmentor = Net(network)
    report = load_weights(segmentor, file)
    assert (report.missing, report.mismatched, report.unexpected) == ([], [], list(head))
    for body in (loaded.body, segmentor.backbone.body):
        assert body.pos_embed.shape[1] == 144 + (name != DINO)
        for key, value in body.state_dict().items():
            torch.testing.assert_close(value, expected[key])


def test_names_of_dinov2_are_converted():
    torch.manual_seed(0)
    network = vit()
    ours = {name: torch.randn_like(value) for name, value in network.body.state_dict().items()}
    theirs = {name: value for name, value in ours.items() if not name.endswith("_token")}
    position = torch.randn(1, 1, 32)
    theirs |= {"register_tokens": ours["reg_token"], "cls_token": ours["cls_token"] - position}
    theirs |= {"pos_embed": torch.cat([position, ours["pos_embed"]], dim=1)}
    theirs |= {"mask_token": torch.zeros(1, 32)}
    found = network.public_weights(theirs).tensors
    assert found.keys() == {f"body.{name}" for name in ours}
    for name, value in ours.items():
        torch.testing.assert_close(found[f"body.{name}"], value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SMALL | {"embed_dim": 48}, r"body.cls_token is \(1, 1, 48\) in the file, \(1, 1, 32\) in"),
        (SMALL | {"depth": 2}, r"body\.blocks\.2\.norm1\.weight is missing"),
        (SMALL | {"depth": 4}, r"body\.blocks\.3\..* is unknown"),
        (SMALL | {"init_values": 0.0}, r"body\.blocks\.0\.ls1\.gamma is missing"),
    ],
    ids=["width", "fewer blocks", "more blocks", "no layer scale"],
)
def test_weights_of_another_architecture_are_refused_by_name(options, message, tmp_path):
    torch.save(vit(options=options).body.state_dict(), tmp_path / "vit.pt")
    with pytest.raises(ValueError, match=message):
        load_weights(Net(vit()), tmp_path / "vit.pt")


def test_the_first_blocks_can_be_frozen():
    network = vit(trainable_blocks=1)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert {name.partition(".")[2].rpartition(".")[0].split(".")[0] for name in trained} == {
        "blocks",
        "norm",
    }
    assert all(name.startswith(("body.blocks.2.", "body.norm.")) for name in trained)
    assert not any(p.requires_grad for p in vit(trainable_blocks=0).blocks.parameters())


def test_four_channels_and_stochastic_depth():
    network = vit(in_channels=4, drop_path=0.3)
    assert network.tokens(torch.rand(1, 4, 64, 64)).shape == (1, 21, 32)
    assert network.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    assert [network.blocks_above(f"body.blocks.{k}.ls1.gamma") for k in range(3)] == [2, 1, 0]
    assert network.blocks_above("body.pos_embed") == 2
    assert network.blocks_above("body.norm.weight") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet18"}, "timm cannot build resnet18"),
        ({"name": "eva02_tiny_patch14_224", "options": None}, "is no plain vision transformer"),
        ({"name": "test_vit4", "options": None}, "normalises only pooled tokens"),
        ({"image_size": 60}, "image_size must be a multiple of the patch of 16 pixels, got 60"),
        ({"trainable_blocks": 4}, r"trainable_blocks must be in 0\.\.3, got 4"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\)"),
        ({"pretrained": True, "weights": "w.pt"}, "either pretrained: true or weights"),
        ({"weights": "absent.pt"}, "absent.pt is neither"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        vit(**arguments)
