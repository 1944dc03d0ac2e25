"""One-line error messages for configurations: the key, its source and the allowed values.

jsonargparse describes a wrong value by all types that it tried, nested as deeply as the key. The
useful part is at the innermost level; this module extracts it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import re
from collections.abc import Sequence
from pathlib import Path

from engine.config.recipe import Recipe

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN = re.compile(r"Option '([^']+)' is not accepted")
_UNKNOWN_OPTION = re.compile(r"Subcommand '\w+' does not accept option '([^']+)'")
_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
_FLAGS = re.compile(r"unrecognized arguments: (.+)")
_TYPE = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$", re.MULTILINE)
_GIVEN = re.compile(r"^\s*Given value: (.*)$", re.MULTILINE)
_OWNERS = {
    "trainer": "pytorch_lightning.Trainer",
    "checkpoint": "pytorch_lightning.callbacks.ModelCheckpoint",
    "callbacks": "callbacks.standard.StandardCallbacks",
}
_TOP_LEVEL = ["model", "data", "trainer", "checkpoint", "callbacks", "wandb", "ema",
              "early_stopping", "name", "runs_dir", "seed_everything", "ckpt_path",
              "config"]  # fmt: skip
_SHOWN = 12
_CALLABLE = r"(Type \S*Callable)"  # an optimizer or a schedule
_MISLEADING = ("path ", "dot import path ", "<class 'torch.Tensor'>")  # types not worth suggesting


def explain(text: str, arguments: Sequence[str] = ()) -> str:
    """Turn the parser's message into one line; any other message stays as it is.

    Args:
        text: the parser's message.
        arguments: the command line, which names the configuration files.
    """
    if text.startswith("argument "):  # an argument of the command line only
        return text
    if key := _unknown_option(text):
        return _unknown_key(key, len(key) - 1, arguments)
    if not text.startswith("Parser key"):
        return text
    path, owner = _place(text)
    if found := _UNKNOWN.search(text):
        return _unknown_key([*path, *found[1].split(".")], len(path), arguments, owner)
    return _wrong_value(text, path, arguments, owner)


def _unknown_option(text: str) -> list[str]:
    """Return the unknown key outside of any class, or an empty list."""
    found = _UNKNOWN_OPTION.search(text) or _FLAGS.search(text)
    if found is None:
        return []
    key = found[1].split()[0].split("=", maxsplit=1)[0].lstrip("-").split(".")
    return key[:2] if key[0] in _OWNERS else key[:1]


def _place(text: str) -> tuple[list[str], str | None]:
    """Return the nested key that the message is about and the class that owns its last part."""
    words: list[str] = []
    owner = None
    for match in re.finditer(f"{_KEY.pattern}|{_CLASS.pattern}|{_CALLABLE}", text):
        if match[1] is not None:
            words += match[1].split(".")
        elif match[3] is not None:
            named = re.search(r"class_path='([\w.]+)'", text[match.end() :])
            owner = named[1] if named else None
            words.append("init_args")
        else:
            owner = match[2]
            if not dataclasses.is_dataclass(_load(owner)):
                words.append("init_args")
    return words, owner


def _accepted(class_path: str | None) -> list[str]:
    """Return the names of the arguments of a class, including inherited ones."""
    from jsonargparse import ArgumentParser

    loaded = _load(class_path)
    if loaded is None:
        return []
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_class_arguments(loaded, "x")
    except (ValueError, TypeError):
        return []
    names = list(parser.get_defaults().keys())  # nested, joined by dots
    return sorted({name.split(".")[1] for name in names if "." in name})


def _load(class_path: str | None) -> type | None:
    module, _, name = (class_path or "").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return None


def _unknown_key(
    path: Sequence[str], depth: int, arguments: Sequence[str], owner: str | None = None
) -> str:
    """Return the message for an unknown key, ``path[depth]``, with the keys its owner accepts."""
    allowed = _accepted(owner or _OWNERS[path[0]]) if owner or depth else _TOP_LEVEL
    near = [name for name in allowed if name.startswith(path[depth])]  # a flag that is cut short
    named = [*allowed, "class_path", "init_args"] if owner or depth else allowed
    near = near[:1] or difflib.get_close_matches(path[depth], named, n=1)
    more = ", ..." if len(allowed) > _SHOWN else ""
    advice = (
        f"did you mean {near[0]}?" if near else f"known are {', '.join(allowed[:_SHOWN])}{more}"
    )
    key = ".".join(path[: depth + 1])
    return f"{_source(path, arguments)}unknown key {key}" + (f"; {advice}" if allowed else "")


def _wrong_value(
    text: str, path: Sequence[str], arguments: Sequence[str], owner: str | None
) -> str:
    path = path[:-1] if path[-1] == "init_args" else path  # it is the class itself that is wrong
    where = f"{_source(path, arguments)}{'.'.join(path)}"
    if found := _NO_CLASS.search(text):
        classes = _classes_of(found[1])
        near = difflib.get_close_matches(found[2], classes, n=1)
        advice = f"did you mean {classes[near[0]]}?" if near else f"it has {', '.join(classes)}"
        return f"{where}: there is no class {found[1]}.{found[2]}; {advice}"
    if found := _NO_MODULE.search(text):
        return f"{where}: there is no module {found[1]}; check class_path"
    if (found := _REQUIRED.search(text)) and owner and path[-1] == "callbacks":
        first, name = found[1].split(",")[0], owner.rpartition(".")[2]
        advice = f"--{'.'.join(path)}.{first} VALUE after the flag, or init_args in a recipe"
        return f"{where}: {name} lacks {found[1]}; give it by {advice}"
    if found := _REQUIRED.search(text):
        return f"{where} lacks {found[1]}; add it"
    allowed, given = _types(text)
    return f"{where} is {given}; allowed is {allowed}" if allowed else text


def _classes_of(module: str) -> dict[str, str]:
    """Return the dotted path of every class of a module or package, keyed by class name."""
    loaded = importlib.import_module(module)
    names = {name: f"{module}.{name}" for name in dir(loaded) if name[:1].isupper()}
    for folder in [] if names else getattr(loaded, "__path__", []):
        for file in sorted(Path(folder).rglob("*.py")):
            below = ".".join(file.relative_to(folder).with_suffix("").parts)
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    names[node.name] = f"{module}.{below}.{node.name}"
    return names


def _types(text: str) -> tuple[str, str]:
    """Return the allowed types of the innermost key and the value that was given."""
    start = list(_KEY.finditer(text))[-1]
    line = text[: start.start()].rpartition("\n")[2]
    depth = len(line) - len(line.lstrip())
    inner = text[start.end() :]
    if line and (outer := re.search(rf"\n {{0,{depth}}}\S", inner)):
        inner = inner[: outer.start()]  # the rest describes the enclosing keys
    names, given = [], ""
    for found in _TYPE.finditer(inner):
        names.append("" if found[1].startswith(_MISLEADING) else _readable(found[1]))
        given = given or (found[2] or "")
    values = [value.split(". Got value: ")[0] for value in _GIVEN.findall(inner)]
    if "Not a valid subclass of" in inner:
        names.insert(0, "a mapping with class_path and init_args")
    return " or ".join(dict.fromkeys(n for n in names if n)), given or (values[0] if values else "")


def _readable(name: str) -> str:
    if found := re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>", name):
        return {"NoneType": "null"}.get(found[1], found[1])
    if found := re.fullmatch(r"typing\.Literal\[(.+)\]", name):
        return found[1].replace("'", "")
    return name


def _source(path: Sequence[str], arguments: Sequence[str]) -> str:
    """Return the file or flag that sets a key, as a prefix for a message."""
    place = Recipe.of_words(arguments).place_of(path)
    return "" if place is None else f"{place}: "
