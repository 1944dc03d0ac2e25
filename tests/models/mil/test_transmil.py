import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.mil.protocol import MILModel, TwoPartModel
from models.mil.transmil import PPEG, TransLayer, TransMIL
from structures import BagBatch, MILOutput

EXACT = {"rtol": 1e-9, "atol": 1e-11}
CLOSE = {"rtol": 0, "atol": 1e-6}
LANDMARKS, ITERATIONS, HEADS, WIDTH = 6, 6, 2, 8


def bag_batch(sizes, width=5, seed=0, labels=None, dtype=torch.float64):
    random = torch.Generator().manual_seed(seed)
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=random, dtype=dtype),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else labels,
        index=torch.arange(len(sizes)),
    )


def model_for(task="binary", classes=2, dtype=torch.float64, **changes):
    torch.manual_seed(1)
    settings = {"width": WIDTH, "heads": HEADS, "landmarks": LANDMARKS, "residual_kernel": 5}
    model = TransMIL(5, classes, task, **settings | changes)
    with torch.no_grad():  # weights that tell one token from another
        for layer in (model.layer1, model.layer2):
            layer.qkv.weight.mul_(4)
            layer.norm.bias.normal_()
            layer.norm.weight.normal_()
        model.norm.bias.normal_()
    return model.to(dtype).eval()


def literal_attention(layer, tokens):
    """(T, E) -> what is added to the tokens, and cls's row of F Z B, (h, T); zeros written out."""
    heads, width = layer.heads, tokens.shape[1] // layer.heads
    normed = layer.norm(tokens)
    padding = -len(tokens) % layer.landmarks
    padded = torch.cat([normed.new_zeros(padding, normed.shape[1]), normed])
    outputs, rows = [], []
    largest, parts = 0.0, []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        q, k, v = (part[:, own] for part in (padded @ layer.qkv.weight.T).chunk(3, dim=1))
        q_marks = torch.stack([c.mean(0) for c in q.chunk(layer.landmarks)])
        k_marks = torch.stack([c.mean(0) for c in k.chunk(layer.landmarks)])
        first = (q @ k_marks.T / math.sqrt(width)).softmax(1)
        second = (q_marks @ k_marks.T / math.sqrt(width)).softmax(1)
        third = (q_marks @ k.T / math.sqrt(width)).softmax(1)
        largest = max(largest, second.sum(0).max())
        parts.append((v, first, second, third))
    for head, (v, first, second, third) in enumerate(parts):
        z, eye = second.T / largest, torch.eye(layer.landmarks).to(tokens)
        for _ in range(layer.iterations):
            y = second @ z
            z = 0.25 * z @ (13 * eye - y @ (15 * eye - y @ (7 * eye - y)))
        full = first @ z @ third
        mixed, taps = full @ v, layer.residual.weight[head, 0, :, 0]
        for place in range(len(mixed)):
            for tap, weight in enumerate(taps):
                source = place + tap - len(taps) // 2
                if 0 <= source < len(v):
                    mixed[place] = mixed[place] + weight * v[source]
        outputs.append(mixed[padding:])
        rows.append(full[padding, padding:])
    projected = torch.cat(outputs, 1) @ layer.out.weight.T + layer.out.bias
    return projected, torch.stack(rows)


def literal_positions(positions, tokens, side):
    """The three convolutions of a grid by loops, (side^2, E)."""
    grid = tokens.view(side, side, -1)
    result = grid.clone()
    for convolution in (positions.conv7, positions.conv5, positions.conv3):
        reach = convolution.kernel_size[0] // 2
        for y in range(side):
            for x in range(side):
                total = convolution.bias.clone()
                for dy in range(-reach, reach + 1):
                    for dx in range(-reach, reach + 1):
                        if 0 <= y + dy < side and 0 <= x + dx < side:
                            weight = convolution.weight[:, 0, dy + reach, dx + reach]
                            total = total + weight * grid[y + dy, x + dx]
                result[y, x] = result[y, x] + total
    return result.view(side**2, -1)


def literal_bag(model, features):
    """One bag, step by step: embedding (E,), logits (C,), attention (N, h)."""
    embedded = F.relu(features @ model.embed[0].weight.T + model.embed[0].bias)
    count = len(features)
    square = math.ceil(math.sqrt(count)) ** 2
    tokens = embedded
    if model.square == "before":
        tokens = torch.cat([embedded, embedded[: square - count]])
    tokens = torch.cat([model.cls_token[None], tokens])
    added, rows = literal_attention(model.layer1, tokens)
    tokens = tokens + added
    grid = tokens[1:]
    number = len(grid)
    grid = torch.cat([grid, grid[: square - number]])
    side = max(math.isqrt(square), 7)
    grid = torch.cat([grid, grid.new_zeros(side**2 - square, grid.shape[1])])
    grid = literal_positions(model.positions, grid, side)[:number]
    tokens = torch.cat([tokens[:1], grid])
    tokens = tokens + literal_attention(model.layer2, tokens)[0]
    embedding = model.norm(tokens)[0]
    weights = rows[:, 1:].clamp(min=0)
    attention = weights[:, :count].clone()
    attention[:, : number - count] += weights[:, count:]
    attention = attention / attention.sum(1, keepdim=True)
    return embedding, model.classifier(embedding), attention.T


@pytest.mark.parametrize("square", ["before", "ppeg"])
def test_bags_of_all_sizes_by_the_slow_way(square):
    """Zeros in front, repeated tokens, grids below and above 7 x 7, whole and partial landmarks."""
    model = model_for(square=square)
    bags = bag_batch([1, 2, 7, 12, 50])
    with torch.no_grad():
        output = model(bags)
        expected = [literal_bag(model, bag.features) for bag in bags.bags()]
    embeddings, logits, attention = zip(*expected, strict=True)
    torch.testing.assert_close(output.embeddings, torch.stack(embeddings), **EXACT)
    torch.testing.assert_close(output.logits, torch.stack(logits), **EXACT)
    torch.testing.assert_close(output.attention, torch.cat(attention), **EXACT)


@pytest.mark.parametrize("square", ["before", "ppeg"])
def test_batch_mates_of_the_same_and_of_other_sizes_change_nothing(square):
    """5, 7 and 9 instances fill the same grid, 40 another: forward and gradient."""
    model = model_for(square=square)
    bags = bag_batch([5, 40, 9, 7, 1, 5, 2])
    output = model(bags)
    model.losses(output, bags)["bag"].backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    assert all(g.isfinite().all() for g in gradients)
    model.zero_grad()
    singles = [(bag, model(bag)) for bag in bags.bags()]
    losses = [model.losses(out, bag)["bag"] for bag, out in singles]
    (sum(losses) / len(bags)).backward()
    for field in ("logits", "attention", "embeddings"):
        joined = torch.cat([getattr(out, field) for _, out in singles])
        torch.testing.assert_close(getattr(output, field), joined, **EXACT)
    torch.testing.assert_close(
        model.losses(output, bags, "none")["bag"], torch.stack(losses), **EXACT
    )
    for together, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(together, parameter.grad, **EXACT)


def test_bags_are_sorted_by_size_with_one_copy_to_the_device(monkeypatch):
    """Each copy of a list waits for all that the device has in hand."""
    model, made = model_for(), []
    bags, make = model.embed_bags(bag_batch([5, 40, 9, 7, 1])), torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *a, **k: made.append(a) or make(*a, **k))
    model.pool(bags)
    assert len(made) == 1


def test_the_first_token_alone_is_the_first_token_of_all():
    """Also its gradients, where the convolution reaches over all tokens or over some."""
    for kernel, count in ((5, 20), (33, 4)):
        layer = model_for(residual_kernel=kernel).layer2
        tokens = bag_batch([count, count], WIDTH).features.view(2, count, WIDTH).requires_grad_()
        weights = torch.randn(2, WIDTH, dtype=torch.float64)
        leaves = [tokens, *layer.parameters()]
        whole, alone = layer(tokens)[0][:, 0], layer.first(tokens)
        torch.testing.assert_close(alone, whole, **EXACT)
        expected = torch.autograd.grad((whole * weights).sum(), leaves)
        for mine, theirs in zip(
            torch.autograd.grad((alone * weights).sum(), leaves), expected, strict=True
        ):
            torch.testing.assert_close(mine, theirs, **EXACT)


@pytest.mark.parametrize(
    ("square", "expected"),
    [
        # S = 3: nine tokens, of which the first four are there twice
        ("before", [2 / 9, 2 / 9, 2 / 9, 2 / 9, 1 / 9]),
        ("ppeg", [1 / 5] * 5),
    ],
)
def test_repeated_tokens_add_their_attention_to_the_original(square, expected):
    """A defect of the released code: the repeated ones take attention that nobody sees."""
    model = model_for(square=square)
    with torch.no_grad():
        model.layer1.qkv.weight.zero_()  # every token gets the same weight
    attention = model(bag_batch([5])).attention
    column = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(attention, column[:, None].expand(5, HEADS), **EXACT)
    assert not attention.requires_grad


def test_negative_attention_is_cut_and_a_bag_without_any_is_uniform(monkeypatch):
    model = model_for(square="ppeg")
    # two bags of two: heads (3, -1) and (-2, -4), then (1, 1) and (0, 5)
    rows = torch.tensor([[[3.0, -1], [-2, -4]], [[1, 1], [0, 5]]]).double()
    monkeypatch.setattr(type(model.layer1), "forward", lambda self, tokens: (tokens, rows))
    attention = model(bag_batch([2, 2])).attention
    expected = torch.tensor([[1, 0.5], [0, 0.5], [0.5, 0], [0.5, 1]]).double()
    torch.testing.assert_close(attention, expected, **EXACT)


@pytest.mark.parametrize("count", [1, 4, 5, 49, 60])
def test_positions_by_loops(count):
    """Fewer than 49 tokens are laid out in rows of seven, with zeros behind them (A102)."""
    torch.manual_seed(0)
    positions = PPEG(3).double()
    tokens = bag_batch([1 + count], 3).features.unsqueeze(0)
    square = math.ceil(math.sqrt(count)) ** 2
    grid = torch.cat([tokens[0, 1:], tokens[0, 1 : 1 + square - count]])
    side = max(math.isqrt(square), 7)
    grid = torch.cat([grid, grid.new_zeros(side**2 - square, 3)])
    with torch.no_grad():
        found, expected = positions(tokens)[0], literal_positions(positions, grid, side)
    torch.testing.assert_close(found[1:], expected[:count], **EXACT)
    assert torch.equal(found[0], tokens[0, 0])


def test_torchmil_with_the_same_weights():
    """The same but for W_o and the convolution of the values, which it has not."""
    models = pytest.importorskip("torchmil.models", reason="the dev extra installs torchmil")
    sizes = [50, 64, 60]  # grids of 8 x 8; a smaller one is handled in another way
    ours = model_for(dtype=torch.float32, square="before")
    theirs = models.TransMIL((WIDTH,), WIDTH, n_heads=HEADS, n_landmarks=LANDMARKS)
    bags = bag_batch(sizes, WIDTH, dtype=torch.float32)
    bags = dataclasses.replace(bags, features=bags.features.abs())
    ours.embed = nn.Sequential(nn.Identity(), nn.ReLU())  # it has no ReLU: positive features
    with torch.no_grad():
        for mine, layer in zip((ours.layer1, ours.layer2), theirs.layers, strict=True):
            mine.residual.weight.zero_()
            mine.out.weight.copy_(torch.eye(WIDTH))
            mine.out.bias.zero_()
            layer.norm1.load_state_dict(mine.norm.state_dict())
            layer.att_module.qkv_nn.load_state_dict(mine.qkv.state_dict())
        theirs.pos_layer.proj.load_state_dict(ours.positions.conv7.state_dict())
        theirs.pos_layer.proj1.load_state_dict(ours.positions.conv5.state_dict())
        theirs.pos_layer.proj2.load_state_dict(ours.positions.conv3.state_dict())
        theirs.cls_token.copy_(ours.cls_token.view(1, 1, -1))
        theirs.norm.load_state_dict(ours.norm.state_dict())
        theirs.classifier.load_state_dict(ours.classifier.state_dict())
    output = ours(bags)
    expected = torch.cat([theirs(bag.features.unsqueeze(0)) for bag in bags.bags()])
    torch.testing.assert_close(output.logits[:, 0], expected, rtol=0, atol=1e-5)
    output.logits.sum().backward()
    expected.sum().backward()
    for mine, layer in zip((ours.layer1, ours.layer2), theirs.layers, strict=True):
        gradient = layer.att_module.qkv_nn.weight.grad
        scale = gradient.abs().max().item()
        torch.testing.assert_close(mine.qkv.weight.grad, gradient, rtol=0, atol=1e-5 * scale)
    gradient = theirs.pos_layer.proj1.weight.grad
    torch.testing.assert_close(ours.positions.conv5.weight.grad, gradient, **CLOSE)


def test_tasks_have_their_own_heads_and_losses():
    bags = bag_batch([2, 3], labels=torch.tensor([1, 0]))
    model = model_for()
    output = model(bags)
    loss = model.losses(output, bags, "none")["bag"]
    signed = output.logits[:, 0] * torch.tensor([-1, 1])
    torch.testing.assert_close(loss, signed.exp().log1p(), **EXACT)
    torch.testing.assert_close(model.losses(output, bags)["bag"], loss.mean(), **EXACT)
    bags = bag_batch([2, 3], labels=torch.tensor([2, 0]))
    model = model_for("multiclass", 3)
    output = model(bags)
    picked = output.logits.softmax(1)[[0, 1], [2, 0]]
    torch.testing.assert_close(model.losses(output, bags, "none")["bag"], -picked.log(), **EXACT)
    bags = bag_batch([2, 3], labels=torch.tensor([[1, 0, 1], [0, 0, 1]]))
    model = model_for("multilabel", 3)
    output = model(bags)
    expected = F.binary_cross_entropy(output.logits.sigmoid(), bags.labels.double())
    torch.testing.assert_close(model.losses(output, bags)["bag"], expected, **EXACT)


@pytest.mark.parametrize(("task", "classes"), [("binary", 2), ("multiclass", 3), ("multilabel", 3)])
def test_class_scores_by_a_loop(task, classes):
    model = model_for(task, classes)
    bags = model.embed_bags(bag_batch([4, 3]))
    output = model.pool(bags)
    layer, width = model.layer1, WIDTH // HEADS
    expected = []
    for instance, attention in zip(bags.features, output.attention, strict=True):
        values = layer.qkv.weight[2 * WIDTH :] @ layer.norm(instance)
        weighted = [attention[h] * values[h * width : (h + 1) * width] for h in range(HEADS)]
        logits = model.classifier.weight @ (layer.out.weight @ torch.cat(weighted))
        if task == "binary":  # softmax of (0, l)
            logits = torch.stack([torch.zeros_like(logits[0]), logits[0]])
        probabilities = logits.sigmoid() if task == "multilabel" else logits.softmax(0)
        expected.append(probabilities.max())
    scores = model.class_scores(bags, output)
    torch.testing.assert_close(scores, torch.stack(expected).detach(), **EXACT)
    assert not scores.requires_grad
    with pytest.raises(ValueError, match="attention"):
        model.class_scores(bags, MILOutput(output.logits))


def test_dropout_acts_on_instances_and_on_what_attention_adds():
    bags = bag_batch([6])
    model = model_for(dropout=1.0).train()
    assert torch.equal(model(bags).embeddings[0], model.norm(model.cls_token))
    assert not torch.equal(model.eval()(bags).embeddings[0], model.norm(model.cls_token))
    model = model_for(embed_dropout=0.75).train()
    kept = model.embed_bags(bags).features / model.eval().embed_bags(bags).features
    scales = set(kept.nan_to_num(nan=0.0).flatten().tolist())
    assert {round(scale, 6) for scale in scales} == {0.0, 4.0}
    gelu = model_for(activation="gelu")
    linear = F.linear(bags.features, gelu.embed[0].weight, gelu.embed[0].bias)
    torch.testing.assert_close(gelu.embed_bags(bags).features, F.gelu(linear), **EXACT)


def test_an_instance_left_out_is_as_if_it_had_never_been_there():
    model, bags = model_for(square="ppeg"), bag_batch([6, 9])
    kept = torch.tensor([1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1], dtype=torch.bool)
    output = model.pool(model.embed_bags(bags).keep(kept))
    torch.testing.assert_close(output.logits, model(bags.keep(kept)).logits, **EXACT)
    assert isinstance(model, TwoPartModel) and isinstance(model, MILModel)


def test_the_order_of_instances_matters_and_the_class_says_so():
    model, bags = model_for(), bag_batch([20])
    moved = dataclasses.replace(bags, features=bags.features.flip(0))
    assert not model.permutation_invariant
    assert (model(moved).logits - model(bags).logits).abs().item() > 1e-4


def test_half_precision_stays_close_and_tensors_follow_their_inputs():
    model, bags = model_for(dtype=torch.float32), bag_batch([30, 3, 60], dtype=torch.float32)
    expected = model(bags)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(bags)
    sums = torch.stack([output.attention[a:b].sum(0) for a, b in ((0, 30), (30, 33), (33, 93))])
    torch.testing.assert_close(sums, torch.ones(3, HEADS), **CLOSE)
    torch.testing.assert_close(output.logits.float(), expected.logits, rtol=0, atol=5e-2)
    # What is made without a device would land elsewhere, and the step would fail.
    with torch.device("meta"):
        again = model(bags)
        loss = model.losses(again, bags)["bag"]
    loss.backward()
    assert torch.equal(again.logits, expected.logits)
    assert torch.equal(again.attention, expected.attention)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 3},
        {"heads": 3},
        {"residual_kernel": 4},
        {"landmarks": 0},
        {"iterations": 0},
        {"width": 0},
    ],
)
def test_wrong_sizes_are_refused(arguments):
    settings = {"in_features": 5, "num_classes": 2, "task": "binary", "width": 8, "heads": 2}
    with pytest.raises(ValueError, match=r"positive|2 classes|divide width"):
        TransMIL(**settings | arguments)


def test_a_layer_has_nothing_but_attention():
    layer = TransLayer(
        8, 2, landmarks=4, iterations=6, residual_kernel=3, dropout=0.0
    ).requires_grad_(False)
    layer.out.weight.zero_()
    layer.out.bias.fill_(0.5)
    tokens = torch.randn(1, 6, 8)
    torch.testing.assert_close(layer(tokens)[0], tokens + 0.5, **CLOSE)
    torch.testing.assert_close(layer.first(tokens), tokens[:, 0] + 0.5, **CLOSE)
