"""Checks of configuration files that run before the parser reads them.

The YAML parser silently keeps the last of two equal keys, expands aliases until memory runs out,
and does not know the file name. The checks report each of these with file, line and remedy.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from engine.config.installed import recipes_place

_LARGEST = 100_000  # values of a configuration with its aliases expanded
_UNFIT = {  # callbacks of Lightning that cannot work, with the reason and the remedy
    "LearningRateFinder": "changes an attribute lr, but a rate belongs to the optimizer here; try "
    "values of --model.init_args.optimizer.init_args.lr instead, or a sweep (docs/wandb.md)",
    "BackboneFinetuning": "changes parameter groups that a schedule follows here; use instead "
    "--model.init_args.freeze or --model.init_args.backbone_lr_mult (docs/training.md)",
}
_OF_CLASSES = ("class_path", "init_args", "dict_kwargs")  # keys of a section with a class
_GROUPS = ("trainer", "checkpoint", "callbacks")


def check_config_file(file: Path) -> dict[str, Any]:
    """Return the content of a configuration file.

    Raises:
        ValueError: the file is missing, is not UTF-8 text or YAML, is empty or not a mapping,
            contains a key twice, or its aliases expand to too many values.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}; --config names a YAML recipe") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not UTF-8 text ({error}); save it as UTF-8") from None
    except RecursionError:
        raise ValueError(f"{file}: is nested too deeply; fix the file") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: is not valid YAML{_yaml_reason(error)}; fix the file") from None
    if node is None:
        raise ValueError(f"{file}: is empty; write keys with values, see {recipes_place()}")
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(
            f"{file}: its top level is not a mapping of keys to values; see {recipes_place()}"
        )
    if _size(file, node, {}) > _LARGEST:
        raise ValueError(f"{file}: its aliases expand to more than {_LARGEST} values; remove some")
    _check_groups(file, node)
    try:
        content: dict[str, Any] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: is not plain YAML{_yaml_reason(error)}; fix the file") from None
    return content


def check_values(config: Any, links: Mapping[str, str], *, trains: bool) -> None:
    """Reject values that the parser accepts but that fail later or are overridden.

    Args:
        config: the parsed configuration of a command.
        links: property of the data -> key below ``model`` that it sets.
        trains: whether the command is ``fit``.

    Raises:
        ValueError: a value is invalid, or no metric is named to select the best checkpoint.
    """
    for fact, target in links.items():
        if config.get(f"model.{target}") not in (None, _default(config, target)):
            raise ValueError(f"model.{target} is set from the data ({fact}); leave it out")
    together = config.trainer.accumulate_grad_batches
    if together < 1:
        raise ValueError(f"trainer.accumulate_grad_batches must be at least 1, got {together}")
    every = config.trainer.check_val_every_n_epoch
    if every is not None and every < 1:
        raise ValueError(f"trainer.check_val_every_n_epoch must be at least 1, got {every}")
    if trains and config.checkpoint.monitor is None and config.checkpoint.save_top_k != 0:
        raise ValueError(
            "checkpoint.monitor names no metric, so best.ckpt would be the last checkpoint; set "
            "it, for example to val/segm_map or val/bag_auroc, or set checkpoint.save_top_k: 0"
        )


def _default(config: Any, target: str) -> Any:
    """Return the default of an argument below ``model``, None if it has none."""
    from lightning_modules.rebuilding import class_of  # slow: only once a recipe is read

    section, _, argument = target.rpartition(".init_args.")
    named = class_of({"class_path": config.get(f"model.{section}.class_path")})
    found = None if named is None else inspect.signature(named).parameters.get(argument)
    return None if found is None or found.default is found.empty else found.default


def check_callbacks(callbacks: Iterable[Any]) -> None:
    """Reject callbacks of Lightning that need a module of another make.

    Args:
        callbacks: callbacks named by ``trainer.callbacks``.

    Raises:
        ValueError: a callback cannot work; the message says what does the same here.
    """
    for callback in callbacks:
        name = next((c.__name__ for c in type(callback).__mro__ if c.__name__ in _UNFIT), None)
        if name is not None:
            raise ValueError(f"trainer.callbacks: {name} {_UNFIT[name]}")


def check_monitors(callbacks: Iterable[Any], names: Sequence[str]) -> None:
    """Reject callbacks that monitor a metric that is never logged.

    Args:
        callbacks: callbacks of the trainer; callbacks without ``monitor`` are ignored.
        names: names of the logged metrics, with wildcards; empty if they are unknown.

    Raises:
        ValueError: a callback monitors a metric that is never logged.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor and names and not any(fnmatchcase(monitor, name) for name in names):
            hint = near_metrics(monitor, names) or f"logged are {', '.join(names)}"
            raise ValueError(
                f"{type(callback).__name__} monitors {monitor}, which is never logged; {hint}"
            )


_OTHER_NAMES = {"acc": "accuracy", "ap": "auprc", "auc": "auroc", "cindex": "c_index"}


def near_metrics(wrong: str, names: Sequence[str]) -> str:
    """Return the question whether similar metrics are meant, or an empty text without any.

    >>> near_metrics("val/AUROC", ["val/bag_auroc", "val/bag_f1"])
    'did you mean val/bag_auroc?'
    """
    split, slash, tail = wrong.lower().rpartition("/")
    tail = _OTHER_NAMES.get(tail, tail)
    near = get_close_matches(split + slash + tail, names, n=1, cutoff=0.8)
    if not near:  # the split, which most names share, would hide what differs
        tails = {name.rpartition("/")[2]: name for name in reversed(names) if "*" not in name}
        found = get_close_matches(tail, tails, n=3, cutoff=0.54)
        near = [tails[tail] for tail in found]
    return f"did you mean {' or '.join(near)}?" if near else ""


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = "" if mark is None else f" in line {mark.line + 1}"
    return f"{where} ({problem or str(error).splitlines()[0]})"


def _size(file: Path, node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values of a node with aliases expanded; reject duplicate keys.

    Args:
        file: the file, for messages.
        node: a node of the composed file; an alias is the same object as its anchor.
        sizes: known sizes by ``id(node)``, 0 while a node is being visited.
    """
    known = sizes.get(id(node))
    if known is not None:
        if known == 0:
            raise ValueError(f"{file}: an alias refers to a node that contains it; write it out")
        return known
    sizes[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(file, node)
        parts = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    total = 1 + sum(_size(file, part, sizes) for part in parts)
    sizes[id(node)] = total
    return total


def _check_keys(file: Path, node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in seen:  # A83
            raise ValueError(
                f"{file}: the key {name} of line {seen[name]} is repeated in line {line}; keep one"
            )
        seen[name] = line
    _check_class(file, seen)


def _check_class(file: Path, lines: Mapping[str, int]) -> None:
    """Reject an unknown key beside ``class_path`` and ``init_args``, for which the parser has none.

    Args:
        file: the file, for messages.
        lines: key of a mapping -> its line.
    """
    near = {key: get_close_matches(key, _OF_CLASSES[:2], n=1, cutoff=0.85) for key in lines}
    if not any(near.values()):  # no section of a class
        return
    for key, line in lines.items():
        if key not in _OF_CLASSES:
            advice = near[key][0] if near[key] else f"below init_args: {key}"
            raise ValueError(
                f"{file}: unknown key {key} in line {line}, beside which a class has "
                f"{' and '.join(_OF_CLASSES[:2])} alone; did you mean {advice}?"
            )


def _check_groups(file: Path, node: yaml.MappingNode) -> None:
    for key, value in node.value:
        if key.value in _GROUPS and isinstance(value, yaml.SequenceNode | yaml.ScalarNode):
            named = isinstance(value, yaml.ScalarNode) and value.value.endswith((".yaml", ".yml"))
            if not named and value.tag != "tag:yaml.org,2002:null":
                raise ValueError(
                    f"{file}: {key.value} in line {key.start_mark.line + 1} is not a mapping of "
                    f"keys to values; see {recipes_place()}_base/trainer.yaml"
                )
