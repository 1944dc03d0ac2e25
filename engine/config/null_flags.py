"""Flags that set an argument of a class inside a class to null."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_NESTED = re.compile(r"--(\w[\w.]*\.init_args\.[\w.]*\.init_args\.[\w.]+)")


def null_flags_as_files(args: list[str], folder: Path) -> list[str]:
    """Turn ``--a.init_args.b.init_args.c null`` into ``--config FILE`` in the same place.

    jsonargparse 4 reads null on its way to the inner class and hands on the text ``None``.

    Args:
        args: command line.
        folder: where to write the files.
    """
    words: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        nested = _NESTED.fullmatch(flag)
        if nested is None or (value if equals else next(iter(rest), None)) != "null":
            words.append(word)
            continue
        if not equals:
            rest.pop(0)
        content: Any = None
        for key in reversed(nested[1].split(".")):
            content = {key: content}
        file = folder / f"null_{len(words)}.yaml"
        file.write_text(yaml.safe_dump(content))
        words += ["--config", str(file)]
    return words
