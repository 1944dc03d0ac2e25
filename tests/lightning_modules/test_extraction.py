"""The hash of an encoder's weights, its description, and encoders that do not fit."""

import pytest
import torch
from torch import nn

from lightning_modules.extraction import (
    ExtractionModule,
    encoder_section,
    portable_config,
    weights_hash,
)
from structures import PatchBatch
from tests.support.tiny_encoder import TinyEncoder


def test_hash_of_weights():
    known = weights_hash(TinyEncoder())
    assert known == weights_hash(TinyEncoder().to(memory_format=torch.channels_last))
    assert known != weights_hash(TinyEncoder(seed=1))
    half = TinyEncoder().half()
    assert known != weights_hash(half) == weights_hash(half)
    module = nn.Module()
    module.register_buffer("scalar", torch.tensor(3.0))
    assert len(weights_hash(module)) == 64


def test_description_leaves_out_the_source_of_the_weights():
    module = ExtractionModule(TinyEncoder(seed=4))
    assert module.describe_encoder()["encoder"] == "tests.support.tiny_encoder.TinyEncoder()"
    given = {"width": 8, "seed": 4, "factor": None}
    section = {"class_path": "tests.support.tiny_encoder.TinyEncoder", "init_args": given}
    module.blueprint = {"model": {"init_args": {"encoder": section}}}
    found = module.describe_encoder()
    assert found["encoder"] == "tests.support.tiny_encoder.TinyEncoder(width=8)"
    assert (found["input_size"], found["weights_sha256"]) == (64, weights_hash(module.encoder))


def test_bytes_and_numbers_give_the_same_features():
    module = ExtractionModule(TinyEncoder())
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    coords = torch.zeros((3, 2), dtype=torch.long)
    bytewise = module.predict_step(PatchBatch(images, coords), 0)
    assert torch.equal(bytewise, module.predict_step(PatchBatch(images / 255, coords), 0))
    assert torch.equal(bytewise, TinyEncoder()(images / 255))
    empty = PatchBatch(images[:0], coords[:0], fault="cannot be read")
    assert module.predict_step(empty, 0).shape == (0, 8)


class Wrong(nn.Module):
    input_size, out_features = 16, 8

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, patches):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (torch.zeros(2, 7, 7, 8), r"gives \(2, 7, 7, 8\) for 2 patches"),
        (torch.zeros(2, 9), r"gives \(2, 9\)"),
        ([torch.zeros(2, 8)], "gives list"),
        (RuntimeError("size mismatch"), r"cannot encode patches of 16 pixels \(size mismatch\)"),
    ],
)
def test_encoders_that_do_not_fit(answer, reason):
    module = ExtractionModule(Wrong(answer))
    with pytest.raises(ValueError, match=reason):
        module.check_encoder(16)


def section(weights, **further):
    kind = "tests.support.tiny_encoder.FileEncoder"
    return {"class_path": kind, "init_args": {"weights": weights, **further}}


def test_files_of_weights_are_left_out_and_given_again(tmp_path):
    file = tmp_path / "weights.pt"
    file.touch()
    given = section(str(file), inner=section(str(file)))
    config = portable_config(given)
    inner = "init_args.inner.init_args.weights"
    assert config["from_files"] == ["init_args.weights", inner]
    assert str(file) not in str(config)
    assert given == section(str(file), inner=section(str(file)))  # not changed
    with pytest.raises(ValueError, match="FileEncoder has 2 of them: an argument that names"):
        encoder_section(config, "other.pt")
    config = portable_config(section(str(file)))
    with pytest.raises(ValueError, match="FileEncoder reads its weights from a file"):
        encoder_section(config, None)
    assert encoder_section(config, "other.pt") == section("other.pt")


def test_names_of_weights_stay():
    config = portable_config(section("published"))
    assert config == section("published")
    assert encoder_section(config, None) == section("published")
    assert encoder_section(config, "other.pt") == section("other.pt")
    without = {"class_path": "torch.nn.Linear", "init_args": {"bias": True}}
    assert encoder_section(portable_config(without), None) == without
    with pytest.raises(ValueError, match="has none: an argument that names a source of weights"):
        encoder_section(without, "other.pt")
