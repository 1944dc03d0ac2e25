"""Outputs of `Mask2Former` and the implementation of ``transformers`` with the same weights."""

import pytest
import torch

from formats.weights.files import load_weights
from tests.support.mask2former_peer import ours, theirs


@pytest.mark.parametrize("backbone", ["resnet", "swin"])
def test_every_output_equals_theirs(backbone, tmp_path):
    peer, model = theirs(backbone), ours(backbone)
    peer.save_pretrained(tmp_path)
    report = load_weights(model, tmp_path / "model.safetensors")
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    images = torch.rand(2, 3, 128, 160, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        normal = (images - model._mean) / model._std
        expected = peer(normal, output_auxiliary_logits=True)
        found = model(images)
        padded = model(images, torch.tensor([[128, 160], [128, 160]]))
    classes = [one["class_queries_logits"] for one in expected.auxiliary_logits]
    masks = [one["masks_queries_logits"] for one in expected.auxiliary_logits]
    classes.append(expected.class_queries_logits)
    masks.append(expected.masks_queries_logits)
    assert len(found.class_logits) == len(found.mask_logits) == len(masks) == 10
    assert all(0.1 < float((one >= 0).float().mean()) < 0.9 for one in masks)  # a mask decides
    torch.testing.assert_close(found.class_logits, classes, rtol=0, atol=2e-5)
    torch.testing.assert_close(found.mask_logits, masks, rtol=0, atol=2e-5)
    torch.testing.assert_close(padded.mask_logits, found.mask_logits, rtol=0, atol=1e-5)
