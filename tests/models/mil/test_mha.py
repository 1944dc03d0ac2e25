import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.mil.mha import MHA
from models.mil.protocol import TwoPartModel
from structures import BagBatch

CLOSE = {"rtol": 0, "atol": 1e-6}


def bag_batch(sizes, width=5, labels=None):
    return BagBatch(
        features=torch.randn(sum(sizes), width, generator=torch.Generator().manual_seed(0)),
        offsets=torch.tensor([0, *sizes]).cumsum(0),
        labels=torch.arange(len(sizes)) % 2 if labels is None else labels,
        index=torch.arange(len(sizes)),
    )


def model_for(task="binary", classes=2, **arguments):
    torch.manual_seed(1)
    model = MHA(5, classes, task, hidden_size=12, heads=3, **arguments)
    with torch.no_grad():
        model.query.normal_()
        model.norm.weight.uniform_(0.5, 2)
        model.norm.bias.normal_()
    return model


def torch_attention(model):
    """Return torch's attention with the model's weights; its key bias is random, to no effect."""
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    parts = (model.query_projection, model.key_projection, model.value_projection)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.normal_()
        theirs.in_proj_bias[:12] = model.query_projection.bias
        theirs.in_proj_bias[24:] = model.value_projection.bias
    theirs.out_proj.load_state_dict(model.output_projection.state_dict())
    return theirs


def test_attention_equals_torch_with_keys_and_values_of_every_instance():
    model, bags = model_for().eval(), bag_batch([6, 1, 3])
    theirs, output = torch_attention(model), model(bags)
    for place, bag in enumerate(bags.bags()):
        h = model.embed(bag.features)[None]
        mixed, weights = theirs(model.query.view(1, 1, -1), h, h, average_attn_weights=False)
        start, end = bags.offsets[place : place + 2].tolist()
        torch.testing.assert_close(output.attention[start:end], weights[0, :, 0].T, **CLOSE)
        scores = output.attention_logits[start:end].softmax(0)
        torch.testing.assert_close(scores, output.attention[start:end], **CLOSE)
        centred = mixed[0, 0] - mixed.mean()
        pooled = centred / (centred.square().mean() + 1e-6).sqrt()
        pooled = pooled * model.norm.weight + model.norm.bias
        torch.testing.assert_close(output.embeddings[place], pooled, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            output.logits[place], model.classifier(pooled), rtol=0, atol=1e-5
        )


def test_scores_by_hand():
    """One head of width 4: the score is q . (W_k h) / 2."""
    model = MHA(4, 2, "binary", hidden_size=4, heads=1).eval()
    with torch.no_grad():
        model.embed[0].weight.copy_(torch.eye(4))
        model.query_projection.weight.copy_(2 * torch.eye(4))
        model.query_projection.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        model.query.copy_(torch.tensor([1.0, 0.5, 0, 0]))  # q = (3, 1, 0, 0)
        model.key_projection.weight.copy_(torch.diag(torch.tensor([1.0, 4, 1, 1])))
    features = torch.tensor([[1.0, 0, 5, 0], [0, 2.0, 0, 5]])
    one = torch.tensor([1])
    output = model(BagBatch(features, torch.tensor([0, 2]), one, one))
    expected = torch.tensor([[3 / 2], [4 * 2 / 2]])
    torch.testing.assert_close(output.attention_logits, expected, **CLOSE)


def test_dropout_acts_between_output_projection_and_normalisation():
    model, bags = model_for(dropout=0.5), bag_batch([6, 3])
    mixed = torch.stack(
        [
            torch_attention(model)(model.query.view(1, 1, -1), h, h)[0][0, 0]
            for h in (model.embed(bag.features)[None] for bag in bags.bags())
        ]
    )
    torch.manual_seed(5)
    expected = model.norm(F.dropout(mixed, 0.5))
    torch.manual_seed(5)
    found = model.train()(bags).embeddings
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_query_begins_near_zero_and_everything_learns():
    torch.manual_seed(0)
    model, bags = MHA(5, 2, "binary", hidden_size=64), bag_batch([6, 1])
    assert 0.7e-6 < model.query.std().item() < 1.3e-6
    assert model.heads == 8
    assert model.dropout.p == 0.1
    model.losses(model(bags), bags)["bag"].backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_losses_and_parts():
    labels = torch.tensor([2, 0])
    model, bags = model_for("multiclass", 3).eval(), bag_batch([2, 3], labels=labels)
    output = model(bags)
    picked = output.logits.softmax(1)[[0, 1], [2, 0]]
    torch.testing.assert_close(model.losses(output, bags, "none")["bag"], -picked.log(), **CLOSE)
    mean = -picked.log().mean()
    torch.testing.assert_close(model.losses(output, bags)["bag"], mean, **CLOSE)
    assert isinstance(model, TwoPartModel)
    assert torch.equal(model.pool(model.embed_bags(bags)).logits, output.logits)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="5 heads do not divide a hidden_size of 12"):
        MHA(5, 2, "binary", hidden_size=12, heads=5)
    with pytest.raises(ValueError, match="positive"):
        MHA(5, 2, "binary", heads=0)
