"""The segmentation protocol on a tiny Mask R-CNN."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from datamodules.seg.digit_scenes import DigitScenesDataModule
from lightning_modules.mil import MILModule
from lightning_modules.segmentation import SegmentationModule
from models.backbones.timm_fpn import TimmFPN
from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions, MaskRCNN, RPNOptions
from structures import CategoryMap


def make_model():
    torch.manual_seed(0)
    return MaskRCNN(
        10,
        TimmFPN("resnet10t", fpn_width=16, strides=(4, 8)),
        rpn=RPNOptions(anchor_sizes=(24, 40, 56)),
        box=BoxHeadOptions(width=16),
        mask=MaskHeadOptions(width=8, num_convs=1),
    )


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def test_models_that_break_the_contract_are_refused():
    with pytest.raises(TypeError, match="Linear is not a SegModel"):
        SegmentationModule(nn.Linear(2, 2), adamw)
    with pytest.raises(TypeError, match="Linear is not a MILModel"):
        MILModule(nn.Linear(2, 2), adamw)


def test_channels_last_changes_memory_order_and_not_the_losses():
    data = DigitScenesDataModule(batch_size=2)
    batch = next(iter(data.train_dataloader()))
    usual = SegmentationModule(make_model(), adamw).network.losses(batch)
    module = SegmentationModule(make_model(), adamw, channels_last=True)
    weights = [p for p in module.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    for name, value in module.network.losses(batch).items():
        torch.testing.assert_close(value, usual[name], rtol=1e-4, atol=1e-6)


def test_data_of_other_classes_are_refused():
    class Trainer:
        precision = "32-true"
        datamodule = DigitScenesDataModule(known=[2, 3])

    module = SegmentationModule(make_model(), adamw)
    module.category_map = CategoryMap((2, 3), ("one", "two"))
    module._trainer = Trainer()
    with pytest.raises(ValueError, match="category maps differ.*'one' in the checkpoint"):
        module.setup("test")


@pytest.mark.parametrize(
    ("stage", "device", "units", "debug", "refused"),
    [
        ("fit", "cpu", False, False, True),
        ("fit", "cpu", False, True, False),  # one step is only warned about
        ("fit", "cpu", True, False, False),
        ("fit", "cuda", False, False, False),
        ("test", "cpu", False, False, False),  # a checkpoint from elsewhere can be scored
    ],
)
def test_bfloat16_needs_units_in_training_on_a_cpu(
    stage, device, units, debug, refused, monkeypatch
):
    monkeypatch.setattr("lightning_modules.segmentation.has_bfloat16_units", lambda: units)
    module = SegmentationModule(make_model(), adamw)
    module._trainer = SimpleNamespace(
        precision="bf16-mixed",
        fast_dev_run=debug,
        strategy=SimpleNamespace(root_device=torch.device(device)),
    )
    if refused:
        with pytest.raises(ValueError, match="no bfloat16 units"):
            module.setup(stage)
    elif debug:
        with pytest.warns(UserWarning, match="no bfloat16 units"):
            module.setup(stage)
    else:
        module.setup(stage)


def test_facts_round_trip():
    class Trainer:
        precision = "32-true"
        datamodule = DigitScenesDataModule(eval_batch_size=7)

    module = SegmentationModule(make_model(), adamw)
    module._trainer = Trainer()
    module.setup("fit")
    facts = module.facts()
    assert facts["preprocessing"]["eval_batch_size"] == 7
    other = SegmentationModule(make_model(), adamw)
    other.restore_facts(facts)
    assert other.category_map == Trainer.datamodule.category_map
