"""MHIM around DSMIL, against its authors' formulas written out for one bag.

`modules/mhim.py` and `modules/datten.py` of the first version; names and shapes are those of the
teacher that they published for CAMELYON16 (`c16_3fold_init_dsmil_seed2021/fold_0_model_best_auc`).
"""

import functools
import math
from pathlib import Path

import pytest
import torch
import yaml

from models.mil.dsmil import DSMIL
from models.mil.mhim import MHIM
from models.mil.mhim.masking import MaskRatios
from structures import BagBatch

RECIPE = Path(__file__).parents[4] / "configs/mil/mhim_dsmil.yaml"
SETTINGS = yaml.safe_load(RECIPE.read_text())["model"]["init_args"]
LEARNER = SETTINGS["model"]["init_args"]["learner"]["init_args"]
AUTHORS = {
    "patch_to_emb.0": ((512, 1024), "embed.0"),
    "online_encoder.i_classifier.0": ((2, 512), "instance_classifier"),
    "online_encoder.b_classifier.q.0": ((128, 512), "query.0"),
    "online_encoder.b_classifier.q.2": ((128, 128), "query.2"),
    "online_encoder.b_classifier.v.1": ((512, 512), "value_layer"),
    "online_encoder.b_classifier.fcc": ((2, 2, 512), "classifier"),
}  # and `predictor`, which their DSMIL never calls


def test_names_and_shapes_are_those_of_the_authors_teacher():
    state = DSMIL(1024, 2, "multiclass", **LEARNER).state_dict()
    layers = {name for _, name in AUTHORS.values()}
    assert set(state) == {f"{n}.{p}" for n in layers for p in ("weight", "bias")} | {
        "positive_weight"
    }
    for shape, name in AUTHORS.values():
        assert state[f"{name}.weight"].shape == (shape[0], math.prod(shape[1:])), name
        assert state[f"{name}.bias"].shape == shape[:1], name


def test_weights_begin_as_the_authors_do():
    torch.manual_seed(0)
    model = DSMIL(1024, 3, "multiclass", **LEARNER)
    for _, name in AUTHORS.values():
        layer = model.get_submodule(name)
        glorot, bound = math.sqrt(2 / sum(layer.weight.shape)), layer.weight.shape[1] ** -0.5
        if name == "classifier":  # a convolution in their code, with torch's own rule
            assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
            assert layer.bias.any()
        else:
            assert layer.weight.std().item() == pytest.approx(glorot, rel=0.05), name
            assert not layer.bias.any()
    with pytest.raises(ValueError, match="orthogonal_init: false"):
        DSMIL(4, 2, "binary", xavier_init=True)


def dense(layer, row):
    return layer.weight @ row + layer.bias


def streams(model, rows):
    """Both streams' logits, the pooled values of each class and all instance scores."""
    embedded = [dense(model.embed[0], x).relu() for x in rows]
    scores = torch.stack([dense(model.instance_classifier, h) for h in embedded])  # (N, C)

    def query(h):
        return dense(model.query[2], dense(model.query[0], h).relu()).tanh()

    values = [dense(model.value_layer, h).relu() for h in embedded]
    pooled = []
    for column in scores.T.tolist():
        critical = query(embedded[column.index(max(column))])
        products = torch.stack([query(h) @ critical / len(critical) ** 0.5 for h in embedded])
        weights = products.exp() / products.exp().sum()
        pooled.append(sum(a * v for a, v in zip(weights, values, strict=True)))
    bag = [
        sum(w @ z for w, z in zip(row.view(len(pooled), -1), pooled, strict=True)) + b
        for row, b in zip(model.classifier.weight, model.classifier.bias, strict=True)
    ]
    return torch.stack(bag), scores.amax(dim=0), torch.stack(pooled), scores


def cross_entropy(logits, label):
    return logits.exp().sum().log() - logits[label]


def step(model, rows, label):
    """Loss of a training step: teacher, masks, student, both streams and the contrast."""
    with torch.no_grad():
        _, _, target, scores = streams(model.teacher, rows)
    ranked = scores.amax(dim=1).argsort().tolist()
    low, high = math.ceil(0.3 * len(rows)), math.ceil(0.2 * len(rows))
    dropped = {*ranked[:low], *ranked[len(rows) - high :]}
    kept = [row for n, row in enumerate(rows) if n not in dropped]
    bag, instance, pooled, _ = streams(model.student, kept)
    contrast = [
        -((wanted / 0.1).softmax(0) * z.log_softmax(0)).sum()
        for z, wanted in zip(pooled, target, strict=True)
    ]
    main = 0.5 * cross_entropy(bag, label) + 0.5 * cross_entropy(instance, label)
    return main + 0.1 * sum(contrast) / len(contrast)


@pytest.fixture(params=[2, 3])
def model(request):
    torch.manual_seed(1)
    small = LEARNER | {"hidden_sizes": [6], "attention_dim": 4, "dropout": 0.0}
    masks = MaskRatios(low=0.3, high=0.2, decay=False)
    learner = functools.partial(DSMIL, **small)
    found = MHIM(
        5, request.param, "multiclass", learner=learner, masks=masks, scores="instance_logits"
    )
    for parameter in found.teacher.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return found.double()


def bag_batch(sizes):
    random = torch.Generator().manual_seed(0)
    return BagBatch(
        features=torch.randn(sum(sizes), 5, generator=random, dtype=torch.float64),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2,
        index=torch.arange(len(sizes)),
    )


def test_a_training_step_is_that_of_the_authors_written_out(model):
    bags = bag_batch([9, 12, 7])
    weights = SETTINGS["loss_weights"]
    found = sum(weights[n] * t for n, t in model.train().training_losses(bags, 0.4).items())
    single = [step(model, list(b.features), int(b.labels)) for b in bags.bags()]
    wanted = sum(single) / len(single)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    parameters = list(model.student.parameters())
    mine, theirs = (torch.autograd.grad(loss, parameters) for loss in (found, wanted))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_the_prediction_is_the_mean_of_both_streams_probabilities(model):
    bags = bag_batch([9, 1])
    output = model.eval()(bags)
    for bag, logits in zip(bags.bags(), output.logits, strict=True):
        own, best, _, _ = streams(model.student, list(bag.features))
        wanted = (own.softmax(0) + best.softmax(0)) / 2
        torch.testing.assert_close(logits.softmax(0), wanted, rtol=0, atol=1e-10)
