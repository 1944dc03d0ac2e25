import math
from pathlib import Path

import pytest
import torch
import yaml

from models.backbones.dino_embedding import DinoEmbedding, embed_tiles
from models.mil.dsmil import DSMIL
from models.mil.self_vit_mil import SelfViTMIL
from structures import BagBatch

CLOSE = {"rtol": 0, "atol": 1e-6}
RECIPES = Path(__file__).resolve().parents[3] / "configs/mil"


def test_three_embeddings_by_hand():
    # E = 1, instances 0, 1, 2 with scores 1 - h: the first is critical. L = 4 equal queries
    # -a h + a with 2 a^2 = log 2: products with the critical one 4 (a - a h) a over sqrt(4) are
    # (1 - h) log 2, weights 4, 2, 1 of 7, mean embedding (2 + 2) / 7 = 4 / 7. V = 3, u = 1/2:
    # z = 12 / 7 + 1 / 2 = 31 / 14, logit -2 z + 1 = -24 / 7.
    a = math.sqrt(math.log(2) / 2)
    model = SelfViTMIL(1, 2, "binary", attention_dim=4)
    with torch.no_grad():
        for layer, weight, bias in (
            (model.instance_classifier, -1.0, 1.0),
            (model.query[0], -a, a),
            (model.value_layer, 3.0, 0.5),
            (model.classifier, -2.0, 1.0),
        ):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    features, zero = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0])
    bags = BagBatch(features, torch.tensor([0, 3]), zero, zero)
    output = model(bags)
    assert output.critical.tolist() == [[0]]
    scores = torch.tensor([1.0, 0.0, -1.0])
    torch.testing.assert_close(output.attention_logits, scores * math.log(2), **CLOSE)
    torch.testing.assert_close(output.attention, torch.tensor([4.0, 2.0, 1.0]) / 7, **CLOSE)
    torch.testing.assert_close(output.embeddings, torch.tensor([[31 / 14]]), **CLOSE)
    # the bag stream alone predicts
    torch.testing.assert_close(output.logits, torch.tensor([[-24 / 7]]), **CLOSE)
    terms = model.losses(output, bags)
    assert terms["bag"].item() == pytest.approx(math.log(1 + math.exp(-24 / 7)), abs=1e-6)
    assert terms["instance"].item() == pytest.approx(math.log(1 + math.exp(1)), abs=1e-6)


def test_it_is_dsmil_with_linear_query_and_value():
    torch.manual_seed(0)
    model = SelfViTMIL(6, 3, "multiclass", attention_dim=4)
    assert model.query[0].out_features == 4 and len(model.query) == 1
    assert SelfViTMIL(6, 2, "binary").query[0].out_features == 128
    torch.manual_seed(0)
    same = DSMIL(
        6, 3, "multiclass", attention_dim=4, query="linear", value="linear", orthogonal_init=False
    )
    bags = BagBatch(
        torch.randn(7, 6), torch.tensor([0, 5, 7]), torch.tensor([2, 0]), torch.arange(2)
    )
    torch.testing.assert_close(model(bags).logits, same(bags).logits, rtol=0, atol=0)
    # a linear value of every instance, negative parts included, then the sum
    output = model(bags)
    values = bags.features @ model.value_layer.weight.T + model.value_layer.bias
    expected = torch.stack(
        [output.attention[:5].T @ values[:5], output.attention[5:].T @ values[5:]]
    )
    torch.testing.assert_close(output.embeddings, expected, **CLOSE)


@pytest.mark.parametrize("recipe", ["dsmil", "dsmil_classic", "self_vit_mil"])
def test_both_streams_count_half(recipe):
    arguments = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())["model"]["init_args"]
    assert arguments["loss_weights"] == {"bag": 0.5, "instance": 0.5}


def test_from_tiles_to_a_prediction():
    torch.manual_seed(0)
    network = DinoEmbedding("test_vit", image_size=32)
    tiles = torch.rand(5, 3, 32, 32)
    features = embed_tiles(network, tiles, chunk=2)
    model = SelfViTMIL(network.out_features, 2, "binary").eval()
    bags = BagBatch(features, torch.tensor([0, 3, 5]), torch.tensor([0, 1]), torch.arange(2))
    logits = model(bags).logits
    # a slide alone, its tiles the other way round, gives the same
    one = BagBatch(
        embed_tiles(network, tiles[:3].flip(0)),
        torch.tensor([0, 3]),
        torch.tensor([0]),
        torch.zeros(1).long(),
    )
    torch.testing.assert_close(model(one).logits[0], logits[0], rtol=0, atol=1e-5)
