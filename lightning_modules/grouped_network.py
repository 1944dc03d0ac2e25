"""Several networks of one architecture as one, made of those networks.

Letters: F networks, B bags of a batch, b = B / F bags of each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.grouped_layers import (
    CannotGroupError,
    GroupedDropout,
    GroupedLinear,
    RowsByNetwork,
)
from models.mil.protocol import MILModel
from structures import BagBatch


class GroupedNetwork:
    """F learners that see a packed batch, the bags of each in turn.

    Args:
        networks: equal but for their numbers.
        random: torch's random state that each goes on from.
        bags_each: b.

    Raises:
        CannotGroupError: a part of the network is not known to work on rows one by one.
    """

    def __init__(
        self, networks: Sequence[nn.Module], random: Sequence[Tensor], bags_each: int
    ) -> None:
        self._networks, self._bags_each, self._random = networks, bags_each, random
        self._rows = RowsByNetwork()
        self._generators = [torch.Generator() for _ in networks]
        self.rewind()
        self._stacked: dict[nn.Parameter, nn.Parameter] = {}
        self._module = copy.deepcopy(networks[0]).train()
        self._replace_layers()
        self._spread_buffers()

    def rewind(self) -> None:
        """Let every network draw its random numbers from the beginning."""
        for generator, state in zip(self._generators, self._random, strict=True):
            generator.set_state(state)

    def _replace_layers(self) -> None:
        parts = [dict(n.named_modules(remove_duplicate=False)) for n in self._networks]
        made: dict[nn.Module, nn.Module] = {}
        for path, part in parts[0].items():
            if type(part) not in (nn.Linear, nn.Dropout):
                _check_part(part)
                continue
            if part not in made:
                made[part] = self._grouped([p[path] for p in parts])
            parent, _, name = path.rpartition(".")
            setattr(self._module.get_submodule(parent), name, made[part])

    def _grouped(self, layers: Sequence[Any]) -> nn.Module:
        first = layers[0]
        if isinstance(first, nn.Dropout):
            return GroupedDropout(first.p, self._generators, self._rows)
        layer = GroupedLinear(layers, self._rows)
        pairs = ((first.weight, layer.weights), (first.bias, layer.biases))
        for own, stacked in pairs:
            if own in self._stacked:
                raise CannotGroupError("two layers of the network share their weights")
            if own is not None and stacked is not None:
                self._stacked[own] = stacked
        return layer

    def _spread_buffers(self) -> None:
        """Give each bag the buffers of its network where networks differ in them."""
        each = [dict(network.named_buffers()) for network in self._networks]
        for path, first in each[0].items():
            values = torch.stack([buffers[path] for buffers in each])
            if not torch.equal(values, first.expand_as(values)):
                parent, _, name = path.rpartition(".")
                by_bag = values.repeat_interleave(self._bags_each, 0)
                self._module.get_submodule(parent)._buffers[name] = by_bag

    def losses(self, batch: BagBatch) -> dict[str, Tensor]:
        """Return each loss term of each network, the mean over its bags, (F,).

        Args:
            batch: the b bags of the first network, then those of the next.
        """
        self._rows.set(batch.offsets, self._bags_each)
        model: MILModel = self._module  # type: ignore[assignment]
        terms = model.losses(model(batch), batch, "none")
        return {name: term.view(-1, self._bags_each).mean(1) for name, term in terms.items()}

    def stacked(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return the weights of all networks, (F, ...), for those of the first."""
        return self._stacked[parameter]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._module.zero_grad()

    def clip_gradients(self, largest: float) -> None:
        """Scale each network's gradients to a norm of at most ``largest``, as torch does."""
        gradients = [p.grad for p in self._stacked.values() if p.grad is not None]
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
        factors = (largest / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # (F,)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    @torch.no_grad()
    def hand_back(self) -> None:
        """Write the weights into the networks that this was made of."""
        names = {parameter: name for name, parameter in self._networks[0].named_parameters()}
        for position, network in enumerate(self._networks):
            own = dict(network.named_parameters())
            for first, stacked in self._stacked.items():
                own[names[first]].copy_(stacked[position])

    def gradient_error(self, position: int) -> float:
        """Return the largest difference of gradients from a network's own, by their largest.

        Args:
            position: of the network, which has gradients of the same batch.
        """
        own = dict(self._networks[position].named_parameters())
        worst = 0.0
        for name, first in self._networks[0].named_parameters():
            alone, together = own[name].grad, self._stacked[first].grad
            if alone is None or together is None:
                worst = worst if alone is together else math.inf
                continue
            scale = float(alone.abs().max().clamp(min=1e-12))
            worst = max(worst, float((together[position] - alone).abs().max()) / scale)
        return worst


def _check_part(part: nn.Module) -> None:
    own = [name for name, value in part._parameters.items() if value is not None]
    if own or isinstance(part, nn.modules.dropout._DropoutNd):
        raise CannotGroupError(f"the network has a {type(part).__name__}")
