"""Interface of datamodules that read a path, for applying a checkpoint to other data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from structures.classes_by_place import classes_below

DOMAINS = ("seg", "mil", "wsi")  # folders of `datamodules/` that contain datamodules


class PathReader:
    """Base of datamodules; classes that read a path given by ``--data`` override `section_for`.

    Attributes:
        path_argument: name of the argument for the path; None if there is no single one.
        asked_last: the class also accepts paths that it cannot read, to raise a clear error, so
            all other classes are tried first.
    """

    path_argument: ClassVar[str | None] = None
    asked_last: ClassVar[bool] = False

    def __str__(self) -> str:
        """Return the name of the class; the text of Lightning's base builds every data loader."""
        return type(self).__name__

    @classmethod
    def section_for(
        cls, path: Path, record: Mapping[str, Any], folder: Path | None = None
    ) -> dict[str, Any] | None:
        """Return the ``data`` section that applies a checkpoint to a path.

        Samples are prepared as in the validation of the checkpoint's training and have the classes
        of the checkpoint.

        Args:
            path: a file or a folder.
            record: the checkpoint's ``segmil`` record: ``facts``, and under ``blueprint`` the
                ``data`` section and ``links`` of the training.
            folder: folder of the files that ``path`` refers to (images, features), if given.

        Returns:
            ``class_path`` and ``init_args``; None if this class cannot read the path, or not for
            this checkpoint.

        Raises:
            ValueError: the class can read the path, but cannot prepare samples for the checkpoint.
        """
        del path, record, folder
        return None

    @classmethod
    def section(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration section that builds this class with the given arguments."""
        return {"class_path": f"{cls.__module__}.{cls.__name__}", "init_args": dict(arguments)}


def arguments_of(kind: type) -> set[str]:
    """Return the names of a class's arguments, including those passed on to its parents."""
    names: set[str] = set()
    for owner in [c for c in kind.__mro__ if "__init__" in vars(c)]:
        parameters = inspect.signature(vars(owner)["__init__"]).parameters
        named = {n for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD}
        names |= named - {"self"}
        if named == set(parameters):  # nothing is passed on
            break
    return names


def path_readers() -> list[type[PathReader]]:
    """Return the datamodules that read a path, in the order in which they are tried.

    These are the classes in modules of `datamodules/seg`, `mil` and `wsi` that define their own
    ``section_for``.
    """
    packages = [f"datamodules.{domain}" for domain in DOMAINS]
    found = [c for name in packages if find_spec(name) for c in classes_below(name)]
    readers = [c for c in found if issubclass(c, PathReader) and "section_for" in vars(c)]
    return sorted(readers, key=lambda reader: reader.asked_last)
