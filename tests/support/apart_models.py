"""Models and protocols that cannot be trained together with other folds, each for one reason."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from lightning_modules.mil import MILModule
from lightning_modules.staged import StagedMILModule
from models.losses.bag_classification import bag_classification_loss, mean_over_bags
from models.mil.mi_net import InstanceMINet
from models.ops.bags.ragged import segment_mean
from structures import MILOutput


class Counting(InstanceMINet):
    """Has a buffer that a forward pass changes."""

    def __init__(self, *facts):
        super().__init__(*facts, hidden_sizes=[4])
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, bags):
        self.passes += 1
        return super().forward(bags)


class Normalising(InstanceMINet):
    """Uses the mean over all bags of a step."""

    def pool(self, bags):
        return super().pool(
            dataclasses.replace(bags, features=bags.features - bags.features.mean())
        )


class Leaking(InstanceMINet):
    """Adds zero with a gradient to all bags of a step."""

    def pool(self, bags):
        mean = bags.features.mean()
        features = bags.features + (mean - mean.detach())
        return super().pool(dataclasses.replace(bags, features=features))


class Weighing(InstanceMINet):
    """Has a value that differs between folds and is read as a single number."""

    def __init__(self, *facts):
        super().__init__(*facts, hidden_sizes=[4])
        self.register_buffer("share", torch.zeros(1))

    def set_training_bags(self, numbers, labels, sizes):
        self.share.fill_(labels.double().mean())

    def losses(self, output, bags, reduction="mean"):
        terms = super().losses(output, bags, reduction)
        return {"bag": terms["bag"] * self.share.view(1).exp().item()}


class Noisy(InstanceMINet):
    """Draws random numbers outside dropout layers."""

    def pool(self, bags):
        factor = torch.rand(1) if self.training else 1.0
        return super().pool(dataclasses.replace(bags, features=bags.features * factor))


class Tied(nn.Module):
    """Uses one matrix in two layers."""

    def __init__(self, in_features, num_classes, task):
        super().__init__()
        self.task = task
        self.one, self.other = nn.Linear(in_features, 1), nn.Linear(in_features, 1)
        self.other.weight = self.one.weight

    def forward(self, bags):
        return MILOutput(
            segment_mean(self.one(bags.features) + self.other(bags.features), bags.offsets)
        )

    def losses(self, output, bags, reduction="mean"):
        losses = bag_classification_loss(output.logits, bags.labels, self.task)
        return {"bag": losses if reduction == "none" else mean_over_bags(losses)}


class Normed(InstanceMINet):
    """Has weights outside linear layers."""

    def __init__(self, *facts):
        super().__init__(*facts, hidden_sizes=[4])
        self.embed.append(nn.LayerNorm(4))


class Small(InstanceMINet):
    """Base class of the models below; ``calls`` counts the losses in training."""

    calls = 0

    def __init__(self, *facts):
        super().__init__(*facts, hidden_sizes=[4])

    def losses(self, output, bags, reduction="mean"):
        self.calls += self.training
        return super().losses(output, bags, reduction)


class Silent(Small):
    """Uses all bags of a step, which a classifier of zeros hides in the first step."""

    def __init__(self, *facts):
        super().__init__(*facts)
        nn.init.zeros_(self.classifier.weight)

    def pool(self, bags):
        features = bags.features - bags.features.mean(0).detach()
        return super().pool(dataclasses.replace(bags, features=features))


class Remembering(Small):
    """Has state outside its buffers."""

    def losses(self, output, bags, reduction="mean"):
        terms = super().losses(output, bags, reduction)
        return {"bag": terms["bag"] * (1 + 0.1 * self.calls)}


class Late(Small):
    """Draws random numbers outside dropout layers, but only after a few steps."""

    def pool(self, bags):
        factor = torch.rand(1) if self.training and self.calls > 3 else 1.0
        return super().pool(dataclasses.replace(bags, features=bags.features * factor))


class Functional(Small):
    """Uses functional dropout with a small p, so that most steps are the same as without."""

    def pool(self, bags):
        features = F.dropout(bags.features, 0.01, self.training)
        return super().pool(dataclasses.replace(bags, features=features))


class Growing(Small):
    """Has a term that compares bags and has weight 0 at first.

    ``joint`` leaves the term out of the losses per bag.
    """

    joint = False

    def losses(self, output, bags, reduction="mean"):
        terms = super().losses(output, bags, reduction)
        pair = (output.logits - output.logits.mean()).square().view(-1)
        if reduction == "mean" or not self.joint:
            terms["pair"] = pair if reduction == "none" else pair.mean()
        return terms

    def loss_factors(self, progress):
        return {"pair": 20 * progress}


class GrowingJoint(Growing):
    joint = True


class ReadingBias(Small):
    def losses(self, output, bags, reduction="mean"):
        terms = super().losses(output, bags, reduction)
        return {"bag": terms["bag"] + self.classifier.bias.square().sum()}


class Hooked(Small):
    """Has a linear layer whose weight is computed from other parameters."""

    def __init__(self, *facts):
        super().__init__(*facts)
        nn.utils.spectral_norm(self.embed[0])


class Second(StagedMILModule):
    """Starts from a first stage and trains like any other module."""

    def load_first_stage(self, state):
        self.model.load_state_dict(state)


class Rooted(MILModule):
    def weighted_sum(self, terms):
        return super().weighted_sum(terms).sqrt()


class Following(MILModule):
    """Changes a weight after each step."""

    def after_optimizer_step(self):
        with torch.no_grad():
            self.model.classifier.bias.mul_(0.9)
