"""Weights of published EoMT networks under our names."""

import pytest
import torch

from formats.weights.files import load_weights
from models.backbones.timm_vit import TimmViT
from models.seg.eomt import EoMT
from models.seg.eomt.annealing import PARTS

START = "backbone.body."


def make(classes=3, image_size=64, blocks=2, queries=5, **options):
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2} | options
    vit = TimmViT("vit_small_patch14_reg4_dinov2", image_size, 16, options=options)
    network = EoMT(classes, vit, num_queries=queries, num_blocks=blocks).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3)
    return network


def authors(network, prefix="network."):
    """Return weights as the authors' LightningModule saves them."""
    named = {}
    for name, value in network.state_dict().items():
        if name == "mask_parts":
            named["attn_mask_probs"] = value / PARTS
        elif name == "query.weight":
            named["q.weight"] = value
        else:
            named[name.replace(START, "encoder.backbone.")] = value
    named |= {"encoder.pixel_mean": torch.zeros(1, 3, 1, 1)}
    named |= {"encoder.pixel_std": torch.ones(1, 3, 1, 1)}
    return {prefix + name: value for name, value in named.items()} | {
        "criterion.empty_weight": torch.ones(4)
    }


@pytest.mark.parametrize("prefix", ["network.", ""])
def test_names_of_the_authors(prefix, tmp_path):
    torch.manual_seed(0)
    source, network = make(), make()
    source.set_progress(0.4)
    torch.save({"state_dict": authors(source, prefix)}, tmp_path / "eomt.bin")
    report = load_weights(network, tmp_path / "eomt.bin")
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    assert report.notes == ["recognised: EoMT of the authors"]
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_the_gated_layers_of_giant_networks(tmp_path):
    transformers = pytest.importorskip("transformers")
    from timm.layers import SwiGLUPacked

    torch.manual_seed(0)
    config = transformers.EomtConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        num_blocks=1,
        num_queries=5,
        num_labels=3,
        use_swiglu_ffn=True,
    )
    peer = transformers.EomtForUniversalSegmentation(config).eval()
    peer.attn_mask_probs.zero_()
    hidden = 2 * peer.state_dict()["layers.0.mlp.gate_proj.weight"].shape[0]
    network = make(
        blocks=1,
        depth=2,
        embed_dim=48,
        mlp_ratio=hidden / 48,
        mlp_layer=SwiGLUPacked,
        act_layer=torch.nn.SiLU,
    )
    peer.save_pretrained(tmp_path)
    report = load_weights(network, next(tmp_path.glob("*.safetensors")))
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = peer((images - network._mean) / network._std).masks_queries_logits
        found = network(images).mask_logits[-1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_another_number_of_classes_leaves_the_class_head_new(tmp_path):
    network = make(classes=7)
    torch.save(authors(make()), tmp_path / "eomt.bin")
    before = network.class_head.weight.clone()
    report = load_weights(network, tmp_path / "eomt.bin")
    assert report.mismatched == [
        "class_head.bias: (4,) -> (8,)",
        "class_head.weight: (4, 32) -> (8, 32)",
    ]
    assert torch.equal(network.class_head.weight, before)


def test_positions_of_another_square_are_resampled(tmp_path):
    source, network = make(image_size=96), make()
    torch.save(authors(source), tmp_path / "eomt.bin")
    assert load_weights(network, tmp_path / "eomt.bin").missing == []
    assert network.backbone.body.pos_embed.shape == (1, 16, 32)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"embed_dim": 48}, r"pos_embed is \(1, 16, 48\) in the file, \(1, 16, 32\) in the model"),
        ({"depth": 4}, r"backbone\.body\.blocks\.3\.\S* is unknown"),
        ({"depth": 2}, r"backbone\.body\.blocks\.2\.\S* is missing"),
        ({"queries": 6}, r"query\.weight is \(6, 32\) in the file, \(5, 32\) in the model"),
        ({"blocks": 1}, r"mask_parts is \(1,\) in the file, \(2,\) in the model"),
    ],
    ids=["width", "more blocks", "fewer blocks", "queries", "blocks with queries"],
)
def test_another_architecture_is_refused_by_name_and_shape(other, message, tmp_path):
    torch.save(authors(make(**other)), tmp_path / "eomt.bin")
    with pytest.raises(ValueError, match=rf"eomt\.bin does not fit the model: .*{message}"):
        load_weights(make(), tmp_path / "eomt.bin")
