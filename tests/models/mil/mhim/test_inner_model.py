"""What MHIM asks of the model inside it, and the hooks of that model that it keeps."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from models.mil.abmil import ABMIL
from models.mil.dsmil import DSMIL
from models.mil.mhim import MHIM, GlobalRecycle
from models.mil.mhim.masking import MaskRatios
from structures import BagBatch, MILOutput

MASKS = MaskRatios(random=0.5, low=0.1, high=0.1, high_drop_share=0.5)
INNER = functools.partial(ABMIL, hidden_sizes=(6,), attention_dim=4)


class Bare(nn.Module):
    def __init__(self, *_):
        super().__init__()
        self.task = "binary"

    def forward(self, bags):
        return MILOutput(torch.zeros(len(bags), 1))

    def losses(self, output, bags, reduction="mean"):
        return {"bag": output.logits.sum()}


class WithoutAttention(Bare):
    embed = nn.Identity()

    def embed_bags(self, bags):
        return bags

    def pool(self, bags):
        return dataclasses.replace(self(bags), embeddings=torch.zeros(len(bags), 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learner": Bare}, "embed_bags and pool"),
        ({"learner": DSMIL, "scores": "class_aware"}, "class_scores"),
        ({"momentum": 1.1}, "momentum"),
        ({"teacher_temperature": 0.0}, "temperatures"),
        ({"recycle_keep_ratio": 0.5}, "recycle needs"),
        ({"recycle": GlobalRecycle(6, 1), "recycle_keep_ratio": 1.0}, "recycle needs"),
        ({"recycle": GlobalRecycle(6, 1), "recycle_keep_ratio": 0.0}, "recycle needs"),
    ],
)
def test_what_cannot_work_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MHIM(5, 2, "binary", **({"learner": INNER, "masks": MASKS} | options))


def test_a_model_without_the_scores_asked_for_is_refused():
    model = MHIM(5, 2, "binary", learner=WithoutAttention, masks=MASKS, student_init="none")
    bag = BagBatch(
        features=torch.randn(3, 5),
        offsets=torch.tensor([0, 3]),
        labels=torch.tensor([0]),
        index=torch.tensor([3]),
    )
    with pytest.raises(ValueError, match="WithoutAttention gives no attention"):
        model.training_losses(bag, 0.0)


class Schedule(ABMIL):
    """A model with a schedule and a memory of the training bags."""

    def __init__(self, *args):
        super().__init__(*args, hidden_sizes=(6,), attention_dim=4)
        self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))

    def loss_factors(self, progress):
        return {"bag": 1 - progress}

    def set_training_bags(self, numbers, labels, sizes):
        self.seen.copy_(torch.stack([labels.sum(), sizes.sum()]))


def test_the_models_own_hooks_are_kept():
    model = MHIM(5, 2, "binary", learner=Schedule, masks=MASKS)
    assert model.loss_factors(0.25) == {"bag": 0.75}
    assert MHIM(5, 2, "binary", learner=INNER, masks=MASKS).loss_factors(0.25) == {}
    model.set_training_bags(torch.arange(3), torch.tensor([0, 1, 1]), torch.tensor([2, 3, 4]))
    assert model.student.seen.tolist() == model.teacher.seen.tolist() == [2, 9]
