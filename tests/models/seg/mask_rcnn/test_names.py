"""torchvision's published names: converted as torchvision does, and the same detections."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models._meta import _COCO_CATEGORIES
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from engine.training.command_line import run
from models.seg.mask_rcnn import MaskRCNNResNet50FPNV2
from models.seg.mask_rcnn.names import torchvision_weights
from tests.support.published_weights import random_weights

UNUSED = [k for k, name in enumerate(_COCO_CATEGORIES) if name == "N/A"]
IDS = [k for k in range(1, 91) if k not in UNUSED]


def torchvisions(version):
    """The published model as torchvision builds it, without weights."""
    if version == 2:
        return maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d
    )
    return TorchvisionMaskRCNN(backbone, num_classes=91)


def test_names_of_version_1_become_what_torchvision_makes_of_them():
    given = random_weights("maskrcnn_v1")
    theirs = torchvisions(1)
    theirs.load_state_dict(dict(given), strict=True)
    ours = torchvision_weights(given, 90, 1)
    assert ours.norm_eps == 0
    assert ours.tensors.keys() == theirs.state_dict().keys()
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.tensors.items())


def test_outputs_of_coco_are_reduced():
    assert len(UNUSED) == 10
    given = random_weights("maskrcnn_v1")
    found = torchvision_weights(given, 80, 1).tensors
    kept = [0, *IDS]
    name = "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(found[name], given[name].view(91, 4, 1024)[kept].reshape(324, 1024))
    for name in ("box_predictor.cls_score.bias", "mask_predictor.mask_fcn_logits.weight"):
        assert torch.equal(found[f"roi_heads.{name}"], given[f"roi_heads.{name}"][kept])
    same = torchvision_weights(given, 3, 1).tensors
    assert same[f"roi_heads.{name}"].shape[0] == 91


def test_what_is_not_torchvisions():
    given = random_weights("maskrcnn_v1")
    assert torchvision_weights({"conv1.weight": torch.zeros(1)}, 80, 1) is None
    learned = given | {"backbone.body.bn1.num_batches_tracked": torch.zeros(())}
    assert torchvision_weights(learned, 80, 1).norm_eps is None
    with pytest.raises(ValueError, match="version 1, the model is not; use configs/seg/mask_rcnn"):
        torchvision_weights(given, 80, 2)


def without_unused(kind):
    """Random weights that never detect one of the ids without a category, like the published."""
    weights = random_weights(kind)
    weights["roi_heads.box_predictor.cls_score.bias"][UNUSED] = -1e4
    return weights


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """One image, and COCO's categories under their own ids."""
    root = tmp_path_factory.mktemp("coco")
    pixels = np.random.default_rng(0).integers(0, 255, (128, 160, 3), dtype=np.uint8)
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "height": 128, "width": 160}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 90, "bbox": [8, 8, 40, 40], "area": 1600,
             "iscrowd": 0, "segmentation": [[8, 8, 48, 8, 48, 48, 8, 48]]}
        ],
        "categories": [{"id": k, "name": _COCO_CATEGORIES[k]} for k in IDS],
    }  # fmt: skip
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        Image.fromarray(pixels).save(root / "images" / split / "1.png")
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
def test_published_detector_equals_torchvisions(version, coco, tmp_path, monkeypatch):
    """``validate`` with ``init_from`` is the evaluation of torchvision's own model."""
    given = without_unused(f"maskrcnn_v{version}")
    torch.save(given, tmp_path / "published.pth")
    theirs = torchvisions(version).eval()
    theirs.load_state_dict(dict(given), strict=True)
    if version == 1:
        overwrite_eps(theirs, 0.0)
    theirs.transform.resize = lambda image, target=None: (image, target)
    recipe = "configs/seg/mask_rcnn.yaml" if version == 1 else "configs/seg/mask_rcnn_v2.yaml"
    arguments = ["validate", "--config", recipe, "--data.root", coco, "--runs_dir", tmp_path]
    arguments += ["--model.init_args.init_from", tmp_path / "published.pth"]
    arguments += ["--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    arguments += ["--data.eval_short_side", "null", "--data.max_long_side", "null"]
    if version == 2:  # its box head of convolutions takes long for a thousand regions
        arguments += ["--model.init_args.model.init_args.norm", "bn"]
        arguments += ["--model.init_args.model.init_args.rpn.post_nms_test", "200"]
        options = inspect.signature(MaskRCNNResNet50FPNV2).parameters["rpn"].default
        assert theirs.rpn.post_nms_top_n() == options.post_nms_test
        theirs.rpn._post_nms_top_n["testing"] = 200
    cli = run([str(word) for word in arguments])
    (batch,) = cli.datamodule.val_dataloader()
    assert batch.images.shape[-2:] == (128, 160)
    with torch.no_grad():
        (expected,) = theirs.double()([batch.images[0].double()])
    # random weights give nearly equal scores, whose order depends on the last digits
    precise = dataclasses.replace(batch, images=batch.images.double())
    (found,) = cli.model.double().eval().network.predict(precise)
    assert len(found) > 20
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-5, atol=1e-5)
    ids = torch.tensor(cli.datamodule.category_map.ids)
    assert torch.equal(ids[found.labels], expected["labels"])
    scores = torch.tensor([r["score"] for r in cli.model.results], dtype=torch.float64)
    scores = scores.sort(descending=True).values
    # in single precision a pair of nearly equal scores may be exchanged and suppress other boxes
    torch.testing.assert_close(scores, expected["scores"], rtol=0, atol=1e-3)
