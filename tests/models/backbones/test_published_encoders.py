"""The recipes of published encoders have their widths and sizes, on a device without memory."""

from pathlib import Path

import pytest
import torch
import yaml

from models.backbones.patch_encoder import TimmEncoder


@pytest.mark.parametrize(
    ("recipe", "width", "millions"),
    [("resnet50", 1024, 8.5), ("uni", 1024, 303), ("virchow2", 2560, 631)],
)
def test_widths_of_the_recipes_without_memory(recipe, width, millions):
    text = Path(f"configs/wsi/extract_{recipe}.yaml").read_text(encoding="utf-8")
    section = yaml.safe_load(text)["model"]["init_args"]["encoder"]
    assert section["class_path"] == "models.backbones.patch_encoder.TimmEncoder"
    with torch.device("meta"):
        encoder = TimmEncoder(**section["init_args"] | {"weights": None})
        found = encoder(torch.empty(2, 3, 224, 224))
    assert found.shape == (2, width) and encoder.out_features == width
    assert encoder.input_size == 224
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)
    assert all(parameter.is_meta for parameter in encoder.parameters())
    assert section["init_args"]["weights"]  # never random by default
