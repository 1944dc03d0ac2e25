"""Results of two cross-validations that cannot be paired."""

import json
from pathlib import Path

from tests.faults.case import Case

_TABLE = "fold,bag_id,label,score\n0,a,1,0.9\n0,b,0,0.2\n1,c,1,0.7\n1,d,0,0.4\n"
_RECORD = {
    "metrics": {"bag_auroc": {"mean": 0.8, "std": 0.1, "folds": [0.7, 0.9]}},
    "files": {"recipe.yaml": "1", "bags.npz": "2"},
    "seed": 0,
    "repeats": 1,
}


def case(name: str, files: dict[str, str], *expected: str, words: tuple[object, ...] = ()) -> Case:
    """Compare two files."""

    def build(folder: Path) -> list[object]:
        for file, content in files.items():
            (folder / file).write_text(content)
        return ["evaluate", "compare", "--predictions", *(folder / f for f in files), *words]

    return Case("cross-validations compared", name, build, expected)


def _record(**changes: object) -> str:
    return json.dumps(_RECORD | changes)


CASES = [
    case("a bag in another fold", {"a.csv": _TABLE, "b.csv": _TABLE.replace("1,c", "0,c")},
         "fold 0 of repeat 0", "--seed"),
    case("another label", {"a.csv": _TABLE, "b.csv": _TABLE.replace("d,0", "d,1")}, "fold 1"),
    case("a line without fold", {"a.csv": _TABLE, "b.csv": _TABLE.replace("1,d", ",d")},
         "b.csv", "line 5", "fold is missing"),
    case("one table without folds", {"a.csv": _TABLE, "b.csv": "bag_id,label,score\na,1,0.9\n"},
         "b.csv is not", "fold"),
    case("a result and a table", {"a.json": _record(), "b.csv": _TABLE}, "JSON of both"),
    case("another seed", {"a.json": _record(), "b.json": _record(seed=1)}, "another seed"),
    case("other data", {"a.json": _record(), "b.json": _record(files={"c.npz": "3"})},
         "other data"),
    case("a result of an earlier version", {"a.json": _record(), "b.json": _record(repeats=None)},
         "b.json", "mil-cv --out"),
    case("a threshold", {"a.csv": _TABLE, "b.csv": _TABLE}, "--threshold",
         words=("--threshold", 0.4)),
]  # fmt: skip
