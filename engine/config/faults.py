"""All wrong keys and values of a configuration at once, where the parser stops at the first."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from engine.config.argv import config_files
from engine.config.explain import explain, faulty_key, is_missed
from structures.problem import SHOWN


def every_fault(parse: Callable[[list[str]], Any], words: Sequence[str], first: str) -> str:
    """Return one line for each fault that the parser can find, in the order it finds them.

    What it refused is taken out of copies of the files and out of the flags, and the rest is
    parsed again, without the section that now misses something.

    Args:
        parse: parses a command line and raises ArgumentError.
        words: the command line.
        first: what the parser said about it.
    """
    told = [explain(first, words)]
    if not faulty_key(first):
        return told[0]
    files = config_files(words)
    contents = [yaml.safe_load(file.read_text(encoding="utf-8-sig")) for file in files]
    if any(isinstance(value, str) for c in contents for value in _sections(c)):
        return told[0]  # sections in files of their own, relative to the one that names them
    rest, message = list(words), first
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder) / f"{number}.yaml" for number in range(len(files))]
        while len(told) < SHOWN:
            key = faulty_key(message)
            cut = [_without(content, key) for content in contents]
            flags = _without_flags(rest, key)
            if not key or (cut == contents and flags == rest):
                break
            contents, rest = cut, flags
            for file, content in zip(copies, contents, strict=True):
                file.write_text(yaml.safe_dump(content))
            try:
                parse(_renamed(rest, copies))
            except ArgumentError as error:
                message = str(error)
            else:
                break
            if not is_missed(message):  # it may have been taken out
                told.append(explain(message, words))
    return "\n".join(told)


def _sections(content: Any) -> list[Any]:
    return [content.get(name) for name in ("model", "data", "trainer", "callbacks", "checkpoint")]


def _without(content: Any, key: Sequence[str]) -> Any:
    """Return nested mappings without a key; any level may be wrapped in ``init_args``."""
    if not key or not isinstance(content, dict):
        return content
    name, *deeper = key
    content = copy.copy(content)
    if name in content:
        if deeper:
            content[name] = _without(content[name], deeper)
        else:
            del content[name]
    elif "init_args" in content:
        content["init_args"] = _without(content["init_args"], key)
    elif name == "init_args":
        return _without(content, deeper)
    return content


def _without_flags(words: Sequence[str], key: Sequence[str]) -> list[str]:
    """Return a command line without the flags that set a key."""
    plain = [part for part in key if part != "init_args"]
    kept: list[str] = []
    taken = False  # the value of a flag that was left out follows
    for word in words:
        if word.startswith("--"):
            flag, equals, _ = word[2:].partition("=")
            taken = [part for part in flag.split(".") if part != "init_args"] == plain
            if taken:
                taken = not equals
                continue
        elif taken:
            taken = False
            continue
        kept.append(word)
    return kept


def _renamed(words: Sequence[str], files: Sequence[Path]) -> list[str]:
    """Return a command line that names other configuration files, in the same order."""
    names = iter(map(str, files))
    renamed: list[str] = []
    for word in words:
        if word.startswith("--config="):
            renamed.append(f"--config={next(names)}")
        elif renamed and renamed[-1] in ("--config", "-c"):
            renamed.append(next(names))
        else:
            renamed.append(word)
    return renamed
