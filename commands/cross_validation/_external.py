"""External sets of `evaluate.py mil-cv`: arguments, tables and files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from commands._arguments import add_allow_overlap, add_input, add_output
from commands._tables import show

if TYPE_CHECKING:
    from engine.cross_validation.inputs import BagInputs
    from evaluation.mil.external import ExternalPredictions

_WITH_FOLDER = re.compile(r"(?P<table>.+\.csv):(?P<folder>.+)", re.IGNORECASE)


class ExternalArgument(NamedTuple):
    """A table or npz file, and the folder of the features where it is given.

    Attributes:
        data: the file.
        features: the folder, or None.
    """

    data: Path
    features: Path | None = None

    def __fspath__(self) -> str:
        """Return the path of the file, by which `check_outputs` protects it."""
        return str(self.data)


def external_set(text: str) -> ExternalArgument:
    """Return what ``T.csv``, ``T.csv:FEATURES`` or ``T.npz`` names; an argument type."""
    found = _WITH_FOLDER.fullmatch(text)
    if found is None or Path(text).exists():
        return ExternalArgument(Path(text))
    return ExternalArgument(Path(found["table"]), Path(found["folder"]))


def add_external(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of external sets."""
    add_input(
        parser,
        "--external",
        nargs="+",
        action="extend",
        type=external_set,
        metavar="T.csv[:FEATURES]",
        help="other sets of bags, npz files or tables, which the model of each fold and the mean "
        "of all models predict",
    )
    add_output(
        parser,
        "--save-external",
        metavar="DIR",
        folder=lambda _: "the predictions of external sets",
        help="write the mean predictions for the bags of each external set, as bags.csv",
    )
    add_allow_overlap(parser)


def external_inputs(args: argparse.Namespace) -> tuple[BagInputs, ...]:
    """Return the files of the external sets.

    Raises:
        ValueError: an option has no effect without them, or a file that would be written is an
            input.
    """
    from engine.cross_validation.inputs import BagInputs

    sets: Sequence[ExternalArgument] = args.external or ()
    if not sets:
        for name in ("save_external", "allow_overlap"):
            if getattr(args, name):
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} has an effect with --external alone; leave it out")
    for one in sets:
        if one.features is not None and not one.features.is_dir():
            raise ValueError(
                f"--external {one.data}:{one.features}: no folder {one.features}; name the folder "
                "of the features after the colon"
            )
    inputs = [args.data, *(one.data for one in sets)]
    for path in _paths(args.save_external, sets):
        if any(path.exists() and path.samefile(given) for given in inputs if given.exists()):
            raise ValueError(f"--save-external would replace the input {path}; name another folder")
    return tuple(BagInputs(one.data, one.features) for one in sets)


def _paths(folder: Path | None, sets: Sequence[Any]) -> Iterator[Path]:
    """Yield the file to write for each set: its name, with a number if another set has it too."""
    names: list[str] = []
    for one in sets:
        name = Path(one.data).stem
        names.append(name)
        number = names.count(name)
        if folder is not None:
            yield folder / f"{name}{'' if number == 1 else f'_{number}'}_bags.csv"


def show_external(args: argparse.Namespace, found: Sequence[ExternalPredictions]) -> dict[str, Any]:
    """Print the scores of each external set, write predictions, and return the record."""
    record: dict[str, Any] = {}
    for one in found:
        record[one.name] = entry = one.record(seed=args.seed or 0)
        ensemble = entry["ensemble"]
        rows = [
            (n, v["mean"], v["std"], ensemble["metrics"][n], *ensemble["intervals"][n])
            for n, v in entry["metrics"].items()
        ]
        count = len(one.models)
        columns = ["metric", "mean", "std over models", "ensemble", "2.5 %", "97.5 %"]
        show(f"external {one.name}: {entry['bags']} bags, {count} models", columns, rows)
        for note in ensemble["notes"]:
            print(f"note: {note}")
    for path, one in zip(_paths(args.save_external, args.external or ()), found, strict=False):
        from evaluation.mil.external_files import write_external

        write_external(path, one)
        print(f"written: {path}")
    return record
