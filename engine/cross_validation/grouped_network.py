"""Several networks of one architecture, combined into one network.

Letters: F networks, B bags of a batch, b = B / F bags of each.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.cross_validation.grouped_layers import (
    CannotGroupError,
    GroupedDropout,
    GroupedLinear,
    RowsByNetwork,
)
from models.mil.protocol import MILModel
from structures import BagBatch

# Errors of a network that cannot process bags of several folds. If grouping is not the cause, a
# fold by itself raises the same error.
_MISFITS = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)
_SMALLEST = 0.01  # fraction of the largest gradient; smaller gradients are partly rounding errors


class GroupedNetwork:
    """F models that process one packed batch, in which each model has its own bags.

    Args:
        networks: networks of one architecture, with different weights and buffers.
        random: torch's random state of each network.
        bags_each: b.

    Raises:
        CannotGroupError: a module of the network is not known to process rows independently.
    """

    def __init__(
        self, networks: Sequence[nn.Module], random: Sequence[Tensor], bags_each: int
    ) -> None:
        self._networks, self._bags_each = networks, bags_each
        self._rows = RowsByNetwork()
        self._generators = [torch.Generator() for _ in networks]
        self.rewind(random)
        self._stacked: dict[nn.Parameter, nn.Parameter] = {}
        try:
            self._module = copy.deepcopy(networks[0]).train()
        except (RuntimeError, TypeError) as fault:
            raise CannotGroupError("the network cannot be copied") from fault
        self._replace_layers()
        self._spread_buffers()

    def random_states(self) -> list[Tensor]:
        """Return the random state of each network."""
        return [generator.get_state() for generator in self._generators]

    def rewind(self, states: Sequence[Tensor]) -> None:
        """Restore the random states that `random_states` returned."""
        for generator, state in zip(self._generators, states, strict=True):
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
        """Repeat buffers that differ between networks, one copy per bag."""
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
            batch: the b bags of the first network, then the bags of the second, and so on.

        Raises:
            CannotGroupError: the network cannot process bags of several folds, or draws random
                numbers outside its dropout layers.
        """
        self._rows.set(batch.offsets, self._bags_each)
        model: MILModel = self._module  # type: ignore[assignment]
        shape, before = (len(self._networks), self._bags_each), torch.get_rng_state()
        try:
            terms = model.losses(model(batch), batch, "none")
            means = {name: term.reshape(shape).mean(1) for name, term in terms.items()}
        except _MISFITS as fault:
            raise CannotGroupError("the network does not fit bags of several folds") from fault
        if not torch.equal(before, torch.get_rng_state()):
            raise CannotGroupError("the network draws random numbers outside its dropout")
        return means

    def stacked(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return the weights of all networks, (F, ...), for a parameter of the first network.

        Raises:
            CannotGroupError: the parameter does not belong to a linear layer.
        """
        if parameter not in self._stacked:
            raise CannotGroupError("the network has weights outside its linear layers")
        return self._stacked[parameter]

    def zero_grad(self) -> None:
        """Reset all gradients."""
        self._module.zero_grad()

    def clip_gradients(self, largest: float) -> None:
        """Clip the norm of each network's gradients to ``largest``, as torch does."""
        gradients = [p.grad for p in self._stacked.values() if p.grad is not None]
        squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
        factors = (largest / (squares.sqrt() + 1e-6)).clamp(max=1.0)  # (F,)
        for gradient in gradients:
            gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)))

    @torch.no_grad()
    def hand_back(self) -> None:
        """Copy the weights back into the original networks."""
        names = {parameter: name for name, parameter in self._networks[0].named_parameters()}
        for position, network in enumerate(self._networks):
            own = dict(network.named_parameters())
            for first, stacked in self._stacked.items():
                own[names[first]].copy_(stacked[position])

    def same_gradients(self, position: int, tolerance: float) -> bool:
        """Return whether the gradients of a network equal those computed by the network alone.

        Args:
            position: index of the network, which has gradients of the same batch.
            tolerance: allowed difference relative to the largest gradient of each weight, or to a
                hundredth of the network's largest gradient if that is more.
        """
        own = dict(self._networks[position].named_parameters())
        pairs = [
            (own[name].grad, self.stacked(first).grad)
            for name, first in self._networks[0].named_parameters()
        ]
        if any((alone is None) != (together is None) for alone, together in pairs):
            return False
        known = [(a, t[position]) for a, t in pairs if a is not None and t is not None]
        least = _SMALLEST * max((float(alone.abs().max()) for alone, _ in known), default=0.0)
        return all(
            float((together - alone).abs().max())
            <= tolerance * max(float(alone.abs().max()), least)
            for alone, together in known
        )


def _check_part(part: nn.Module) -> None:
    own = [name for name, value in part._parameters.items() if value is not None]
    if own or isinstance(part, nn.modules.dropout._DropoutNd):
        raise CannotGroupError(f"the network has a {type(part).__name__}")
