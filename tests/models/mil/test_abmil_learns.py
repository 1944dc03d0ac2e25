"""ABMIL on digit bags (the MNIST-bags protocol): it finds the target, and nothing in noise."""

import pytest
import torch

from datamodules.mil.base import select_bags
from datamodules.mil.digit_bags import DigitBagsDataModule
from evaluation.mil.scores import evaluate_bags, witness_auroc
from models.mil.abmil import ABMIL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digit_bags():
    data = DigitBagsDataModule()
    return data.source("train"), data.source("test")


def trained(bags, labels, seed, gated):
    torch.manual_seed(seed)
    model = ABMIL(64, 2, "binary", hidden_sizes=(128, 64), attention_dim=64, gated=gated)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01, fused=True)
    for _ in range(24):  # epochs of 200 bags
        for positions in torch.randperm(len(bags)).split(20):
            batch = select_bags(bags, positions)
            logits = model(batch).logits[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[positions])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("seed", range(3))
def test_200_digit_bags_suffice(digit_bags, seed, gated):
    train, test = digit_bags
    model = trained(train, train.labels.float(), seed, gated)
    with torch.no_grad():
        output = model(test)
    metrics = evaluate_bags(test.labels, output.probabilities("binary"), "binary")
    assert metrics["bag_auroc"] >= 0.95
    assert witness_auroc(output.attention, test.instance_labels, test.offsets) >= 0.90


def test_shuffled_labels_teach_nothing(digit_bags):
    train, test = digit_bags
    values = []
    for seed in range(3):
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        model = trained(train, train.labels[order].float(), seed, gated=False)
        with torch.no_grad():
            scores = model(test).probabilities("binary")
        values.append(evaluate_bags(test.labels, scores, "binary")["bag_auroc"])
    assert sum(values) / 3 == pytest.approx(0.5, abs=0.12)
