"""Checks of the files that a command would write."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

_INPUTS = {
    "ckpt": "--ckpt", "predictions": "--predictions", "annotations": "--annotations",
    "data": "--data", "data_yaml": "--data", "config": "--config", "features": "--features",
    "images": "--images", "root": "--root",
}  # fmt: skip
# Reports may lie among inputs and be renewed there, but not where a command reads JSON.
_JSON_FOLDERS = {"check-data": "annotations", "compare": "predictions"}


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse what a command cannot write, or what would take the place of something it reads.

    Args:
        args: of any command, with ``overrides``, the words that are flags of a recipe.

    Raises:
        ValueError: an output is the file of an input or of another output, lies over a file in a
            folder of inputs, is a folder or no ordinary file, or its folder cannot be made.
    """
    inputs = list(_inputs(args))
    written: list[tuple[str, Path]] = []
    if getattr(args, "form", None) == "yolo":
        if args.target.is_file():
            raise ValueError(f"--out {args.target} is a file; name a folder for the YOLO set")
        inputs.append(("--out", args.target))
    for flag, path in _outputs(args):
        _check_place(flag, path)
        for other, given in inputs:
            if _same(path, given):
                raise ValueError(
                    f"{flag} {path} is the file of {other}, which would be lost; name another file"
                )
            if _lies_over(path, given, _JSON_FOLDERS.get(args.command)):
                raise ValueError(
                    f"{flag} {path} is there already, among the files of {other} {given}; name a "
                    "new file"
                )
        for other, given in written:
            if _same(path, given) or _below(path, given) or _below(given, path):
                raise ValueError(
                    f"{flag} {path} and {other} {given} cannot both be written; name different "
                    "files"
                )
        written.append((flag, path))


def _outputs(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Yield flag and path of every file to write."""
    target = getattr(args, "target", None)
    named = {
        "--out": None if getattr(args, "form", None) == "yolo" else target,
        "--save-predictions": getattr(args, "save_predictions", None),
        "--curves": getattr(args, "curves", None),
        "--out" if target is None else "--report": args.out,
    }
    yield from ((flag, path) for flag, path in named.items() if path is not None)


def _inputs(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Yield flag and path of everything to read, as far as the command line names it."""
    for name, flag in _INPUTS.items():
        given = getattr(args, name, None)
        paths = given if isinstance(given, list) else [given]
        yield from ((flag, path) for path in paths if path is not None)
    if args.command == "mil-assumptions":
        yield "--model", Path(args.model)
    flag = ""
    for word in args.overrides:  # --data.root DIR or --data.root=DIR
        if word.startswith("--"):
            flag, _, word = word.partition("=")  # noqa: PLW2901
        if word and _is_there(word):
            yield flag, Path(word)


def _check_place(flag: str, path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder; name a file to write")
    if path.exists() and not path.is_file():
        raise ValueError(f"{flag} {path} is no ordinary file; name a file to write")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ValueError(f"{flag} {path}: {parent} is no folder; name a file in a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} {path}: nothing may be written in {parent}; name another folder")


def _is_there(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # too long for a name
        return False


def _same(path: Path, other: Path) -> bool:
    """Tell whether two names mean one file, also where it is not there yet."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def _below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _lies_over(path: Path, folder: Path, json_folder: str | None) -> bool:
    """Tell whether a path is that of a file which may be read from a folder."""
    report = path.suffix.lower() == ".json" and path.parent.name != json_folder
    return path.exists() and not report and folder.is_dir() and _below(path, folder)
