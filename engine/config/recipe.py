"""Recipes: YAML files merged in order, and overrides from the command line.

All commands with ``--config`` read their files here: `train.py`, ``check-data``, ``mil-cv`` and
``mil-assumptions``. Types, defaults and links are handled by the parser: the first two commands
pass it their command line, the others the sections that they use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from engine.config.files import check_config_file

_IN_FILES = ("model", "data", "trainer", "checkpoint", "callbacks")  # may name a separate file
_FLAGS = ("model", "data", "trainer", "checkpoint", "early_stopping")
_LR = ["model", "optimizer", "lr"]


class Recipe(NamedTuple):
    """A recipe with overlay files and command-line overrides.

    Attributes:
        files: the recipe, then overlays; later ones win, dictionaries merge, lists are replaced.
        overrides: words such as ``--model.init_args.optimizer.init_args.lr 1e-4``; they take
            precedence over the files. ``init_args`` may be omitted.
    """

    files: tuple[Path, ...]
    overrides: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Path | Recipe) -> Recipe:
        """Return a single file as a recipe."""
        return config if isinstance(config, Recipe) else cls((Path(config),))

    @classmethod
    def of_words(cls, words: Sequence[str]) -> Recipe:
        """Split a command line into the files given by ``--config`` and the other words."""
        files, others, rest = [], [], list(words)
        while rest:
            word = rest.pop(0)
            if word in ("--config", "-c") and rest:
                files.append(Path(rest.pop(0)))
            elif word.startswith("--config="):
                files.append(Path(word.removeprefix("--config=")))
            else:
                others.append(word)
        return cls(tuple(files), tuple(others))

    def __str__(self) -> str:
        """Return the names of the files, for messages."""
        return " + ".join(map(str, self.files))

    @property
    def words(self) -> str:
        """Files and overrides as they were given."""
        return " ".join(map(str, [*self.files, *self.overrides]))

    def contents(self) -> list[dict[str, Any]]:
        """Return the content of each file, with sections in separate files filled in.

        Raises:
            ValueError: a file is invalid, see `check_config_file`.
        """
        contents = [check_config_file(file) for file in self.files]
        for file, content in zip(self.files, contents, strict=True):
            for name in _IN_FILES:
                other = content.get(name)
                if isinstance(other, str) and other.endswith((".yaml", ".yml")):
                    content[name] = check_config_file(file.parent / other)
        return contents

    def check(self, *, trains: bool) -> None:
        """Check the files, and that a torch optimizer is given a learning rate.

        Args:
            trains: whether the recipe is trained. Then a torch optimizer needs its learning rate
                in a file or a flag, because torch's own default suits no recipe.

        Raises:
            ValueError: a file is invalid, or the learning rate is missing.
        """
        optimizers = [o for c in self.contents() if isinstance(o := _optimizer(c), Mapping)]
        named = [str(o["class_path"]) for o in optimizers if o.get("class_path")]
        given = any("lr" in (o.get("init_args") or {}) or "lr" in o for o in optimizers)
        given = given or any(_flag_path(word) == _LR for word in self.overrides)
        if trains and named and named[-1].startswith("torch.optim.") and not given:
            raise ValueError(
                f"{named[-1]} has no learning rate; write model.init_args.optimizer.init_args.lr"
            )

    def section(self, name: str, *, optional: bool = False) -> dict[str, Any]:
        """Return a section, such as ``model``, with overlays and overrides applied.

        Args:
            name: name of the section.
            optional: whether a recipe without the section is allowed; the result is then empty.

        Raises:
            ValueError: a file is missing or invalid, the section is missing, or an overlay names
                another class or an invalid flag.
        """
        result: dict[str, Any] = {}
        for file, content in zip(self.files, self.contents(), strict=True):
            section = content.get(name)
            if section is not None and not isinstance(section, dict):
                raise ValueError(f"{file}: the section '{name}' must be a mapping or a file")
            result = overlaid(result, section or {}, f"{file}: {name}")
        if not result and not optional:
            raise ValueError(f"{self}: a recipe needs the section '{name}'")
        for path, value in self.values():
            if path[0] == name:
                inner = _nested(result, path[1:], value)
                result = overlaid(result, inner, f"--{'.'.join(path)}")
        return result

    def values(self) -> Iterator[tuple[list[str], Any]]:
        """Yield the path and value of each override.

        Raises:
            ValueError: a word is not a flag of a section, or a flag has no value.
        """
        rest = list(self.overrides)
        while rest:
            flag, equals, value = rest.pop(0).partition("=")
            path = flag.removeprefix("--").split(".")
            if not flag.startswith("--") or len(path) < 2 or path[0] not in _FLAGS:
                raise ValueError(
                    f"unrecognized argument {flag}; recipe flags are "
                    + ", ".join(f"--{name}.NAME VALUE" for name in _FLAGS)
                )
            if not equals and not rest:
                raise ValueError(f"{flag} needs a value")
            yield path, _value(flag, value if equals else rest.pop(0))

    def place_of(self, key: Sequence[str]) -> str | None:
        """Return the last flag or file that sets a nested key, which is the one in effect."""
        plain = [part for part in key if part != "init_args"]
        for word in reversed(self.overrides):
            if word.startswith("--") and _flag_path(word) == plain:
                return word.split("=")[0]
        for file in reversed(self.files):
            try:
                content = check_config_file(file)
            except ValueError:  # reported when the file is read for its content
                continue
            if _holds(content, list(key)):
                return str(file)
        return None


def overlaid(
    below: Mapping[str, Any], above: Mapping[str, Any], where: str, *, replace: bool = False
) -> dict[str, Any]:
    """Merge two mappings; ``above`` wins, and lists are replaced.

    Args:
        below: the base mapping.
        above: the overlay.
        where: source of ``above``, for messages.
        replace: whether a nested mapping of another class replaces the existing one.

    Raises:
        ValueError: the mappings name different classes, whose arguments would mix, and ``replace``
            is false.
    """
    old, new = below.get("class_path"), above.get("class_path")
    if None not in (old, new) and old != new:
        if replace:
            return dict(above)
        raise ValueError(f"{where}: {new} cannot be laid over {old}; write a separate recipe")
    merged = {**below, **above}
    for key in above:
        mine, value = below.get(key), above[key]
        if isinstance(mine, Mapping) and "class_path" in mine and isinstance(value, str):
            value = {"class_path": value}  # only the class is given
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            merged[key] = overlaid(mine, value, f"{where}.{key}", replace=replace)
    return merged


def take_flag(words: list[str], flag: str) -> tuple[list[str], str | None]:
    """Remove ``flag VALUE`` or ``flag=VALUE`` from a command line and return the value."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[:i] + words[i + 2 :], words[i + 1]
        if word.startswith(f"{flag}="):
            return words[:i] + words[i + 1 :], word.split("=", 1)[1]
    return words, None


def _flag_path(word: str) -> list[str]:
    """Return the nested key that a flag sets, without ``init_args``."""
    flag = word.partition("=")[0].lstrip("-")
    return [part for part in flag.split(".") if part != "init_args"]


def _value(flag: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{flag}: {text} is not valid YAML; fix its brackets or quotes") from None
    if isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-4 as a string
        except ValueError:
            return value
    return value


def _nested(section: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a nested mapping with a value at a path, adding ``init_args`` levels as needed."""
    if "class_path" in section and path[0] not in ("class_path", "init_args"):
        path = ["init_args", *path]
    key, rest = path[0], path[1:]
    inner = section.get(key)
    below = inner if isinstance(inner, dict) else {}
    return {key: _nested(below, rest, value) if rest else value}


def _optimizer(content: Any) -> Any:
    for key in ("model", "init_args", "optimizer"):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _holds(content: Any, path: Sequence[str]) -> bool:
    """Return whether nested mappings have a key; ``init_args`` levels may be omitted from it."""
    if not path:
        return True
    if not isinstance(content, Mapping):
        return False
    if path[0] in content:
        return _holds(content[path[0]], path[1:])
    return path[0] == "init_args" and _holds(content, path[1:])
