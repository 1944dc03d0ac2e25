"""Freezing parts of a network by the names of their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn


def freeze_parameters(model: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude the parameters whose names match a pattern from training.

    Args:
        model: the network; changed in place.
        patterns: as of a shell, where ``*`` matches any characters, dots included:
            ``backbone.*`` for a part, ``*.bias`` for all biases.

    Raises:
        ValueError: a pattern matches no parameter, or no parameter is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise unknown_pattern("freeze", pattern, model)
    for name, parameter in parameters.items():
        if _matches(name, patterns):
            parameter.requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(
            f"freeze: {', '.join(patterns)} leave no parameter of {type(model).__name__} to train; "
            "freeze less"
        )


def unknown_pattern(option: str, pattern: str, model: nn.Module) -> ValueError:
    """Return the error for a pattern of an option that matches no parameter, with similar names."""
    advice = _advice(pattern, [name for name, _ in model.named_parameters()])
    return ValueError(
        f"{option}: no parameter of {type(model).__name__} matches {pattern}; {advice}"
    )


def keep_statistics(model: nn.Module, patterns: Sequence[str], keep: bool = True) -> None:
    """Set the norms of frozen parts to eval mode, so that their running statistics stay (A332).

    These are the norms whose running statistics or whose parameters all match a pattern, and those
    of ``model.backbone`` that have no trainable parameter, as in the stages that
    ``trainable_stages`` freezes.

    Args:
        model: the network; the modes of its norms are changed in place.
        patterns: see `freeze_parameters`.
        keep: False to set them to training mode.
    """
    for name, norm in _norms(model):
        own = dict(norm.named_parameters(recurse=False))
        named = _matches(f"{name}.running_mean", patterns) or (
            bool(own) and all(_matches(f"{name}.{part}", patterns) for part in own)
        )
        trained = any(parameter.requires_grad for parameter in own.values())
        if named or (name.startswith("backbone.") and own and not trained):
            norm.training = not keep


def _norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in model.named_modules():
        if getattr(part, "running_mean", None) is not None:
            yield name, part


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _advice(pattern: str, names: Iterable[str]) -> str:
    """Return similar names for a pattern that matches nothing, or else the parts of the model."""
    names = list(names)
    parts = [name.split(".")[:-1] for name in names]
    prefixes = [
        ".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part) + 1)
    ]
    known = list(dict.fromkeys([*prefixes, *names]))
    near = get_close_matches(pattern, known, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    tops = dict.fromkeys(name.partition(".")[0] for name in names)
    return f"its parts are {', '.join(tops)}"
