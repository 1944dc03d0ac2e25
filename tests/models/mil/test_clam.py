import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from models.mil.clam import CLAM
from models.mil.protocol import MILModel, TwoPartModel
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
    options = {
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "attention_dim": 3,
        "instances": 2,
    } | options
    model = CLAM(5, classes, task, **{"hidden_sizes": [4]} | options)
    with torch.no_grad():  # biases start at 0, where a lost one would not show
        for layer in (m for m in model.modules() if isinstance(m, torch.nn.Linear)):
            if layer.bias is not None:
                layer.bias.normal_(std=0.3)
    return model


def hand_made(labels, **options):
    """Features are the embeddings, attention scores are h: E = L = 1."""
    model = CLAM(
        1,
        2,
        "binary",
        hidden_sizes=[],
        attention_dim=1,
        dropout=0.0,
        attention_dropout=0.0,
        **options,
    )
    with torch.no_grad():
        model.attention_value.weight.fill_(math.log(2) / 2)
        model.attention_gate.weight.fill_(math.log(3))
        model.attention_score.weight.fill_(5.0)
        model.classifier.weight.copy_(torch.tensor([[2.0], [-3.0]])[: len(model.classifier.weight)])
        model.classifier.bias.copy_(torch.tensor([-1.0, 0.5])[: len(model.classifier.bias)])
        # classifier of class 0: scores (0, h) for "not of it" and "of it"; of class 1: (h, 1)
        model.instance_classifiers.weight.copy_(torch.tensor([[0.0], [1.0], [1.0], [0.0]]))
        model.instance_classifiers.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    features = torch.tensor([[0.0], [1.0], [2.0]])
    return model, BagBatch(features, torch.tensor([0, 3]), torch.tensor(labels), torch.tensor([0]))


# tanh(h log 2 / 2) = 0, 1/3, 3/5 and sigmoid(h log 3) = 1/2, 3/4, 9/10 for h = 0, 1, 2
SCORES = [0.0, 5 / 3 * 0.75, 3 * 0.9]
WEIGHTS = [math.exp(s) / sum(math.exp(t) for t in SCORES) for s in SCORES]


def svm(own, other):
    return math.log(1 + math.exp(1 + other - own))


def test_one_branch_by_hand():
    model, bags = hand_made([1], instances=1)
    output = model(bags)
    pooled = WEIGHTS[1] + 2 * WEIGHTS[2]
    torch.testing.assert_close(output.attention_logits, torch.tensor(SCORES), **CLOSE)
    torch.testing.assert_close(output.attention, torch.tensor(WEIGHTS), **CLOSE)
    torch.testing.assert_close(output.embeddings, torch.tensor([[pooled]]), **CLOSE)
    torch.testing.assert_close(output.logits, torch.tensor([[2 * pooled - 1]]), **CLOSE)
    terms = model.losses(output, bags)
    assert terms["bag"].item() == pytest.approx(math.log(1 + math.exp(1 - 2 * pooled)), abs=1e-6)
    # first is h = 2, last h = 0. Class 1's classifier gives (h, 1): first should say "of it" with
    # 1 against 2, last "not of it" with 0 against 1.
    inside = (svm(1, 2) + svm(0, 1)) / 2
    assert terms["instance"].item() == pytest.approx(inside, abs=1e-6)
    # a bag of class 0 is treated alike: (0, h), first "of it" with 2, last "not of it" with 0
    other = dataclasses.replace(bags, labels=torch.tensor([0]))
    inside = (svm(2, 0) + svm(0, 0)) / 2
    assert model.losses(output, other)["instance"].item() == pytest.approx(inside, abs=1e-6)


def test_subtyping_by_hand_divides_by_the_number_of_classes():
    model, bags = hand_made([1], instances=1, subtyping=True)
    # beside the above, class 0's classifier should say of the first that it is not its own
    expected = ((svm(1, 2) + svm(0, 1)) / 2 + svm(0, 2)) / 2
    loss = model.losses(model(bags), bags)["instance"]
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_map_a_class_by_hand():
    model, bags = hand_made([1], instances=1, multi_branch=True)
    with torch.no_grad():
        model.attention_score.weight.copy_(torch.tensor([[-5.0], [5.0]]))
    output = model(bags)
    flipped = [math.exp(-s) / sum(math.exp(-t) for t in SCORES) for s in SCORES]
    # class 1's map, as the one logit is class 1's
    torch.testing.assert_close(output.attention, torch.tensor(WEIGHTS), **CLOSE)
    torch.testing.assert_close(output.attention_logits, torch.tensor(SCORES), **CLOSE)
    pooled = [w[1] + 2 * w[2] for w in (flipped, WEIGHTS)]
    torch.testing.assert_close(output.embeddings, torch.tensor(pooled).view(1, 2, 1), **CLOSE)
    # l_0 = 2 z_0 - 1, l_1 = -3 z_1 + 1/2; sigmoid(l_1 - l_0) is the softmax of the two
    logit = -3 * pooled[1] + 0.5 - (2 * pooled[0] - 1)
    torch.testing.assert_close(output.logits, torch.tensor([[logit]]), **CLOSE)
    # map 0 puts h = 0 first and h = 2 last: "of it" with 0 against 0, "not of it" with 0 against 2
    inside = (svm(0, 0) + svm(0, 2)) / 2
    of_class_0 = dataclasses.replace(bags, labels=torch.tensor([0]))
    loss = model.losses(output, of_class_0)["instance"].item()
    assert loss == pytest.approx(inside, abs=1e-6)


def one_bag_by_hand(model, instances, classes):
    """Loops over classes, instances and choices, as the equations say."""
    embed, value, gate = model.embed[0], model.attention_value, model.attention_gate
    hidden = [(embed.weight @ x + embed.bias).clamp(min=0) for x in instances]
    count, maps = len(hidden), model.attention_score.weight
    scores = []
    for h in hidden:
        tanh = torch.tanh(value.weight @ h + value.bias)
        scores.append(maps @ (tanh * torch.sigmoid(gate.weight @ h + gate.bias)))
    scores = torch.stack(scores)  # (N, K)
    attention = scores.exp() / scores.exp().sum(0)
    pooled = [sum(attention[n, k] * hidden[n] for n in range(count)) for k in range(len(maps))]
    head = model.classifier
    if model.multi_branch:
        logits = [head.weight[c] @ pooled[c] + head.bias[c] for c in range(model.num_classes)]
        logits = [logits[1] - logits[0]] if model.task == "binary" else logits
    else:
        logits = [w @ pooled[0] + b for w, b in zip(head.weight, head.bias, strict=True)]

    def judged(h, c, label):
        pair = slice(2 * c, 2 * c + 2)
        judges = model.instance_classifiers
        two = judges.weight[pair] @ h + judges.bias[pair]
        return F.softplus(1 + two[1 - label] - two[label])

    total = 0
    for c in range(model.num_classes):
        column = scores[:, c if model.multi_branch else 0].tolist()
        order = sorted(range(count), key=lambda n: -column[n])
        k = min(model.instances, count)
        first, last = order[:k], order[::-1][:k]
        if c in classes:
            inside = [judged(hidden[n], c, 1) for n in first]
            inside += [judged(hidden[n], c, 0) for n in last]
            total = total + sum(inside) / (2 * k)
        elif model.subtyping:
            total = total + sum(judged(hidden[n], c, 0) for n in first) / k
    return torch.stack(logits), attention, total / (model.num_classes if model.subtyping else 1)


@pytest.mark.parametrize("multi_branch", [False, True])
@pytest.mark.parametrize("subtyping", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_a_batch_equals_the_equations_one_instance_at_a_time(task, subtyping, multi_branch):
    """Bags of 1, 2 and 5 instances have fewer than k, or chosen ones that are first and last."""
    classes = 2 if task == "binary" else 3
    options = {"multi_branch": multi_branch, "subtyping": subtyping, "instances": 3}
    model = model_for(classes, task, **options).double()
    labels = {"binary": [1, 0, 0, 1], "multiclass": [1, 0, 2, 2]}.get(
        task, [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]
    )
    bags = bag_batch([5, 1, 7, 2], labels=labels, dtype=torch.float64)
    output = model(bags)
    each = model.losses(output, bags, "none")["instance"]
    (output.logits.square().sum() + each.sum()).backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad()
    expected = 0
    for b, bag in enumerate(bags.bags()):
        first, last = bags.offsets[b : b + 2].tolist()
        label = labels[b]
        present = [c for c in range(3) if label[c]] if isinstance(label, list) else [label]
        logits, attention, loss = one_bag_by_hand(model, list(bag.features), present)
        torch.testing.assert_close(output.logits[b], logits, **EXACT)
        if task == "binary":  # the map of class 1 (A143)
            attention = attention[:, -1]
        found = output.attention[first:last].view(attention.shape)
        torch.testing.assert_close(found, attention, **EXACT)
        torch.testing.assert_close(each[b], torch.as_tensor(loss).double(), **EXACT)
        expected = expected + logits.square().sum() + loss
    expected.backward()
    for found, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, **EXACT)
    mean = model.losses(output, bags)["instance"]
    torch.testing.assert_close(mean, each.mean(), **EXACT)


def test_more_instances_wanted_than_there_are():
    """A95: all of a small bag are both first and last; what does not exist does not count."""
    bags = bag_batch([3], labels=[1])
    wanting, having = model_for(instances=50), model_for(instances=3)
    output = wanting(bags)
    assert output.first.shape == output.last.shape == (1, 50, 2, 2)
    assert output.chosen.tolist() == [[True] * 3 + [False] * 47]
    loss = wanting.losses(output, bags)["instance"]
    torch.testing.assert_close(loss, having.losses(having(bags), bags)["instance"], **CLOSE)
    hidden = wanting.embed(bags.features)
    judged = wanting.instance_classifiers(hidden)[:, 2:]
    margins = judged[:, 1] - judged[:, 0]
    # each instance once as "of class 1" and once as "not of it", over 2 x 3
    expected = (F.softplus(1 - margins) + F.softplus(1 + margins)).sum() / 6
    torch.testing.assert_close(loss, expected, **CLOSE)


def test_torchmil_with_the_same_weights():
    """Logits, attention and bag loss of CLAM-SB, which is all of CLAM that torchmil has.

    Its instance loss is no reference: it hands targets of shape (n, 1) to a loss that adds their
    margins to the scores by broadcasting to (n, n, 2), and sums over the wrong axis. Ours is tested
    against the equations above.
    """
    reference_model = pytest.importorskip("torchmil.models", reason="the dev extra has torchmil")
    torch.manual_seed(0)
    embed = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU())
    theirs = reference_model.CLAM_SB(
        in_shape=(5,), att_dim=3, k_sample=8, gated=True, feat_ext=embed
    )
    ours = model_for(instances=8, subtyping=True)
    pool, judges = theirs.pool, [c.module for c in theirs.inst_classifiers]
    ours.load_state_dict(
        {
            "embed.0.weight": embed[0].weight,
            "embed.0.bias": embed[0].bias,
            "attention_value.weight": pool.fc1.module.weight,
            "attention_value.bias": pool.fc1.module.bias,
            "attention_gate.weight": pool.fc_gated.module.weight,
            "attention_gate.bias": pool.fc_gated.module.bias,
            "attention_score.weight": pool.fc2.weight,
            "classifier.weight": theirs.classifier.module.weight,
            "classifier.bias": theirs.classifier.module.bias,
            "instance_classifiers.weight": torch.cat([j.weight for j in judges]),
            "instance_classifiers.bias": torch.cat([j.bias for j in judges]),
        }
    )
    for size, label in ((1, 0), (5, 1), (40, 0), (40, 1)):
        bag = bag_batch([size], labels=[label])
        output = ours(bag)
        logit, scores = theirs(bag.features[None], return_att=True)
        torch.testing.assert_close(output.logits[:, 0], logit, **CLOSE)
        torch.testing.assert_close(output.attention_logits, scores[0], **CLOSE)
        terms = ours.losses(output, bag)
        expected = F.binary_cross_entropy_with_logits(logit, bag.labels.float())
        torch.testing.assert_close(terms["bag"], expected, **CLOSE)


def test_the_choice_of_instances_passes_no_gradient_to_the_attention():
    model, bags = model_for(), bag_batch([6, 4])
    model.losses(model(bags), bags)["instance"].backward()
    assert model.attention_value.weight.grad is None
    assert model.embed[0].weight.grad.any()
    assert model.instance_classifiers.weight.grad.any()


@pytest.mark.parametrize("multi_branch", [False, True])
def test_no_class_is_special_by_its_number(multi_branch):
    """Weights and labels renumbered alike: logits move along, losses stay."""
    options = {"multi_branch": multi_branch, "subtyping": True}
    model, renumbered = (model_for(3, "multiclass", seed=s, **options) for s in (1, 5))
    order = torch.tensor([2, 0, 1])  # new class i is old class order[i]
    state = model.state_dict()
    for name in ("classifier.weight", "classifier.bias", "attention_score.weight"):
        if multi_branch or name.startswith("classifier"):
            state[name] = state[name][order]
    for name in ("instance_classifiers.weight", "instance_classifiers.bias"):
        pairs = state[name].unflatten(0, (3, 2))
        state[name] = pairs[order].flatten(0, 1)
    renumbered.load_state_dict(state)
    bags = bag_batch([4, 3, 2], labels=[0, 1, 2])
    moved = dataclasses.replace(bags, labels=order.argsort()[bags.labels])
    output, other = model(bags), renumbered(moved)
    torch.testing.assert_close(other.logits, output.logits[:, order], **CLOSE)
    for term, loss in model.losses(output, bags).items():
        torch.testing.assert_close(renumbered.losses(other, moved)[term], loss, **CLOSE)


def test_a_bag_of_one_instance_keeps_its_shapes():
    for multi_branch in (False, True):
        model, bag = model_for(3, "multiclass", multi_branch=multi_branch), bag_batch([1])
        output = model(bag)
        hidden = model.embed(bag.features)
        assert (output.attention == 1).all()
        assert output.attention.shape == ((1, 3) if multi_branch else (1,))
        assert output.embeddings.shape == ((1, 3, 4) if multi_branch else (1, 4))
        # every map is 1 on the one instance, so both forms are a linear layer of it
        torch.testing.assert_close(output.logits, model.classifier(hidden), **CLOSE)


def test_dropout_acts_on_embedding_value_and_gate():
    features = torch.rand(400, 5) + 1
    bags = dataclasses.replace(bag_batch([400]), features=features)
    model = model_for(dropout=0.25).train()
    embedded = model.embed_bags(bags).features
    dense = model.eval().embed_bags(bags).features
    ratio = (embedded / dense)[dense > 0]
    assert {round(v, 3) for v in ratio.tolist()} == {0.0, 1.333}
    assert (ratio == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    # two factors that drop a half each: three quarters of the products are 0, the others 4 times
    model = model_for(attention_dropout=0.5, attention_dim=1).train()
    with torch.no_grad():
        model.attention_score.weight.fill_(1.0)
    scores = model.pool(dataclasses.replace(bags, features=dense)).attention_logits
    whole = model.eval().pool(dataclasses.replace(bags, features=dense)).attention_logits
    ratio = scores / whole
    assert {round(v, 3) for v in ratio.tolist()} == {0.0, 4.0}
    assert (ratio == 0).float().mean().item() == pytest.approx(0.75, abs=0.08)


def test_start_after_glorot():
    """A99: normal weights of variance 2 / (fan in + fan out), zero biases."""
    torch.manual_seed(0)
    model = CLAM(300, 2, "binary", hidden_sizes=[200], attention_dim=100)
    fans = {model.embed[0]: 300 + 200, model.attention_gate: 200 + 100, model.classifier: 200 + 1}
    for layer, fan in fans.items():
        spread = layer.weight.std().item() * math.sqrt(fan / 2)
        assert spread == pytest.approx(1, abs=0.15 if fan == 201 else 0.02)
        assert not layer.bias.any()
    largest = model.embed[0].weight.abs().max() / model.embed[0].weight.std()
    assert largest > 3  # normal, not uniform, whose largest is sqrt(3) deviations


def test_every_parameter_learns_and_losses_do_not_depend_on_the_mode():
    for multi_branch in (False, True):
        model, bags = model_for(multi_branch=multi_branch), bag_batch([1, 2, 5])
        assert isinstance(model, TwoPartModel) and isinstance(model, MILModel)
        terms = model.losses(model.train()(bags), bags)
        sum(terms.values()).backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        assert model.losses(model.eval()(bags), bags) == terms
        model.zero_grad()
        one_class = model.losses(model(bags.bag(0)), bags.bag(0))
        sum(one_class.values()).backward()
        assert all(p.grad is not None for p in model.parameters())


def test_half_precision_stays_close():
    for multi_branch in (False, True):
        model, bags = model_for(multi_branch=multi_branch, subtyping=True), bag_batch([300, 20])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(bags)
            terms = model.losses(output, bags)
        assert output.attention.dtype == terms["instance"].dtype == torch.float32
        expected = model(bags)
        torch.testing.assert_close(output.logits.float(), expected.logits, rtol=0, atol=2e-2)
        wanted = model.losses(expected, bags)["instance"]
        torch.testing.assert_close(terms["instance"], wanted, rtol=0, atol=2e-2)


def test_what_is_refused():
    with pytest.raises(TypeError, match="CLAMOutput"):
        model_for().losses(MILOutput(torch.zeros(2, 1)), bag_batch([1, 1]))
    for wrong in (
        {"instances": 0},
        {"instances": -1},
        {"attention_dim": 0},
        {"hidden_sizes": [4, 0]},
    ):
        with pytest.raises(ValueError, match="must be positive"):
            model_for(**wrong)
    with pytest.raises(ValueError, match="2 classes"):
        model_for(3, "binary")
