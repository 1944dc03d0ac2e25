"""A grid: dotted paths of a recipe to lists of values, of which all combinations are tried.

model.init_args.optimizer.init_args.lr: [1.0e-4, 1.0e-3]
trainer.max_epochs: [20, 50]
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from engine.config.files import check_config_file
from engine.config.recipe import Recipe

_SECTIONS = ("model", "data", "trainer", "checkpoint", "early_stopping")
# Arguments of the data that say how a fold is trained; all others say which bags there are.
_OF_TRAINING = (
    "batch_size", "sampler", "class_weights", "token_budget", "max_instances",
    "standardise", "clip",
)  # fmt: skip
_DEVICES = ("accelerator", "devices")
_EXAMPLE = "such as `model.init_args.optimizer.init_args.lr: [1.0e-4, 1.0e-3]`"


class Grid(NamedTuple):
    """Values to choose from.

    Attributes:
        file: the file, for messages.
        values: the values of each path.
    """

    file: Path
    values: tuple[tuple[str, tuple[Any, ...]], ...]

    def combinations(self) -> list[dict[str, Any]]:
        """Return all combinations as values by path; those of the last path vary fastest."""
        paths = [path for path, _ in self.values]
        products = itertools.product(*(values for _, values in self.values))
        return [dict(zip(paths, chosen, strict=True)) for chosen in products]

    def singles(self) -> Iterator[dict[str, Any]]:
        """Yield each value by itself, to find out which one a recipe refuses."""
        for path, values in self.values:
            yield from ({path: value} for value in values)

    def plain(self) -> dict[str, list[Any]]:
        """Return the grid as plain containers."""
        return {path: list(values) for path, values in self.values}


def with_values(config: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with values at dotted paths, as if flags gave them.

    Args:
        config: the recipe.
        values: value by path.
    """
    words = tuple(f"--{path}={_text(value)}" for path, value in values.items())
    return config._replace(overrides=(*config.overrides, *words))


def _text(value: Any) -> str:
    """Return YAML of one line that a flag reads back as the same value."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def shown(values: Mapping[str, Any]) -> str:
    """Return values of a combination in short, for tables.

    >>> shown({"model.init_args.optimizer.init_args.lr": 0.001, "trainer.max_steps": 9})
    'optimizer.lr 0.001, max_steps 9'
    """
    return ", ".join(f"{short(path)} {value}" for path, value in values.items())


def short(path: str) -> str:
    """Return a path without its section and without ``init_args``."""
    return ".".join(part for part in path.split(".")[1:] if part != "init_args")


def read_grid(file: Path, config: Recipe) -> Grid:
    """Read a grid; whether the recipe has its paths and takes its values is checked later.

    Args:
        file: a YAML file with a flat mapping.
        config: the recipe.

    Raises:
        ValueError: the file is missing or no such mapping, a list is empty, or a path is not one of
            training, is given twice or by a flag too.
    """
    if not file.is_file():
        raise ValueError(f"--grid {file}: no such file; name a YAML file with lines {_EXAMPLE}")
    content = check_config_file(file)
    given: dict[tuple[str, ...], str] = {_plain_path(p): "a flag" for p, _ in config.values()}
    for path, values in content.items():
        parts = str(path).split(".")
        if isinstance(values, Mapping) or parts[0] not in _SECTIONS or len(parts) < 2:
            raise ValueError(
                f"{file}: {path} is no dotted path of a recipe to a list of values; write lines "
                f"{_EXAMPLE}"
            )
        if not isinstance(values, list) or not values:
            what = "an empty list" if values == [] else f"{values!r}, which is no list"
            raise ValueError(f"{file}: {path} has {what}; give the values to choose from")
        _check_path(file, parts)
        if (other := given.get(_plain_path(parts))) is not None:
            raise ValueError(f"{file}: {path} is given by {other} too; keep one")
        given[_plain_path(parts)] = f"the line {path}"
    read = ((str(path), tuple(map(_number, values))) for path, values in content.items())
    return Grid(file, tuple(read))


def _check_path(file: Path, parts: list[str]) -> None:
    if parts[0] == "data" and parts[-1] not in _OF_TRAINING:
        raise ValueError(
            f"{file}: {'.'.join(parts)} would change which bags there are, which have to be the "
            f"same for all combinations; a grid may have {', '.join(_OF_TRAINING)} of the data"
        )
    if parts[0] == "trainer" and parts[1] in _DEVICES:
        raise ValueError(
            f"{file}: {'.'.join(parts)} changes no result; give it as a flag, --{'.'.join(parts)}"
        )


def _plain_path(parts: list[str]) -> tuple[str, ...]:
    return tuple(part for part in parts if part != "init_args")


def _number(value: Any) -> Any:
    """Return the number that a text such as ``1e-4`` means, which YAML reads as text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
