import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from models.mil.dsmil import DSMIL
from models.mil.protocol import MILModel, TwoPartModel, UsesTrainingBags
from structures import BagBatch, MILOutput

CLOSE = {"rtol": 0, "atol": 1e-6}
EXACT = {"rtol": 0, "atol": 1e-12}  # float64


def bag_batch(sizes, width=5, labels=None, dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=random, dtype=torch.float64).to(dtype),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else torch.tensor(labels),
        index=torch.arange(len(sizes)),
    )


def model_for(classes=2, task="binary", seed=1, **options):
    torch.manual_seed(seed)
    return DSMIL(5, classes, task, **{"attention_dim": 4, "orthogonal_init": False} | options)


def test_three_instances_by_hand():
    # E = 1, instances 0, 1, 2. Scores h + 0.5: the last is critical, with 2.5. Queries are four
    # times sqrt(log 2) / 2 h: products with the critical one 4 (log 2 / 4) h 2 = 2 h log 2, over
    # sqrt(4) leaves h log 2: weights 1, 2, 4 of 7, pooled 10 / 7, logit 3 (10 / 7) - 1 = 23 / 7.
    model = DSMIL(1, 2, "binary", attention_dim=4, query="linear")
    with torch.no_grad():
        for layer, weight, bias in (
            (model.instance_classifier, 1.0, 0.5),
            (model.query[0], math.sqrt(math.log(2)) / 2, 0.0),
            (model.classifier, 3.0, -1.0),
        ):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    bags = BagBatch(
        torch.tensor([[0.0], [1.0], [2.0]]),
        torch.tensor([0, 3]),
        torch.tensor([1]),
        torch.tensor([0]),
    )
    output = model(bags)
    attention = torch.tensor([1 / 7, 2 / 7, 4 / 7])
    torch.testing.assert_close(output.attention, attention, **CLOSE)
    torch.testing.assert_close(
        output.attention_logits, math.log(2) * torch.tensor([0.0, 1.0, 2.0]), **CLOSE
    )
    torch.testing.assert_close(output.instance_logits, torch.tensor([[0.5], [1.5], [2.5]]), **CLOSE)
    torch.testing.assert_close(output.embeddings, torch.tensor([[10 / 7]]), **CLOSE)
    torch.testing.assert_close(output.logits, torch.tensor([[23 / 7]]), **CLOSE)
    assert output.critical.tolist() == [[2]]
    terms = model.losses(output, bags)
    assert terms["bag"].item() == pytest.approx(math.log(1 + math.exp(-23 / 7)), abs=1e-6)
    assert terms["instance"].item() == pytest.approx(math.log(1 + math.exp(-2.5)), abs=1e-6)
    negative = model.losses(output, dataclasses.replace(bags, labels=torch.tensor([0])))
    assert negative["bag"].item() == pytest.approx(math.log(1 + math.exp(23 / 7)), abs=1e-6)
    assert negative["instance"].item() == pytest.approx(math.log(1 + math.exp(2.5)), abs=1e-6)


def query_by_hand(model, instance):
    layers = model.query
    hidden = layers[0].weight @ instance + layers[0].bias
    if len(layers) == 1:
        return hidden
    return torch.tanh(layers[2].weight @ hidden.clamp(min=0) + layers[2].bias)


def value_by_hand(model, instance):
    if model.value_layer is None:
        return instance
    moved = model.value_layer.weight @ instance + model.value_layer.bias
    return moved.clamp(min=0) if model.value == "nonlinear" else moved


def one_bag_by_hand(model, instances, first_row):
    """One instance and one class at a time, as the equations say; values of every instance."""
    weight, bias = model.instance_classifier.weight, model.instance_classifier.bias
    pooled, attentions, critical, best = [], [], [], []
    for c in range(weight.shape[0]):
        scores = [(weight[c] @ h + bias[c]).item() for h in instances]
        m = scores.index(max(scores))
        key = query_by_hand(model, instances[m])
        products = [query_by_hand(model, h) @ key / math.sqrt(4) for h in instances]
        attention = torch.stack(products).exp() / torch.stack(products).exp().sum()
        values = [a * value_by_hand(model, h) for a, h in zip(attention, instances, strict=True)]
        pooled.append(sum(values))
        attentions.append(attention)
        critical.append(first_row + m)
        best.append(weight[c] @ instances[m] + bias[c])
    side_by_side = torch.cat(pooled)
    logits = [
        model.classifier.weight[c] @ side_by_side + model.classifier.bias[c]
        for c in range(weight.shape[0])
    ]
    return [torch.stack(t) for t in (logits, attentions, pooled, best)], critical


@pytest.mark.parametrize(("classes", "task"), [(2, "binary"), (3, "multiclass")])
@pytest.mark.parametrize("query", ["linear", "nonlinear"])
@pytest.mark.parametrize("value", ["identity", "linear", "nonlinear"])
def test_a_batch_equals_the_equations_one_instance_at_a_time(classes, task, query, value):
    """Also: the critical instance is the argmax of each class, C = 1 and C = 3."""
    model = model_for(classes, task, query=query, value=value).double()
    bags = bag_batch([3, 1, 7, 2], dtype=torch.float64)
    output = model(bags)
    (output.logits.square().sum() + output.critical_logits.square().sum()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    expected = 0
    for b, bag in enumerate(bags.bags()):
        first, last = bags.offsets[b : b + 2].tolist()
        tensors, critical = one_bag_by_hand(model, list(bag.features), first)
        logits, attention, pooled, best = tensors
        count = attention.shape[0]
        torch.testing.assert_close(output.logits[b], logits, **EXACT)
        found = output.attention[first:last].view(-1, count)
        torch.testing.assert_close(found, attention.T, **EXACT)
        torch.testing.assert_close(output.embeddings[b].view(count, -1), pooled, **EXACT)
        torch.testing.assert_close(output.critical_logits[b], best, **EXACT)
        assert output.critical[b].tolist() == critical
        expected = expected + logits.square().sum() + best.square().sum()
    expected.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, **EXACT)


@pytest.mark.parametrize("nonlinear_query", [False, True])
@pytest.mark.parametrize("nonlinear_value", [False, True])
def test_torchmil_with_the_same_weights(nonlinear_query, nonlinear_value):
    reference_model = pytest.importorskip("torchmil.models", reason="the dev extra has torchmil")
    torch.manual_seed(0)
    theirs = reference_model.DSMIL(
        in_shape=(5,), att_dim=4, nonlinear_q=nonlinear_query, nonlinear_v=nonlinear_value
    )
    ours = model_for(
        query="nonlinear" if nonlinear_query else "linear",
        value="nonlinear" if nonlinear_value else "identity",
        seed=2,
    )
    pairs = {"inst_classifier.": "instance_classifier.", "bag_classifier.": "classifier."}
    pairs |= {"q_nn.": "query." if nonlinear_query else "query.0.", "v_nn.1.": "value_layer."}
    state = {"positive_weight": torch.ones(1)}
    for name, tensor in theirs.state_dict().items():
        prefix = next(p for p in pairs if name.startswith(p))
        state[pairs[prefix] + name.removeprefix(prefix)] = tensor
    ours.load_state_dict(state)
    for size, label in ((1, 0), (7, 1), (40, 0)):
        bag = bag_batch([size], labels=[label])
        output = ours(bag)
        logit, attention, scores = theirs(bag.features[None], None, True, True)
        torch.testing.assert_close(output.logits[:, 0], logit, **CLOSE)
        torch.testing.assert_close(output.attention, attention[0, :, 0], **CLOSE)
        torch.testing.assert_close(output.instance_logits[:, 0], scores[0], **CLOSE)
        terms = ours.losses(output, bag)
        _, expected = theirs.compute_loss(bag.labels.float(), bag.features[None])
        torch.testing.assert_close(terms["bag"], expected["BCEWithLogitsLoss"], **CLOSE)
        torch.testing.assert_close(terms["instance"], expected["BCEWithLogitsLoss_max"], **CLOSE)


def test_terms_of_each_task():
    bags = bag_batch([2, 3, 1], labels=[[1, 0, 1], [0, 0, 1], [1, 1, 1]])
    model = model_for(3, "multilabel")
    output = model(bags)
    targets = bags.labels.float()
    for term, logits in (("bag", output.logits), ("instance", output.critical_logits)):
        each = F.binary_cross_entropy(logits.sigmoid(), targets, reduction="none").mean(1)
        torch.testing.assert_close(model.losses(output, bags, "none")[term], each, **CLOSE)
        torch.testing.assert_close(model.losses(output, bags)[term], each.mean(), **CLOSE)
    bags = bag_batch([2, 3], labels=[2, 0])
    model = model_for(3, "multiclass")
    output = model(bags)
    for term, logits in (("bag", output.logits), ("instance", output.critical_logits)):
        each = -logits.softmax(1)[[0, 1], [2, 0]].log()
        torch.testing.assert_close(model.losses(output, bags, "none")[term], each, **CLOSE)


@pytest.mark.parametrize(("classes", "task"), [(2, "binary"), (3, "multiclass"), (3, "multilabel")])
def test_the_mean_of_both_streams(classes, task):
    """A94: probabilities are averaged, and the losses stay those of the streams."""
    plain, averaging = (model_for(classes, task, average=a) for a in (False, True))
    labels = [[1, 0, 1], [0, 1, 0]] if task == "multilabel" else [1, 0]
    bags = bag_batch([4, 3], labels=labels)
    one, both = plain(bags), averaging(bags)
    torch.testing.assert_close(both.bag_logits, one.logits, **CLOSE)
    streams = [MILOutput(logits) for logits in (one.logits, one.critical_logits)]
    expected = sum(s.probabilities(task) for s in streams) / 2
    torch.testing.assert_close(both.probabilities(task), expected, **CLOSE)
    first, second = plain.losses(one, bags), averaging.losses(both, bags)
    for term in ("bag", "instance"):
        torch.testing.assert_close(first[term], second[term], **CLOSE)


def test_no_class_is_special_by_its_number():
    """Weights and labels renumbered alike: logits move along, losses stay."""
    model, renumbered = model_for(3, "multiclass"), model_for(3, "multiclass", seed=5)
    order = torch.tensor([2, 0, 1])  # new class i is old class order[i]
    state = model.state_dict()
    for name in ("instance_classifier.weight", "instance_classifier.bias", "classifier.bias"):
        state[name] = state[name][order]
    state["classifier.weight"] = (
        state["classifier.weight"].view(3, 3, 5)[order][:, order].flatten(1)
    )
    renumbered.load_state_dict(state)
    bags = bag_batch([4, 3, 2], labels=[0, 1, 2])
    moved = dataclasses.replace(bags, labels=order.argsort()[bags.labels])
    output, other = model(bags), renumbered(moved)
    torch.testing.assert_close(other.logits, output.logits[:, order], **CLOSE)
    torch.testing.assert_close(other.attention, output.attention[:, order], **CLOSE)
    for term, loss in model.losses(output, bags).items():
        torch.testing.assert_close(renumbered.losses(other, moved)[term], loss, **CLOSE)


def test_a_bag_of_one_instance():
    for classes, task in ((2, "binary"), (3, "multiclass")):
        model, bag = model_for(classes, task), bag_batch([1])
        output = model(bag)
        logits = model.classifier(bag.features.repeat(1, model.classifier.out_features))
        torch.testing.assert_close(output.logits, logits, **CLOSE)
        assert (output.attention == 1).all()
        assert output.critical.tolist() == [[0] * logits.shape[1]]
        assert output.attention.shape == ((1,) if task == "binary" else (1, 3))
        assert output.embeddings.shape == ((1, 5) if task == "binary" else (1, 3, 5))


def test_orthogonal_start_with_zero_biases():
    model = model_for(3, "multiclass", orthogonal_init=True, hidden_sizes=[6], value="linear")
    for layer in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
        weight = layer.weight if layer.out_features <= layer.in_features else layer.weight.T
        product = weight @ weight.T
        torch.testing.assert_close(product, torch.eye(weight.shape[0]), rtol=0, atol=1e-5)
        assert not layer.bias.any()
    assert any(p.any() for n, p in model_for().named_parameters() if n.endswith("bias"))


def test_positive_bags_weigh_by_the_training_bags():
    # 6 negative and 2 positive training bags: a positive bag's losses count three times
    model, plain = model_for(balance=True), model_for()
    assert isinstance(model, UsesTrainingBags)
    numbers = torch.arange(8)
    for learner in (model, plain):
        learner.set_training_bags(numbers, torch.tensor([0, 1, 0, 0, 1, 0, 0, 0]), numbers)
    bags = bag_batch([2, 3, 4], labels=[1, 0, 1])
    found = model.losses(model(bags), bags, "none")
    expected = plain.losses(plain(bags), bags, "none")
    for term in ("bag", "instance"):
        factor = torch.tensor([3.0, 1.0, 3.0])
        torch.testing.assert_close(found[term], expected[term] * factor, **CLOSE)
        torch.testing.assert_close(model.losses(model(bags), bags)[term], found[term].mean())
    # the weight is in the checkpoint; sets of one class leave it finite and positive
    assert model.state_dict()["positive_weight"].tolist() == [3]
    model.set_training_bags(numbers, torch.zeros(8), numbers)
    assert model.positive_weight.item() == 8
    model.set_training_bags(numbers, torch.ones(8), numbers)
    assert model.positive_weight.item() == 1 / 8


def test_positive_bags_weigh_by_the_training_bags_of_each_label():
    model, plain = (model_for(2, "multilabel", balance=b) for b in (True, False))
    # the first label is on one of four training bags, the second on three
    labels = torch.tensor([[1, 1], [0, 1], [0, 1], [0, 0]])
    model.set_training_bags(torch.arange(4), labels, torch.ones(4))
    torch.testing.assert_close(model.positive_weight, torch.tensor([3.0, 1 / 3]), **CLOSE)
    bags = bag_batch([2, 3, 4], labels=[[1, 0], [0, 1], [1, 1]])
    output = model(bags)
    each = F.binary_cross_entropy(output.logits.sigmoid(), bags.labels.float(), reduction="none")
    factors = torch.tensor([[3.0, 1.0], [1.0, 1 / 3], [3.0, 1 / 3]])
    expected = (each * factors).mean(dim=1)
    torch.testing.assert_close(model.losses(output, bags, "none")["bag"], expected, **CLOSE)
    assert not torch.equal(plain.losses(plain(bags), bags, "none")["bag"], expected)


def test_dropout_of_the_embedding_and_of_the_values():
    features = torch.rand(50, 5) + 1
    bags = dataclasses.replace(bag_batch([50]), features=features)
    embedded = model_for(dropout=0.5).train().embed_bags(bags).features
    assert {round(v, 4) for v in (embedded / features).flatten().tolist()} == {0.0, 2.0}
    # v drops entries and q and the instance stream do not: with uniform attention (queries of 0)
    # the pooled vector is the mean of values of which a fifth is missing and the rest is 1.25 times
    model = model_for(value_dropout=0.2, query="linear").train()
    with torch.no_grad():
        model.query[0].weight.zero_()
        model.query[0].bias.zero_()
    ones = dataclasses.replace(bags, features=torch.ones(50, 5))
    output = model(ones)
    kept = output.embeddings * 50 / 1.25
    torch.testing.assert_close(kept, kept.round(), rtol=0, atol=1e-4)
    assert kept.unique().numel() > 1 and 30 <= kept.min() <= kept.max() <= 49
    torch.testing.assert_close(output.instance_logits, model.eval()(ones).instance_logits)


def test_hidden_layers_embed_ahead_of_both_streams():
    model, bags = model_for(hidden_sizes=[6, 3]), bag_batch([4, 2])
    assert isinstance(model, TwoPartModel) and isinstance(model, MILModel)
    hidden = bags.features
    for layer in (model.embed[0], model.embed[2]):
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(model.embed_bags(bags).features, hidden, **CLOSE)
    scores = hidden @ model.instance_classifier.weight.T + model.instance_classifier.bias
    torch.testing.assert_close(model(bags).instance_logits, scores, **CLOSE)


def test_every_parameter_learns_and_losses_do_not_depend_on_the_mode():
    model, bags = model_for(3, "multiclass", value="linear"), bag_batch([1, 2, 5])
    terms = model.losses(model.train()(bags), bags)
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert model.losses(model.eval()(bags), bags) == terms


def test_half_precision_keeps_attention_in_single_precision():
    model, bags = model_for(), bag_batch([300, 20])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(bags)
    assert output.attention.dtype == output.attention_logits.dtype == torch.float32
    sums = torch.stack([output.attention[:300].sum(), output.attention[300:].sum()])
    torch.testing.assert_close(sums, torch.ones(2), **CLOSE)
    torch.testing.assert_close(output.logits.float(), model(bags).logits, rtol=0, atol=2e-2)


def test_what_is_refused():
    with pytest.raises(TypeError, match="DSMILOutput"):
        model_for().losses(MILOutput(torch.zeros(2, 1)), bag_batch([1, 1]))
    with pytest.raises(ValueError, match="balance"):
        model_for(3, "multiclass", balance=True)
    with pytest.raises(ValueError, match="attention_dim must be positive"):
        model_for(attention_dim=0)
    with pytest.raises(ValueError, match="hidden_sizes must be positive"):
        model_for(hidden_sizes=[4, 0])
    for wrong in ({"query": "tanh"}, {"value": "relu"}):
        with pytest.raises(ValueError, match="is one of"):
            model_for(**wrong)
    with pytest.raises(ValueError, match="2 classes"):
        model_for(3, "binary")
