"""Typical mistakes of first users in tables of slides and their feature files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.faults import features, sets
from tests.faults.case import Case


def _table_of(text: str) -> Callable[[Path], list[object]]:
    """Check a table of slides whose text is changed."""

    def words(folder: Path) -> list[object]:
        _, place = features.write_set(folder)
        (folder / "slides.csv").write_text(text)
        recipe = ["evaluate", "check-data", "--config", "configs/mil/abmil_features.yaml"]
        return [*recipe, "--data.table", folder / "slides.csv", "--data.features", place]

    return words


def _rows(head: str, *columns: Callable[[dict[str, Any]], object]) -> str:
    rows = [",".join(str(column(row)) for column in columns) for row in features.lines()]
    return "\n".join([head, *rows]) + "\n"


def _slide(row: dict[str, Any]) -> object:
    return row["slide_id"]


def _labels_of(
    *labels: str, command: Callable[[Path], list[object]]
) -> Callable[[Path], list[object]]:
    """Check or train on slides with these labels."""

    def words(folder: Path) -> list[object]:
        place = folder / "features"
        place.mkdir()
        rows = [f"s{k},{label}\n" for k, label in enumerate(labels)]
        for k in range(len(labels)):
            np.save(place / f"s{k}.npy", np.zeros((2, 4), np.float32))
        (folder / "slides.csv").write_text("slide_id,label\n" + "".join(rows))
        return command(folder)

    return words


def _checked(folder: Path) -> list[object]:
    recipe = ["evaluate", "check-data", "--config", "configs/mil/abmil_features.yaml"]
    return [*recipe, "--data.table", folder / "slides.csv"]


def _trained(folder: Path) -> list[object]:
    return ["train", "fit", *_checked(folder)[2:], *sets.ONE_STEP, *sets.CPU]


_ONE_OFF = ["tumuor", *["normal"] * 5, *["tumor"] * 10]
_TWO_CASES = ["luad", "luad", *["LUAD"] * 6, *["lusc"] * 8]


def _misspelt(name: str, command: Callable[[Path], list[object]]) -> Case:
    expected = ("slides.csv", "slide s0", "line 2", "'tumuor' (1 slide) is almost 'tumor' (10",
                "write 'tumor'", "--data.class_names")  # fmt: skip
    return Case("mistake", name, _labels_of(*_ONE_OFF, command=command), expected)


def _model(folder: Path) -> list[object]:
    words = _table_of(_rows("slide_id,label", _slide, lambda r: r["label"]))(folder)
    torch.save(torch.nn.Linear(4, 2), folder / "features" / "s1.pt")
    return words


CASES = [
    Case("mistake", "a column that is called slide",
         _table_of(_rows("slide,label", _slide, lambda r: r["label"])),
         ("slides.csv", "slide_id is missing", "rename column slide to slide_id")),
    Case("mistake", "a column that is called case_id",
         _table_of(_rows("case_id,label", _slide, lambda r: r["label"])),
         ("slides.csv", "slide_id is missing", "has case_id, label", "slide_id,patient_id,label")),
    Case("mistake", "columns of survival",
         _table_of(_rows("slide_id,time,event", _slide, lambda _: 7, lambda _: 1)),
         ("slides.csv", "label")),
    _misspelt("a label misspelt in one row, checked", _checked),
    _misspelt("a label misspelt in one row, trained", _trained),
    _misspelt("a label misspelt in one row, cross-validated", features.crossed),
    Case("mistake", "luad beside LUAD", _labels_of(*_TWO_CASES, command=_checked),
         ("slides.csv", "'LUAD' (6 slides)", "'luad' (2 slides)",
          "write one class in one way", "--data.class_names")),
    Case("mistake", "a model in the place of features", _model, ("s1.pt",)),
]  # fmt: skip
