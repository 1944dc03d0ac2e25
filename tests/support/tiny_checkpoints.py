"""Untrained checkpoints of tiny segmentors in the format of `train.py`."""

import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser

from datamodules.seg.digit_scenes import DigitScenesDataModule
from lightning_modules.rebuilding import FORMAT
from lightning_modules.segmentation import SegmentationModule

YOLO = {
    "class_path": "models.seg.yolo.YOLOSeg",
    "init_args": {
        "scale": {"depth": 0.33, "width": 0.125, "max_channels": 256},
        "score_thresh": 0.0,
        "max_dets": 20,
    },
}
LOW_PASS_YOLO = {
    **YOLO,
    "init_args": {
        **YOLO["init_args"],
        "backbone": {
            "class_path": "models.backbones.csp.CSPBackbone",
            "init_args": {"scale": YOLO["init_args"]["scale"], "low_pass": {"awd": True}},
        },
    },
}
MASK_RCNN = {
    "class_path": "models.seg.mask_rcnn.MaskRCNN",
    "init_args": {
        "backbone": {
            "class_path": "models.backbones.timm_fpn.TimmFPN",
            "init_args": {"name": "resnet10t", "fpn_width": 16, "strides": [4, 8]},
        },
        "rpn": {"anchor_sizes": [24, 40, 56], "pre_nms_test": 50, "post_nms_test": 20},
        "box": {"width": 16},
        "mask": {"width": 8, "num_convs": 1},
        "score_thresh": 0.0,
        "max_dets": 20,
    },
}


def write_checkpoint(path, model, seed=0, liven=0.0, preprocessing=None, **init_args):
    """Write the checkpoint of a model for the ten digits.

    Args:
        path: file to write.
        model: class_path and init_args of the network.
        seed: seed of the weights.
        liven: standard deviation of noise on the biases of class scores, so that scores differ.
        preprocessing: changes of the resizing of images.
        init_args: further arguments of the LightningModule.
    """
    data = DigitScenesDataModule(eval_batch_size=2)
    section = {
        "class_path": "lightning_modules.segmentation.SegmentationModule",
        "init_args": {
            "model": model,
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
            **init_args,
        },
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationModule, "model")
    torch.manual_seed(seed)
    linked = {**model, "init_args": {**model["init_args"], "num_classes": 10}}
    full = {**section, "init_args": {**section["init_args"], "model": linked}}
    module = parser.instantiate_classes(parser.parse_object({"model": full})).model
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):  # not the identity, same as after training
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
        for name, bias in module.named_parameters():
            if "head.classes" in name and name.endswith("2.bias"):
                bias.add_(liven * torch.randn_like(bias))
    facts = {
        "category_map": data.category_map.to_dict(),
        "preprocessing": {**data.evaluation_arguments(), **(preprocessing or {})},
        "categories": data.category_arguments(),
    }
    blueprint = {"model": section, "links": {"num_classes": 10}}
    blueprint["data"] = {
        "class_path": "datamodules.seg.digit_scenes.DigitScenesDataModule",
        "init_args": {},
    }
    record = {"format": FORMAT, "facts": facts, "precision": "32-true", "blueprint": blueprint}
    lightning = {"pytorch-lightning_version": pl.__version__, "epoch": 0, "global_step": 0}
    torch.save({"state_dict": module.state_dict(), "segmil": record, **lightning}, path)
    return path
