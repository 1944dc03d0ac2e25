"""Aggregators as other people write them: nothing of this repository is imported.

The tests name them by their dotted names, as a user of the algorithmic unit tests does.
"""

import torch
from torch import nn


def _layers(width, in_features=16):
    return nn.Sequential(
        nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    )


class MaxOfScores(nn.Module):
    """One bag (N, D): the largest score of an instance."""

    def __init__(self, width=32):
        super().__init__()
        self.score = nn.Sequential(_layers(width), nn.Linear(width, 1))

    def forward(self, x):
        return self.score(x).max()


class PaddedMaxOfScores(MaxOfScores):
    """Padded bags (B, N, D) with a mask: the largest score of a real instance."""

    def forward(self, X, mask=None):
        scores = self.score(X).squeeze(-1)
        if mask is not None:
            scores = scores.masked_fill(~mask.bool(), -torch.inf)
        return scores.max(dim=1).values


class GatedAttention(nn.Module):
    """One bag (N, D): gated attention as in public code for ABMIL; returns logit and weights."""

    def __init__(self, width=32, attention=16):
        super().__init__()
        self.features = _layers(width)
        self.tanh_branch = nn.Sequential(nn.Linear(width, attention), nn.Tanh())
        self.sigmoid_branch = nn.Sequential(nn.Linear(width, attention), nn.Sigmoid())
        self.weights = nn.Linear(attention, 1)
        self.classifier = nn.Linear(width, 1)

    def forward(self, x):
        h = self.features(x)  # (N, width)
        a = self.weights(self.tanh_branch(h) * self.sigmoid_branch(h)).T.softmax(dim=1)  # (1, N)
        return self.classifier(a @ h), a


class Broken(MaxOfScores):
    """Its logits are not numbers once it is trained."""

    def forward(self, x):
        scores = self.score(x)
        return scores.max() * (torch.nan if self.training else 1.0)


class TooSharp(MaxOfScores):
    """Its loss has no gradient: an operation changes what the gradient needs."""

    def forward(self, x):
        scores = self.score(x).exp()
        largest = scores.max()
        scores.mul_(2)
        return largest


class NothingToTrain(nn.Module):
    """The largest feature of a bag, without a parameter."""

    def forward(self, x):
        return x.max()


class Explodes(MaxOfScores):
    """Its logits are infinite in evaluation mode."""

    def forward(self, x):
        return self.score(x).max() + (0.0 if self.training else torch.inf)
