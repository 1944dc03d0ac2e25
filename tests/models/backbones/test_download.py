"""Published weights: from the cache, from a server, or an error within seconds."""

import socket
import time

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet50_Weights, resnet50

from models.backbones import download
from models.backbones.download import create_timm, download_state_dict
from models.backbones.resnet_fpn import ResNet50FPN


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


@pytest.fixture
def silent():
    """A server that accepts and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_a_server_that_does_not_answer(caches, silent, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", silent)
    start = time.perf_counter()
    with pytest.raises(
        ValueError, match=r"of resnet18 are not in the cache \(127.*(time|no answer)"
    ) as e:
        create_timm("resnet18", pretrained=True)
    assert time.perf_counter() - start < 4
    assert "--model.init_args.init_from FILE" in str(e.value)
    assert "\n" not in str(e.value)


def test_no_server(caches, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"127.0.0.1:9 cannot be reached: .*refused"):
        create_timm("resnet18", pretrained=True)
    with pytest.raises(ValueError, match=r"resnet50.pth are not in the cache .*refused"):
        download_state_dict("http://127.0.0.1:9/resnet50.pth")


def test_weights_of_the_cache_need_no_network(caches, monkeypatch):
    monkeypatch.setattr(download, "_check_reachable", None)  # calling it would fail
    weights = timm.create_model("resnet18").state_dict()
    commit = caches / "hf" / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    commit.mkdir(parents=True)
    save_file(weights, commit / "model.safetensors")
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text("abc")
    model = create_timm("resnet18", pretrained=True, features_only=True)
    assert torch.equal(
        model.state_dict()["layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"]
    )


def test_a_model_without_published_weights():
    with pytest.raises(ValueError, match="publishes no weights for resnetblur18"):
        create_timm("resnetblur18", pretrained=True)


def test_a_resnet_50_takes_torchvisions_weights(monkeypatch):
    weights = resnet50().state_dict()
    asked = []
    monkeypatch.setattr(
        "models.backbones.resnet_fpn.download_state_dict",
        lambda url: asked.append(url) or weights,
    )
    body = ResNet50FPN(pretrained=True).body.state_dict()
    assert asked == [ResNet50_Weights.IMAGENET1K_V1.url]
    assert torch.equal(body["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
