import dataclasses
import math

import pytest
import torch
from torch import nn

from models.mil.abmil import ABMIL
from models.mil.layers.lenet import LeNetEncoder
from models.mil.protocol import MILModel
from structures import BagBatch


def bag_batch(sizes, width=5, seed=0, labels=None):
    random = torch.Generator().manual_seed(seed)
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=random),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else labels,
        index=torch.arange(len(sizes)),
    )


def hand_made(gated):
    """E = L = 1: V = log 2 / 2, U = log 3, w = 5, classifier 2 z - 1; embedding is the feature."""
    model = ABMIL(1, 2, "binary", hidden_sizes=(), attention_dim=1, gated=gated)
    with torch.no_grad():
        model.attention_value.weight.fill_(math.log(2) / 2)
        model.attention_value.bias.zero_()
        if gated:
            model.attention_gate.weight.fill_(math.log(3))
            model.attention_gate.bias.zero_()
        model.attention_score.weight.fill_(5.0)
        model.classifier.weight.fill_(2.0)
        model.classifier.bias.fill_(-1.0)
    return model


@pytest.mark.parametrize("gated", [False, True])
def test_three_instances_by_hand(gated):
    # tanh(h log 2 / 2) = (2^h - 1) / (2^h + 1): h = 0, 1, 2 -> 0, 1/3, 3/5
    # sigmoid(h log 3) = 3^h / (3^h + 1): h = 0, 1, 2 -> 1/2, 3/4, 9/10
    scores = [0.0, 5 / 3 * 0.75, 3 * 0.9] if gated else [0.0, 5 / 3, 3.0]
    total = sum(math.exp(s) for s in scores)
    attention = [math.exp(s) / total for s in scores]
    pooled = attention[1] * 1 + attention[2] * 2
    features = torch.tensor([[0.0], [1.0], [2.0]])
    bags = BagBatch(features, torch.tensor([0, 3]), torch.tensor([1]), torch.tensor([0]))
    model = hand_made(gated)
    output = model(bags)
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(output.attention_logits, torch.tensor(scores), **close)
    torch.testing.assert_close(output.attention, torch.tensor(attention), **close)
    torch.testing.assert_close(output.embeddings, torch.tensor([[pooled]]), **close)
    torch.testing.assert_close(output.logits, torch.tensor([[2 * pooled - 1]]), **close)
    loss = model.losses(output, bags)["bag"].item()
    assert loss == pytest.approx(math.log(1 + math.exp(1 - 2 * pooled)), abs=1e-6)


def model_for(gated=False, branches=1, task="binary", classes=2):
    torch.manual_seed(1)
    return ABMIL(
        5, classes, task, hidden_sizes=(8, 6), attention_dim=4, gated=gated, branches=branches
    )


@pytest.mark.parametrize(("gated", "branches"), [(False, 1), (True, 1), (True, 3)])
def test_a_batch_gives_what_single_bags_give(gated, branches):
    model = model_for(gated, branches)
    bags = bag_batch([3, 1, 7, 2])
    output = model(bags)
    each = model.losses(output, bags, "none")["bag"]
    model.losses(output, bags)["bag"].backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    singles = [(bag, model(bag)) for bag in bags.bags()]
    losses = [model.losses(out, bag)["bag"] for bag, out in singles]
    (sum(losses) / 4).backward()
    close = {"rtol": 0, "atol": 1e-6}
    for field in ("logits", "attention", "attention_logits", "embeddings"):
        joined = torch.cat([getattr(out, field) for _, out in singles])
        torch.testing.assert_close(getattr(output, field), joined, **close)
    torch.testing.assert_close(each, torch.stack(losses), **close)
    for together, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(together, parameter.grad, **close)


def test_instance_order_moves_attention_along_and_nothing_else():
    model, bags = model_for(gated=True), bag_batch([6])
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    output = model(bags)
    moved = model(dataclasses.replace(bags, features=bags.features[order]))
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(moved.attention, output.attention[order], **close)
    torch.testing.assert_close(moved.logits, output.logits, **close)


def test_equal_scores_pool_to_the_mean():
    model, bags = model_for(), bag_batch([4, 2])
    with torch.no_grad():
        model.attention_score.weight.zero_()
    output = model(bags)
    expected = torch.tensor([0.25] * 4 + [0.5] * 2)
    torch.testing.assert_close(output.attention, expected, rtol=0, atol=1e-7)
    embedded = model.embed(bags.features)
    means = torch.stack([embedded[:4].mean(0), embedded[4:].mean(0)])
    torch.testing.assert_close(output.embeddings, means, rtol=0, atol=1e-6)


def test_an_instance_without_attention_changes_nothing():
    model = hand_made(gated=False)
    with torch.no_grad():
        model.attention_score.weight.fill_(200.0)  # score 200 tanh: -200 for the last instance
    offsets, one = torch.tensor([0, 2]), torch.tensor([1])
    bags = BagBatch(torch.tensor([[1.0], [1.5]]), offsets, one, one)
    more = BagBatch(torch.tensor([[1.0], [1.5], [-50.0]]), torch.tensor([0, 3]), one, one)
    output = model(more)
    assert output.attention[2].item() == 0
    torch.testing.assert_close(output.logits, model(bags).logits, rtol=0, atol=1e-6)


def test_branches_are_pooled_side_by_side():
    model, bags = model_for(branches=2), bag_batch([3, 4])
    output = model(bags)
    assert output.attention.shape == (7, 2)
    embedded = model.embed(bags.features)
    first = output.attention[:3].T @ embedded[:3]  # (K, E)
    torch.testing.assert_close(output.embeddings[0], first.flatten(), rtol=0, atol=1e-6)
    logits = nn.functional.linear(first.flatten(), model.classifier.weight, model.classifier.bias)
    torch.testing.assert_close(output.logits[0], logits, rtol=0, atol=1e-6)


def test_tasks_have_their_own_heads_and_losses():
    labels = torch.tensor([[1, 0, 1], [0, 0, 1]])
    bags = bag_batch([2, 3], labels=labels)
    model = model_for(task="multilabel", classes=3)
    output = model(bags)
    expected = nn.functional.binary_cross_entropy(output.logits.sigmoid(), labels.float())
    torch.testing.assert_close(model.losses(output, bags)["bag"], expected, rtol=0, atol=1e-6)
    bags = bag_batch([2, 3], labels=torch.tensor([2, 0]))
    model = model_for(task="multiclass", classes=3)
    output = model(bags)
    picked = output.logits.softmax(1)[[0, 1], [2, 0]]
    loss = model.losses(output, bags, "none")["bag"]
    torch.testing.assert_close(loss, -picked.log(), rtol=0, atol=1e-6)


def test_images_go_through_the_encoder():
    torch.manual_seed(0)
    encoder = LeNetEncoder(side=8, out_features=5)
    model = ABMIL(64, 2, "binary", hidden_sizes=(4,), attention_dim=3, encoder=encoder)
    images = torch.randn(4, 1, 8, 8)
    bags = BagBatch(images, torch.tensor([0, 4]), torch.tensor([0]), torch.tensor([0]))
    plain = ABMIL(5, 2, "binary", hidden_sizes=(4,), attention_dim=3)
    state = {n: v for n, v in model.state_dict().items() if not n.startswith("embed")}
    state |= {f"embed.1.{n}": v for n, v in model.embed[2].state_dict().items()}
    plain.load_state_dict(state)
    encoded = dataclasses.replace(bags, features=encoder(images))
    torch.testing.assert_close(model(bags).logits, plain(encoded).logits, rtol=0, atol=1e-6)


def test_every_parameter_gets_a_gradient_and_losses_do_not_depend_on_the_mode():
    model, bags = model_for(gated=True), bag_batch([1, 2])
    trained = model.losses(model.train()(bags), bags)["bag"]
    trained.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.losses(model.eval()(bags), bags)["bag"].item() == trained.item()
    assert isinstance(model, MILModel)


def test_dropout_acts_on_the_input_and_on_the_embedding():
    bags = bag_batch([40])
    model = ABMIL(5, 2, "binary", hidden_sizes=(), dropout=0.5, input_dropout=0.2)
    rows = model.embed.train()(bags.features.abs() + 1)
    kept = rows / (bags.features.abs() + 1)
    scales = {round(v, 4) for v in kept.flatten().tolist()}
    assert scales == {0.0, 2.5}  # 1 / (0.8 x 0.5)
    assert torch.equal(model.embed.eval()(bags.features), bags.features)


def test_half_precision_stays_close():
    model, bags = model_for(gated=True), bag_batch([300, 20])
    expected = model(bags)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(bags)
    sums = torch.stack([output.attention[:300].sum(), output.attention[300:].sum()])
    torch.testing.assert_close(sums, torch.ones(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(output.logits.float(), expected.logits, rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 3, "task": "binary"},
        {"hidden_sizes": (4, 0)},
        {"branches": 0},
    ],
)
def test_wrong_sizes_are_refused(arguments):
    settings = {"in_features": 5, "num_classes": 2, "task": "binary"} | arguments
    with pytest.raises(ValueError, match=r"positive|2 classes"):
        ABMIL(**settings)


def test_relu_attention_without_bias_by_hand():
    # V = 2 and no bias: relu(2 h) of h = -1, 0, 1/2 is 0, 0, 1; w = log 3: scores 0, 0, log 3
    model = ABMIL(
        1, 2, "binary", hidden_sizes=(), attention_dim=1, attention_activation="relu",
        attention_bias=False,
    )  # fmt: skip
    with torch.no_grad():
        model.attention_value.weight.fill_(2.0)
        model.attention_score.weight.fill_(math.log(3))
    features = torch.tensor([[-1.0], [0.0], [0.5]])
    bags = BagBatch(features, torch.tensor([0, 3]), torch.tensor([1]), torch.tensor([0]))
    output = model(bags)
    expected = torch.tensor([0.2, 0.2, 0.6])
    torch.testing.assert_close(output.attention, expected, rtol=0, atol=1e-6)
    gated = ABMIL(1, 2, "binary", gated=True, attention_bias=False)
    assert gated.attention_value.bias is None
    assert gated.attention_gate.bias is None


def test_embedding_by_gelu():
    # GELU(x) = x Phi(x): 1 -> Phi(1) = .8413447, -1 -> -.1586553; W = 1, bias 0
    model = ABMIL(1, 2, "binary", hidden_sizes=(1,), activation="gelu")
    with torch.no_grad():
        model.embed[1].weight.fill_(1.0)
        model.embed[1].bias.zero_()
    found = model.embed(torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.8413447], [-0.1586553]]), rtol=0, atol=1e-6)


def test_glorot_start():
    torch.manual_seed(0)
    model = ABMIL(400, 2, "binary", hidden_sizes=(200,), attention_dim=100, xavier_init=True)
    # deviation sqrt(2 / (inputs + outputs))
    assert model.embed[1].weight.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.02)
    deviation = math.sqrt(2 / 300)
    assert model.attention_value.weight.std().item() == pytest.approx(deviation, rel=0.02)
    for layer in (model.embed[1], model.attention_value, model.classifier):
        assert not layer.bias.any()


@pytest.mark.parametrize("branches", [1, 3])
def test_contributions_of_the_instances_add_up_to_the_logits(branches):
    model, bags = model_for(branches=branches, task="multiclass", classes=3), bag_batch([4, 3])
    embedded = model.embed_bags(bags)
    output = model.pool(embedded)
    shares = model.instance_contributions(embedded, output)
    sums = torch.stack([shares[:4].sum(0), shares[4:].sum(0)])
    torch.testing.assert_close(sums + model.classifier.bias, output.logits, rtol=0, atol=1e-6)
    one = dataclasses.replace(output, attention=torch.zeros(7, branches).index_fill_(
        0, torch.tensor([6]), 1.0
    ))  # fmt: skip
    alone = model.instance_contributions(embedded, one)
    assert not alone[:6].any()
    # a whole bag of the last instance: the classifier without its bias on K copies of it
    expected = model.classifier(embedded.features[6].repeat(branches)) - model.classifier.bias
    torch.testing.assert_close(alone[6], expected, rtol=0, atol=1e-6)
    scores = model.class_scores(embedded, output)
    expected = shares.double().softmax(dim=1).max(dim=1).values
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_torchmil_with_the_same_weights(gated):
    """Logits, attention scores and loss of a widely used implementation, bag by bag."""
    peer = pytest.importorskip("torchmil.models", reason="the dev extra has torchmil")
    torch.manual_seed(0)
    theirs = peer.ABMIL(in_shape=(5,), att_dim=4, gated=gated)
    names = {"attention_value": "pool.fc1.module", "classifier": "classifier.module"}
    names |= {"attention_gate": "pool.fc_gated.module"} if gated else {}
    weights = theirs.state_dict()
    state = {f"{n}.{p}": weights[f"{t}.{p}"] for n, t in names.items() for p in ("weight", "bias")}
    ours = ABMIL(5, 2, "binary", hidden_sizes=(), attention_dim=4, gated=gated)
    ours.load_state_dict(state | {"attention_score.weight": weights["pool.fc2.weight"]})
    close = {"rtol": 0, "atol": 1e-6}
    for size, label in ((1, 0), (2, 1), (40, 1)):
        bag = bag_batch([size], labels=torch.tensor([label]))
        output = ours(bag)
        logit, scores = theirs(bag.features[None], return_att=True)
        torch.testing.assert_close(output.logits[:, 0], logit, **close)
        torch.testing.assert_close(output.attention_logits, scores[0], **close)
        loss = theirs.compute_loss(bag.labels.float(), bag.features[None])[1]
        ours_loss = ours.losses(output, bag)["bag"]
        torch.testing.assert_close(ours_loss, sum(loss.values()), **close)
