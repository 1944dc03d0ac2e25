import pytest
import timm
import torch

from models.backbones.dino_embedding import (
    SELF_VIT_MEAN,
    SELF_VIT_STD,
    DinoEmbedding,
    dino_teacher,
    embed_tiles,
)


def tiles(count=3, side=32, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def by_hooks(network, normalised):
    """Class tokens of the last four blocks and mean patch token, read off the running blocks."""
    body, seen = network.body, []
    hooks = [
        block.register_forward_hook(lambda module, args, output: seen.append(output))
        for block in body.blocks[-4:]
    ]
    body(normalised)
    for hook in hooks:
        hook.remove()
    tokens = [body.norm(output) for output in seen]
    patches = tokens[-1][:, body.num_prefix_tokens :]
    return torch.cat([t[:, 0] for t in tokens] + [patches.sum(1) / patches.shape[1]], dim=1)


@pytest.mark.parametrize(
    ("name", "side", "width", "patches"),
    [
        ("test_vit", 48, 64, 9),  # patches of 16 pixels
        ("vit_tiny_patch16_dinov3_qkvb", 32, 192, 4),  # four register tokens
    ],
)
def test_equals_what_hooks_on_the_blocks_see(name, side, width, patches):
    torch.manual_seed(0)
    network = DinoEmbedding(name, image_size=side).eval()
    images = tiles(2, side)
    mean, std = (torch.tensor(network.body.pretrained_cfg[k]) for k in ("mean", "std"))
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        found, expected = network(images), by_hooks(network, normalised)
    assert found.shape == (2, 5 * width) and network.out_features == 5 * width
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # the mean is over patches alone: class and register tokens would make it another number
    with torch.no_grad():
        all_tokens = network.body.forward_features(normalised)
    assert all_tokens.shape[1] == patches + network.body.num_prefix_tokens
    torch.testing.assert_close(found[:, 3 * width : 4 * width], all_tokens[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        found[:, 4 * width :], all_tokens[:, -patches:].mean(1), rtol=0, atol=1e-6
    )


def test_given_statistics_take_the_place_of_the_models():
    torch.manual_seed(0)
    own = DinoEmbedding("test_vit", image_size=32).eval()
    other = DinoEmbedding("test_vit", image_size=32, mean=SELF_VIT_MEAN, std=SELF_VIT_STD).eval()
    other.body.load_state_dict(own.body.state_dict())
    # test_vit's own are 0.5 and 0.5: x' = (x - mean) / std is what 0.5 + x' / 2 is to the other
    images = tiles()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (SELF_VIT_MEAN, SELF_VIT_STD))
    moved = 0.5 + 0.5 * (images - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(other(images), own(moved), rtol=0, atol=1e-5)
    assert SELF_VIT_MEAN == (0.6223, 0.4763, 0.6009)
    assert SELF_VIT_STD == (0.2012, 0.2190, 0.1722)


def test_chunks_change_nothing_and_the_mode_is_kept():
    torch.manual_seed(0)
    network = DinoEmbedding("test_vit", image_size=32)
    images = tiles(5)
    network.body.patch_drop = torch.nn.Dropout(0.5)  # would show if the mode were training
    network.body.norm.eval()
    found = embed_tiles(network, images, chunk=2)
    assert network.training and network.body.patch_drop.training
    assert not network.body.norm.training  # a part that was in eval mode before
    assert found.dtype == torch.float32 and not found.requires_grad
    with torch.no_grad():
        expected = network.eval()(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    embed_tiles(network, images)
    assert not network.training


def test_weights_of_a_dino_teacher(tmp_path):
    torch.manual_seed(1)
    trained = timm.create_model("test_vit", num_classes=0)
    teacher = {f"module.backbone.{k}": v for k, v in trained.state_dict().items()}
    teacher |= {"module.head.last_layer.weight_v": torch.zeros(2, 2)}
    checkpoint = {"student": {}, "teacher": teacher, "epoch": 3}
    file = tmp_path / "teacher.pt"
    torch.save(dino_teacher(checkpoint), file)
    network = DinoEmbedding("test_vit", weights=str(file))
    for name, value in trained.state_dict().items():
        assert torch.equal(network.body.state_dict()[name], value), name
    # tiles of another size: positions are resampled after loading
    smaller = DinoEmbedding("test_vit", weights=str(file), image_size=32)
    assert smaller.body.pos_embed.shape[1] == 1 + 4
    assert torch.equal(smaller.body.pos_embed[:, :1], trained.pos_embed[:, :1])
    with pytest.raises(ValueError, match="no teacher"):
        dino_teacher({"student": teacher})


def test_what_is_refused():
    for name in ("test_vit2", "resnet18"):  # no class token; no transformer
        with pytest.raises(ValueError, match="class token"):
            DinoEmbedding(name)
    with pytest.raises(ValueError, match="either"):
        DinoEmbedding("test_vit", pretrained=True, weights="teacher.pt")
    network = DinoEmbedding("test_vit", image_size=32)
    for wrong in (tiles()[0], torch.zeros(2, 3, 32, 32, dtype=torch.uint8), tiles()[:0]):
        with pytest.raises(ValueError, match="tiles must be"):
            embed_tiles(network, wrong)
    network.mean = torch.zeros(2, 1, 1)  # fits no tile
    with pytest.raises(RuntimeError):
        embed_tiles(network, tiles())
    assert network.training
