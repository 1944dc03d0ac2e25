"""What a datamodule says about the paths that it reads, for a checkpoint applied to other data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from structures.classes_by_place import classes_below

DOMAINS = ("seg", "mil", "wsi")  # folders of `datamodules/` that hold datamodules


class PathReader:
    """Base of the datamodules; one that reads a path given by ``--data`` overrides `section_for`.

    Attributes:
        path_argument: the argument that names the path, None where no single one does.
        asked_last: it also takes paths that only its own error message can refuse, so those that
            know their paths are asked before.
    """

    path_argument: ClassVar[str | None] = None
    asked_last: ClassVar[bool] = False

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the ``data`` section with which a checkpoint is applied to a path.

        Samples are prepared as those of the checkpoint's validation were, and their classes are
        those of the checkpoint.

        Args:
            path: a file or a folder.
            record: the checkpoint's ``segmil`` record: ``facts``, and under ``blueprint`` the
                training's own ``data`` section and ``links``.
            folder: where the files lie that ``path`` names (images, features), where that is given.

        Returns:
            ``class_path`` and ``init_args``; None if this class does not read the path, or not for
            this checkpoint.

        Raises:
            ValueError: the class reads the path, but cannot prepare its samples for the checkpoint.
        """
        del path, record, folder
        return None

    @classmethod
    def section(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the section of a configuration that builds this class with some arguments."""
        return {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": dict(arguments)}


def arguments_of(kind: type) -> set[str]:
    """Return the names of a class's arguments, those that it passes on to its parents included."""
    names: set[str] = set()
    for owner in [c for c in kind.__mro__ if "__init__" in vars(c)]:
        parameters = inspect.signature(vars(owner)["__init__"]).parameters
        named = {n for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
        names |= named - {"self"}
        if named == set(parameters):  # nothing is passed on
            break
    return names


def path_readers() -> list[type[PathReader]]:
    """Return the datamodules that read a path, in the order in which they are asked.

    That are the classes in modules of `datamodules/seg`, `mil` and `wsi` with a ``section_for`` of
    their own.
    """
    packages = [f"datamodules.{domain}" for domain in DOMAINS]
    found = [c for name in packages if find_spec(name) for c in classes_below(name)]
    readers = [c for c in found if issubclass(c, PathReader) and "section_for" in vars(c)]
    return sorted(readers, key=lambda reader: reader.asked_last)
