"""Check that a training does not freeze what no weights were loaded for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from lightning_modules.rebuilding import without_sources
from models.backbones.frozen import frozen_parts, is_untrained

_FROZEN_NORM = "frozen_bn"


def frozen_random_parts(model: nn.Module, section: Mapping[str, Any]) -> str | None:
    """Return an error message if parts of the backbone are frozen at random values (A305).

    Args:
        model: the network, as it was built.
        section: ``model`` section of the resolved configuration.
    """
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, nn.Module) or without_sources(section) != section:
        return None
    parts = frozen_parts(backbone)
    if not parts or not is_untrained(backbone):
        return None
    flags = " ".join(_flags(section, "--model", getattr(backbone, "num_stages", "null")))
    train_all = f"train everything ({flags})" if flags else "freeze nothing"
    return (
        f"the backbone's {' and '.join(parts)} are frozen at random values, because no weights are "
        "loaded: the loss would diverge. Give weights by --model.init_args.init_from FILE "
        "(docs/weights.md lists public files) or, where they can be downloaded, pretrained: true; "
        f"or {train_all}"
    )


def _flags(section: Mapping[str, Any], name: str, stages: object) -> Iterator[str]:
    """Yield the flags that unfreeze norms and stages, wherever a class has them."""
    arguments = section.get("init_args")
    if not isinstance(arguments, Mapping):
        return
    for key, value in arguments.items():
        flag = f"{name}.init_args.{key}"
        if key == "norm" and value == _FROZEN_NORM:
            yield f"{flag} gn"
        elif key == "trainable_stages" and value is not None:
            yield f"{flag} {stages}"
        elif isinstance(value, Mapping):
            yield from _flags(value, flag, stages)
