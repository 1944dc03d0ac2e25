"""Functions of users, given by a dotted name: own corruptions, shifts and encoders."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def searched(name: str, kind: str) -> tuple[str, str]:
    """Return the module and the attribute of a dotted name; make the working folder searched last.

    Args:
        name: dotted name.
        kind: what it should name, for the message.

    Raises:
        ValueError: the name has no dot, or is none.
    """
    path, _, attribute = name.rpartition(".")
    if not path or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"{name!r} is not a dotted name; write package.module.{kind}")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    return path, attribute


@functools.cache
def imported(name: str) -> Callable[..., Any]:
    """Import a function or class by its dotted name; the working folder is searched last.

    Raises:
        ValueError: the name has no dot, or there is no such function.
    """
    path, attribute = searched(name, "function")
    try:
        found: Any = getattr(importlib.import_module(path), attribute, None)
    except (Exception, SystemExit) as error:  # the user's file may raise anything
        raise ValueError(f"{name}: importing {path} raised {_short(error)}") from error
    if not callable(found):
        raise ValueError(f"{name}: {path} has no function {attribute!r}")
    return found  # type: ignore[no-any-return]


def changed_by(
    name: str, values: np.ndarray[Any, Any], severity: int, seed: int
) -> np.ndarray[Any, Any]:
    """Return what ``function(values, severity, rng)`` of a dotted name makes of a copy (A782).

    Args:
        name: dotted name of the function.
        values: the array, which stays as it is.
        severity: 1 to 5.
        seed: of the `numpy.random.Generator` that the function is given.

    Returns:
        An array of the shape and type of ``values``.

    Raises:
        ValueError: the function cannot be imported, raises an error, or returns something else.
    """
    function = imported(name)
    try:
        found = function(values.copy(), severity, np.random.default_rng(seed))
    except Exception as error:  # the user's function may raise anything
        raise ValueError(f"{name} at severity {severity} raised {_short(error)}") from error
    same = isinstance(found, np.ndarray) and found.dtype == values.dtype
    if not same or found.shape != values.shape:
        got = f"{getattr(found, 'dtype', type(found).__name__)} {getattr(found, 'shape', '')}"
        raise ValueError(f"{name} returned {got.strip()}; expected {values.dtype} {values.shape}")
    return np.ascontiguousarray(found)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
