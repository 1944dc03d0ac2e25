"""Public weight files that a network can recognise and rename."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

_RGB, _PLANES = 3, 4  # channels of an image, and of R, Gr, B, Gb


class PublicWeights(NamedTuple):
    """Weights of a recognised file.

    Attributes:
        kind: what the file is, for the report.
        tensors: weights by the names of the network; others keep their names.
        norm_eps: epsilon with which its frozen norms were trained, None for that of the network.
    """

    kind: str
    tensors: dict[str, Tensor]
    norm_eps: float | None = None


@runtime_checkable
class KnowsPublicWeights(Protocol):
    """A network, or the ``backbone`` of one, that recognises public weight files."""

    def public_weights(self, given: Mapping[str, Tensor]) -> PublicWeights | None:
        """Return the weights under the names of the network, None for files of another kind.

        Raises:
            ValueError: the file is of that kind, but for another variant of the network.
        """
        ...


def recognised(model: nn.Module, given: Mapping[str, Tensor]) -> PublicWeights | None:
    """Ask a model and then its ``backbone`` whether they know a public file.

    A backbone's own weights are named ``body.``; they get the prefix ``backbone.`` here.
    """
    if isinstance(model, KnowsPublicWeights):
        found = model.public_weights(given)
        if found is not None:
            return found
    backbone = getattr(model, "backbone", None)
    found = backbone.public_weights(given) if isinstance(backbone, KnowsPublicWeights) else None
    if found is None:
        return None
    named = {f"backbone.{k}" if k.startswith("body.") else k: v for k, v in found.tensors.items()}
    return found._replace(tensors=named)


def planes_weight(weight: Tensor) -> Tensor:
    """Return a kernel for R, Gr, B, Gb that gives what an RGB kernel gives where Gr = Gb.

    Args:
        weight: (O, 3, k, k), for R, G, B.

    Returns:
        (O, 4, k, k); each green has half of the weight of G.
    """
    red, green, blue = weight.unbind(dim=1)
    return torch.stack([red, green / 2, blue, green / 2], dim=1)


def for_four_channels(given: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the kernels of RGB images that a network of R, Gr, B, Gb has, converted.

    Args:
        given: weights by the names of the network.
        wanted: ``state_dict`` of the network.
    """
    shapes = {name: tuple(getattr(v, "shape", ())) for name, v in given.items() if name in wanted}
    return {
        name: planes_weight(given[name])
        for name, shape in shapes.items()
        if len(shape) == 4
        and shape[1] == _RGB
        and tuple(wanted[name].shape) == (shape[0], _PLANES, *shape[2:])
    }


def names_without_file(model: nn.Module) -> set[str]:
    """Return the names of the tensors that no public file has.

    A layer that is added to a published network declares them in ``new_weights``: names of its own
    tensors, or an empty text for all.
    """
    found = set()
    for path, layer in model.named_modules():
        prefix = f"{path}." if path else ""
        names: tuple[str, ...] = getattr(layer, "new_weights", ())
        for name in names:
            found |= {prefix + own for own in layer.state_dict() if not name or own == name}
    return found


def set_frozen_eps(model: nn.Module, eps: float) -> None:
    """Set the epsilon of all frozen batch norms."""
    from torchvision.ops import FrozenBatchNorm2d  # only segmentors have them

    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = eps
