"""The closed form equals leaving each instance out, in every model that has it."""

import pytest
import torch

from models.mil.abmil import ABMIL
from models.mil.acmil import ACMIL
from models.mil.additive import AdditiveMIL
from models.mil.aem import AEM
from models.mil.clam import CLAM
from models.mil.mhim.masking import MaskRatios
from models.mil.mhim.mhim import MHIM
from models.mil.pooling import InstancePooling
from models.mil.protocol import leave_one_out_of
from models.mil.transmil import TransMIL
from structures import BagBatch

SIZES = (7, 1, 2, 40)


def abmil(*facts):
    return ABMIL(*facts, hidden_sizes=(8,), attention_dim=4)


MODELS = {
    "abmil": abmil,
    "abmil, 3 branches": lambda *f: ABMIL(*f, hidden_sizes=(8,), attention_dim=4, branches=3),
    "abmil, gated": lambda *f: ABMIL(*f, hidden_sizes=(8,), gated=True, dropout=0.5),
    "acmil": lambda *f: ACMIL(*f, hidden_size=8, attention_dim=4, branches=3),
    "clam": lambda *f: CLAM(*f, hidden_sizes=(8,), attention_dim=4),
    "clam, multi": lambda *f: CLAM(*f, hidden_sizes=(8,), attention_dim=4, multi_branch=True),
    "additive": lambda *f: AdditiveMIL(*f, hidden_sizes=(8,), attention_dim=4),
    "aem": lambda *f: AEM(*f, learner=abmil),
    "mhim": lambda *f: MHIM(*f, learner=abmil, masks=MaskRatios(0.5, 0.0, 0.0)),
}


def bags(scale=1.0):
    random = torch.Generator().manual_seed(0)
    features = scale * torch.randn(sum(SIZES), 5, generator=random, dtype=torch.float64)
    count = torch.arange(len(SIZES))
    offsets = torch.tensor([0, *SIZES]).cumsum(0)
    return BagBatch(features, offsets, count % 2, count)


def left_out(model, batch):
    """Return (N, C) by running the model without each instance; 0 for the only one of a bag."""
    rows = []
    for bag in batch.bags():
        whole = model(bag).logits[0]
        for row in range(len(bag.features)):
            kept = torch.arange(len(bag.features)) != row
            alone = len(kept) == 1
            rows.append(whole * 0 if alone else whole - model(bag.keep(kept)).logits[0])
    return torch.stack(rows)


@pytest.mark.parametrize("task", ["binary", "multiclass"])
@pytest.mark.parametrize("name", list(MODELS))
@torch.no_grad()
def test_the_closed_form_is_the_loss_of_the_logit(name, task):
    torch.manual_seed(1)
    model = MODELS[name](5, 2 if task == "binary" else 3, task).double().eval()
    batch = bags()
    torch.testing.assert_close(
        leave_one_out_of(model)(batch), left_out(model, batch), rtol=0, atol=1e-12
    )


@torch.no_grad()
def test_an_instance_with_almost_all_attention_is_exact_in_single_precision():
    torch.manual_seed(1)
    model = abmil(5, 2, "binary").double().eval()
    model.attention_score.weight *= 100  # its largest weight is 1 up to 1e-12
    batch = bags(scale=3)
    truth = left_out(model, batch)
    single = BagBatch(batch.features.float(), batch.offsets, batch.labels, batch.index)
    assert float(model(batch).attention.max()) > 1 - 1e-6
    torch.testing.assert_close(
        model.float().leave_one_out(single).double(), truth, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    "model",
    [
        InstancePooling(5, 2, "binary", pool="max"),
        TransMIL(5, 2, "binary", width=16),
        AdditiveMIL(5, 2, "binary", classifier_sizes=(4,)),
        AEM(5, 2, "binary", learner=lambda *f: TransMIL(*f, width=16)),
    ],
)
def test_models_without_a_closed_form_have_none(model):
    assert leave_one_out_of(model) is None
