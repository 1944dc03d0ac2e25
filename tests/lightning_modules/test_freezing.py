"""Freezing by name patterns: parameters, running statistics, refusals."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.freezing import freeze_parameters
from lightning_modules.mhim import MHIMModule
from lightning_modules.mil import MILModule
from lightning_modules.sc_mil import SCMILModule
from lightning_modules.segmentation import SegmentationModule
from models.backbones.timm_fpn import TimmFPN
from models.mil.abmil import ABMIL
from models.mil.mhim import MHIM
from models.mil.mhim.masking import MaskRatios
from models.mil.sc_mil import SCMIL
from models.seg.mask_rcnn import BoxHeadOptions, MaskHeadOptions, MaskRCNN, RPNOptions
from structures import BagBatch


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.1)


def abmil(*facts):
    facts = facts or (3, 2, "binary")
    return ABMIL(*facts, hidden_sizes=[8], dropout=0.0, attention_dim=4)


def mask_rcnn(norm="bn", **backbone):
    return MaskRCNN(
        10,
        TimmFPN("resnet10t", fpn_width=16, strides=(4, 8), norm=norm, **backbone),
        rpn=RPNOptions(anchor_sizes=(24, 40, 56)),
        box=BoxHeadOptions(width=16),
        mask=MaskHeadOptions(width=8, num_convs=1, norm="bn"),
    )


def segmentor(model, **options):
    return SegmentationModule(model, adamw, **options).train()


def learning_norms(module):
    """Return the names of the norms that update their running statistics."""
    return {
        name
        for name, part in module.model.named_modules()
        if isinstance(part, nn.BatchNorm2d) and part.training
    }


def trained(module):
    return {name for name, p in module.model.named_parameters() if p.requires_grad}


def test_only_what_does_not_match_is_trained():
    module = MILModule(abmil(), adamw, freeze=["embed.*", "*.bias"])
    parts = ("attention_value", "attention_score", "classifier")
    assert trained(module) == {f"{part}.weight" for part in parts}
    owned = {id(p) for g in module.build_optimizer().param_groups for p in g["params"]}
    assert owned == {id(module.model.get_parameter(name)) for name in trained(module)}


def test_a_step_leaves_the_frozen_part_as_it_was():
    torch.manual_seed(0)
    module = MILModule(abmil(), adamw, freeze=["embed.*"])
    before = copy.deepcopy(module.model.state_dict())
    offsets, labels = torch.tensor([0, 2, 5]), torch.tensor([0, 1])
    bags = BagBatch(torch.randn(5, 3), offsets, labels, index=labels)
    optimizer = module.build_optimizer()
    module.train()
    sum(module.training_terms(bags).values()).backward()
    optimizer.step()
    changed = {n for n, v in module.model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert not any(name.startswith("embed.") for name in changed)


@pytest.mark.parametrize(
    ("pattern", "advice"),
    [
        ("backbon.*", r"did you mean backbone.\*"),
        ("backbone", r"did you mean .*backbone.\*"),
        ("model.backbone.*", r"backbone.\*"),
        ("zzz", "its parts are backbone, rpn, roi_heads"),
        ("*.running_mean", "no parameter of MaskRCNN matches"),
        ("Backbone.*", r"did you mean backbone.\*"),
    ],
)
def test_a_pattern_that_matches_nothing_names_what_is_near(pattern, advice):
    with pytest.raises(ValueError, match=advice):
        segmentor(mask_rcnn(), freeze=["rpn.*", pattern])


def test_nothing_left_to_train_is_refused():
    with pytest.raises(ValueError, match="leave no parameter of ABMIL to train"):
        MILModule(abmil(), adamw, freeze=["embed.*", "*"])
    model = nn.Linear(2, 2).requires_grad_(False)
    freeze_parameters(model, [])  # only what freeze does is judged


def test_norms_of_frozen_parts_keep_their_statistics():
    module = segmentor(mask_rcnn(), freeze=["backbone.body.*"])
    heads = {name for name in learning_norms(module) if not name.startswith("backbone.body.")}
    assert learning_norms(module) == heads != set()
    module.eval()
    assert learning_norms(module) == set()
    module.train()
    assert learning_norms(module) == heads
    weights = ["backbone.body.*.weight"]  # statistics go on where a bias is trained
    assert learning_norms(segmentor(mask_rcnn(), freeze=weights)) != heads
    both = segmentor(mask_rcnn(), freeze=[*weights, "backbone.body.*.bias"])
    assert learning_norms(both) == heads


def test_norms_without_parameters_follow_the_pattern():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
            self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False))
            self.max_dets = 1

        def losses(self, batch, reduction="mean", key=0):
            return {}

        def predict(self, batch):
            return []

    assert learning_norms(segmentor(Net())) == {"stem.1", "head.1"}
    assert learning_norms(segmentor(Net(), freeze=["stem.*"])) == {"head.1"}


def test_stages_that_are_not_trained_keep_their_statistics():
    module = segmentor(mask_rcnn(trainable_stages=1))
    body = {name for name in learning_norms(module) if name.startswith("backbone.body.")}
    with_gradient = {
        name.rpartition(".")[0] for name in trained(module) if name.startswith("backbone.body.")
    }
    assert body
    assert body <= with_gradient
    everything = segmentor(mask_rcnn())
    assert len(learning_norms(everything)) > len(learning_norms(module))


def test_running_statistics_stay_after_a_forward_pass():
    module = segmentor(mask_rcnn(), freeze=["backbone.*"])
    module.model.backbone(torch.rand(2, 3, 64, 64))
    for name, value in module.model.backbone.named_buffers():
        if name.endswith("running_mean"):
            assert not value.any(), name


def test_the_first_stage_of_a_student_is_not_frozen():
    model = MHIM(3, 2, "binary", learner=abmil, masks=MaskRatios(random=0.5))
    module = MHIMModule(model, adamw, freeze=["student.embed.*"])
    assert not any(name.startswith("student.embed.") for name in trained(module))
    section = {
        "class_path": "lightning_modules.mhim.MHIMModule",
        "init_args": {
            "model": {"init_args": {"learner": "models.mil.abmil.ABMIL"}},
            "freeze": ["student.embed.*"],
        },
    }
    assert "freeze" not in MHIMModule.first_stage(section)["init_args"]


def test_a_second_stage_unfreezes_nothing():
    model = SCMIL(3, 2, "binary", learner=abmil, view_instances=2)
    head = model.parts.head
    pattern = f"learner.{head[0]}"
    module = SCMILModule(model, adamw, two_stage=True, freeze=[pattern])
    assert trained(module) == {f"learner.{name}" for name in head[1:]}
