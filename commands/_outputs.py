"""Checks of the files that a command would write."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from commands._arguments import Output


def check_outputs(args: argparse.Namespace) -> None:
    """Reject outputs that cannot be written or that would replace an input.

    Args:
        args: arguments of any command, with the records of `add_input` and `add_output` and with
            ``overrides``, the flags of a recipe.

    Raises:
        ValueError: an output is the same file as an input or another output, would replace a file
            in a folder of inputs, is a folder or a special file, or its folder cannot be made.
    """
    inputs, outputs = list(_inputs(args)), []
    for output, path in _outputs(args):
        kind = output.folder(args) if output.folder else None
        if kind is None:
            outputs.append((output, path))
            continue
        if path.is_file():
            raise ValueError(f"{output.flag} {path} is a file; name a folder for {kind}")
        inputs.append((output.flag, path))
    written: list[tuple[str, Path]] = []
    for output, path in outputs:
        flag = output.flag
        check_place(flag, path)
        _check_inputs(output, path, inputs)
        for other, given in written:
            if _same(path, given) or _below(path, given) or _below(given, path):
                raise ValueError(
                    f"{flag} {path} and {other} {given} cannot both be written; name different "
                    "files"
                )
        written.append((flag, path))


def _check_inputs(output: Output, path: Path, inputs: Iterable[tuple[str, Path]]) -> None:
    flag = output.flag
    for other, given in inputs:
        if _same(path, given):
            raise ValueError(
                f"{flag} {path} is the file of {other} and would replace it; name another file"
            )
        if not output.continued and _replaces_input(path, given, output.json_inputs):
            raise ValueError(
                f"{flag} {path} already exists among the files of {other} {given}; name a new file"
            )


def _outputs(args: argparse.Namespace) -> Iterator[tuple[Output, Path]]:
    """Yield the record and path of every output."""
    for name, output in getattr(args, "outputs", {}).items():
        if (path := getattr(args, name)) is not None:
            yield output, path


def _inputs(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Yield the flag and path of every input on the command line."""
    for name, flag in getattr(args, "inputs", {}).items():
        given = getattr(args, name)
        paths = given if isinstance(given, list) else [given]
        yield from ((flag, Path(path)) for path in paths if path is not None)
    flag = ""
    for word in args.overrides:  # --data.root DIR or --data.root=DIR
        if word.startswith("--"):
            flag, _, word = word.partition("=")  # noqa: PLW2901
        if word and _exists(word):
            yield flag, Path(word)


def check_place(flag: str, path: Path) -> None:
    """Reject a path at which no file can be written.

    Raises:
        ValueError: it is a folder or a special file, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder; name a file to write")
    if path.exists() and not path.is_file():
        raise ValueError(f"{flag} {path} is not a regular file; name a file to write")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ValueError(f"{flag} {path}: {parent} is not a folder; name a file in a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{flag} {path}: no permission to write in {parent}; name another folder")


def _exists(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # too long for a file name
        return False


def _same(path: Path, other: Path) -> bool:
    """Return whether two paths are the same file, which may not exist yet."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def _below(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _replaces_input(path: Path, folder: Path, json_inputs: str | None) -> bool:
    """Return whether a path is an existing file that may be read from a folder."""
    report = path.suffix.lower() == ".json" and path.parent.name != json_inputs
    return path.exists() and not report and folder.is_dir() and _below(path, folder)
