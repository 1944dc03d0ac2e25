"""EoMT against the implementation in transformers, with the same weights."""

import pytest
import torch

from formats.weights.files import load_weights
from models.backbones.timm_vit import TimmViT
from models.seg.eomt import EoMT

SIDE, CLASSES = 64, 3


def ours(**options):
    vit = TimmViT(
        "vit_small_patch14_reg4_dinov2",
        options.pop("image_size", SIDE),
        16,
        options={"embed_dim": 32, "depth": options.pop("depth", 4), "num_heads": 2},
    )
    return EoMT(CLASSES, vit, num_queries=7, num_blocks=2, **options).eval()


@pytest.fixture(scope="module")
def peer():
    """Network of transformers with values that are neither 0 nor 1 anywhere."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    network = transformers.EomtForUniversalSegmentation(
        transformers.EomtConfig(
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=SIDE,
            num_blocks=2,
            num_queries=7,
            num_labels=CLASSES,
        )
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        network.attn_mask_probs.zero_()
    return network


@pytest.fixture(scope="module")
def files(peer, tmp_path_factory):
    """Weights as ``save_pretrained`` writes them, and as they are in memory."""
    folder = tmp_path_factory.mktemp("eomt")
    peer.save_pretrained(folder)
    torch.save(peer.state_dict(), folder / "memory.pt")
    return [next(folder.glob("*.safetensors")), folder / "memory.pt"]


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(4)
    return torch.rand(2, 3, SIDE, SIDE)


def theirs(peer, network, images):
    with torch.no_grad():
        output = peer((images - network._mean) / network._std)
    return output.class_queries_logits, output.masks_queries_logits


@pytest.mark.parametrize("kind", [0, 1], ids=["on disk", "in memory"])
def test_the_last_output_is_equal(peer, files, images, kind):
    network = ours()
    report = load_weights(network, files[kind])
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    classes, masks = theirs(peer, network, images)
    with torch.no_grad():
        output = network(images)
    assert len(output.class_logits) == len(output.mask_logits) == 3
    assert masks.std() > 1
    torch.testing.assert_close(output.class_logits[-1], classes, rtol=0, atol=1e-4)
    torch.testing.assert_close(output.mask_logits[-1], masks, rtol=0, atol=1e-4)


def test_it_is_equal_with_masks_in_the_attention(peer, files, images):
    network = ours()
    load_weights(network, files[0])
    with torch.no_grad():
        plain = network(images).mask_logits[-1]
    network.set_progress(0.0)
    peer.attn_mask_probs.fill_(1)
    classes, masks = theirs(peer, network, images)
    peer.attn_mask_probs.fill_(0)
    with torch.no_grad():
        output = network(images)
    assert (masks - plain).abs().max() > 0.1
    torch.testing.assert_close(output.class_logits[-1], classes, rtol=0, atol=1e-4)
    torch.testing.assert_close(output.mask_logits[-1], masks, rtol=0, atol=1e-4)
