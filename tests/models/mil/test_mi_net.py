"""The four networks of Wang et al. by hand, their start, and what their L2 penalty is here."""

import math
from pathlib import Path

import pytest
import torch
import yaml

from lightning_modules.parameter_groups import parameter_groups
from models.mil.mi_net import InstanceMINet, MINet, MINetDS, MINetRC
from structures import BagBatch

ROOT = Path(__file__).resolve().parents[3]
CLOSE = {"rtol": 0, "atol": 1e-6}
ALL = (InstanceMINet, MINet, MINetDS, MINetRC)


def bag_batch(features, sizes, labels=None):
    return BagBatch(
        features=features,
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else labels,
        index=torch.arange(len(sizes)),
    )


def filled(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.fill_(bias)


def test_instance_and_embedding_level_by_hand():
    # h = relu(x): (1, 0), (0, 3); w = (2, -1), b = 0.5
    # mi-Net: max(2.5, -2.5); MI-Net: the maxima are (1, 3), 2 - 3 + 0.5
    bags = bag_batch(torch.tensor([[1.0, -2.0], [-1.0, 3.0]]), [2])
    for kind, logit in ((InstanceMINet, 2.5), (MINet, -0.5)):
        model = kind(2, 2, "binary", hidden_sizes=(2,)).eval()
        filled(model.embed[0], [[1.0, 0.0], [0.0, 1.0]], 0.0)
        filled(model.classifier, [[2.0, -1.0]], 0.5)
        assert model(bags).logits.item() == logit


def deep_by_hand():
    """h_1 = relu(x), h_2 = relu(2 h_1 - 1), h_3 = relu(3 - h_2); logits 1, 2, 3 times + 0.5."""
    model = MINetDS(1, 2, "binary", hidden_sizes=(1, 1, 1)).eval()
    for layer, (weight, bias) in zip(model.layers, [(1, 0), (2, -1), (-1, 3)], strict=True):
        filled(layer, [[float(weight)]], bias)
    for factor, classifier in zip((1.0, 2.0, 3.0), model.classifiers, strict=True):
        filled(classifier, [[factor]], 0.5)
    return model


def test_deep_supervision_by_hand():
    # instances 1, 2: h_1 = 1, 2; h_2 = 1, 3; h_3 = 2, 0; maxima 2, 3, 2
    # instance -1:    h_1 = 0;    h_2 = 0;    h_3 = 3
    bags = bag_batch(torch.tensor([[1.0], [2.0], [-1.0]]), [2, 1])
    model = deep_by_hand()
    output = model(bags)
    logits = torch.tensor([[2.5, 6.5, 6.5], [0.5, 0.5, 9.5]])
    torch.testing.assert_close(output.layer_logits[..., 0], logits, **CLOSE)
    torch.testing.assert_close(
        output.embeddings, torch.tensor([[2.0, 3.0, 2.0], [0.0, 0.0, 3.0]]), **CLOSE
    )
    mean = logits.sigmoid().mean(1)
    torch.testing.assert_close(output.probabilities("binary"), mean, **CLOSE)
    # labels 0 and 1: log(1 + exp(l)) and log(1 + exp(-l)), averaged over layers
    expected = torch.stack([(1 + logits[0].exp()).log(), (1 + (-logits[1]).exp()).log()]).mean(1)
    each = model.losses(output, bags, "none")["bag"]
    torch.testing.assert_close(each, expected, **CLOSE)
    torch.testing.assert_close(model.losses(output, bags)["bag"], expected.mean(), **CLOSE)


def test_deep_supervision_tells_what_output_it_needs():
    bags = bag_batch(torch.randn(3, 2), [2, 1])
    with pytest.raises(TypeError, match="LayersOutput"):
        MINetDS(2, 2, "binary").losses(MINet(2, 2, "binary")(bags), bags)


def test_residual_connections_by_hand():
    # layers of width 2: h_1 = relu(x), h_2 = relu(2 h_1 - 1), h_3 = relu(3 - h_2) entry by entry
    # (1, -1): h_1 = 1, 0; h_2 = 1, 0; h_3 = 2, 3
    # (2, 3):  h_1 = 2, 3; h_2 = 3, 5; h_3 = 0, 0
    # maxima (2, 3), (3, 5), (2, 3) add up to (7, 11); those of the first alone to (4, 3)
    model = MINetRC(2, 2, "binary", width=2).eval()
    for layer, (weight, bias) in zip(model.layers, [(1, 0), (2, -1), (-1, 3)], strict=True):
        filled(layer, (weight * torch.eye(2)).tolist(), bias)
    filled(model.classifier, [[1.0, -0.5]], 0.25)
    features = torch.tensor([[1.0, -1.0], [2.0, 3.0], [1.0, -1.0]])
    bags = bag_batch(features, [2, 1], torch.tensor([1, 0]))
    output = model(bags)
    assert output.embeddings.tolist() == [[7.0, 11.0], [4.0, 3.0]]
    assert output.logits.tolist() == [[7 - 5.5 + 0.25], [4 - 1.5 + 0.25]]
    losses = model.losses(output, bags, "none")["bag"].tolist()
    expected = [math.log1p(math.exp(-1.75)), math.log1p(math.exp(2.75))]
    assert losses == pytest.approx(expected, abs=1e-6)
    assert model.losses(output, bags)["bag"].item() == pytest.approx(sum(expected) / 2, abs=1e-6)


@pytest.mark.parametrize("kind", ALL)
def test_other_pools_take_the_place_of_max(kind):
    torch.manual_seed(0)
    features = torch.randn(6, 3, dtype=torch.float64)
    bags = bag_batch(features, [6])
    for pool, reference in (
        ("mean", lambda v: v.mean(0)),
        ("lse", lambda v: (2 * v).exp().mean(0).log() / 2),
    ):
        sharpness = 2.0 if pool == "lse" else None
        model = kind(3, 2, "binary", pool=pool, sharpness=sharpness).double().eval()
        values = model.embed_bags(bags).features
        if kind is InstanceMINet:
            expected = reference(model.classifier(values))
        elif kind is MINetDS:
            parts = reference(values).split([256, 128, 64])
            logits = torch.stack([c(p) for c, p in zip(model.classifiers, parts, strict=True)])
            expected = logits.sigmoid().mean(0).logit()
        elif kind is MINetRC:
            expected = model.classifier(sum(reference(values).split(128)))
        else:
            expected = model.classifier(reference(values))
        torch.testing.assert_close(model(bags).logits[0], expected, rtol=0, atol=1e-10)


def test_multiclass_and_multilabel_losses_are_means_over_the_layers():
    torch.manual_seed(0)
    for task, labels in (
        ("multiclass", torch.tensor([2, 0])),
        ("multilabel", torch.tensor([[1, 0, 1], [0, 0, 1]])),
    ):
        bags = bag_batch(torch.randn(5, 4), [3, 2], labels)
        model = MINetDS(4, 3, task).eval()
        output = model(bags)
        logits = output.layer_logits
        if task == "multiclass":
            wanted = -logits.softmax(2)[[0, 1], :, labels].log().mean(1)
            mean = logits.softmax(2).mean(1)
        else:
            chances = logits.sigmoid()
            right = torch.where(labels.unsqueeze(1) == 1, chances, 1 - chances)
            wanted = -right.log().mean((1, 2))
            mean = chances.mean(1)
        torch.testing.assert_close(model.losses(output, bags, "none")["bag"], wanted, **CLOSE)
        torch.testing.assert_close(output.probabilities(task), mean, **CLOSE)


@pytest.mark.parametrize("kind", ALL)
def test_weights_start_uniformly_within_bounds_of_the_fans(kind):
    torch.manual_seed(0)
    model = kind(100, 2, "binary")
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    for layer in linear:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        largest = layer.weight.abs().max().item()
        assert largest <= bound
        if layer.weight.numel() > 1000:
            assert largest > 0.99 * bound
        assert not layer.bias.any()
    hidden = [m.out_features for m in linear if m.out_features > 1]
    assert hidden == ([128, 128, 128] if kind is MINetRC else [256, 128, 64])


@pytest.mark.parametrize("kind", ALL)
def test_what_is_pooled_is_dropped_out_and_what_goes_on_is_not(kind):
    torch.manual_seed(0)
    model = kind(6, 2, "binary").double()
    bags = bag_batch(torch.randn(30, 6, dtype=torch.float64), [30])
    whole = model.eval().embed_bags(bags).features
    seen = model.train().embed_bags(bags).features
    dropped = (seen == 0) & (whole > 0)
    assert dropped[whole > 0].double().mean().item() == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(seen[~dropped], 2 * whole[~dropped], rtol=0, atol=1e-12)


def test_an_l2_penalty_is_half_the_weight_decay():
    """The authors add 0.005 |W|^2 to the loss, the recipes decay weights and no biases (A91)."""
    settings = yaml.safe_load((ROOT / "configs/mil/mi_net.yaml").read_text())["model"]
    decay = settings["init_args"]["optimizer"]["init_args"]["weight_decay"]
    bags = bag_batch(torch.randn(5, 4, dtype=torch.float64), [3, 2])
    torch.manual_seed(0)
    models = [MINet(4, 2, "binary", hidden_sizes=(3,)).double().eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    for model, penalty in zip(models, (0.0, 0.005), strict=True):
        groups = [{k: v for k, v in g.items() if k != "name"} for g in parameter_groups(model)]
        weights = [p for p in model.parameters() if p.ndim == 2]
        loss = model.losses(model(bags), bags)["bag"]
        (loss + penalty * sum(w.square().sum() for w in weights)).backward()
        if penalty:
            groups = [{"params": list(model.parameters())}]
        torch.optim.SGD(groups, lr=0.1, weight_decay=0.0 if penalty else decay).step()
    for ours, theirs in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match="num_layers"):
        MINetRC(4, 2, "binary", num_layers=0)
    with pytest.raises(ValueError, match="num_layers"):
        MINetDS(4, 2, "binary", hidden_sizes=())
    for kind in (MINetRC, MINetDS):
        with pytest.raises(ValueError, match="widths"):
            kind(0, 2, "binary")
