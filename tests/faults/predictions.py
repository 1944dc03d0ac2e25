"""Broken prediction files: COCO results lists and tables of bags."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults import sets
from tests.faults.case import Case

NAN, INFINITE = float("nan"), float("inf")
_MASK = sets.results()[0]["segmentation"]


def results_case(name: str, content: bytes | str, *expected: str, command: str = "coco") -> Case:
    """Score a broken results file against valid annotations."""

    def build(folder: Path) -> list[object]:
        file, truth = folder / "found.json", folder / "truth.json"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        truth.write_text(json.dumps(sets.truth()))
        return ["evaluate", command, "--annotations", truth, "--predictions", file]

    return Case("COCO results", name, build, ("found.json", *expected))


def row_case(
    name: str, change: Callable[[dict[str, Any]], object], *expected: str, command: str = "coco"
) -> Case:
    """Break the second of two rows."""
    rows = sets.results()
    change(rows[1])
    return results_case(name, json.dumps(rows), "row 1", *expected, command=command)


def row(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda r: r.update(changes)


def mask(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda r: r.update(segmentation=_MASK | changes)


def _bare(r: dict[str, Any]) -> None:
    del r["bbox"], r["segmentation"]


_TEXT = json.dumps(sets.results())


def _missing(folder: Path) -> list[object]:
    (folder / "truth.json").write_text(json.dumps(sets.truth()))
    words = ["--annotations", folder / "truth.json", "--predictions", folder / "found.json"]
    return ["evaluate", "coco", *words]


RESULTS = [
    Case("COCO results", "missing file", _missing, ("found.json", "no such file")),
    results_case("empty file", "", "not valid JSON"),
    results_case("cut in half", _TEXT[: len(_TEXT) // 2], "not valid JSON"),
    results_case("cut between rows", _TEXT[: _TEXT.index(', {"image_id"')], "not valid JSON"),
    results_case("pickled list", b"\x80\x04]\x94}\x94\x8c\x08image_id\x94K\x0bs.", "JSON"),
    results_case("annotations instead", json.dumps(sets.truth()), "annotations file"),
    results_case("an object by image", json.dumps({"11": sets.results()}), "list of rows"),
    results_case("null", "null", "list of rows"),
    results_case("rows within rows", json.dumps([sets.results()]), "row 0", "object"),
    row_case("no image", lambda r: r.pop("image_id"), "image_id"),
    row_case("no category", lambda r: r.pop("category_id"), "category_id"),
    row_case("no score", lambda r: r.pop("score"), "score"),
    row_case("an unknown image", row(image_id=99), "99", "belong"),
    row_case("the number of an image", row(image_id=0), "image_id 0"),
    row_case("an image as text", row(image_id="12"), "'12'"),
    row_case("an image as file name", row(image_id="12.png"), "12.png"),
    row_case("an image null", row(image_id=None), "none"),
    row_case("an image as a list", row(image_id=[12]), "[12]"),
    row_case("an unknown category", row(category_id=5), "5", "ids of the data set"),
    row_case("a label from 0", row(category_id=0), "category_id 0", "ids of the data set"),
    row_case("a category as name", row(category_id="dot"), "'dot'"),
    row_case("a category true", row(category_id=True), "true"),
    row_case("score NaN", row(score=NAN), "nan", "finite"),
    row_case("score infinite", row(score=INFINITE), "inf", "finite"),
    row_case("score null", row(score=None), "score", "finite"),
    row_case("score as text", row(score="0.9"), "'0.9'", "finite"),
    row_case("score as a list", row(score=[0.9]), "score", "finite"),
    row_case("score true", row(score=True), "true", "finite"),
    row_case("score of 400 digits", row(score=10**400), "score", "finite"),
    row_case("neither box nor mask", _bare, "neither"),
    row_case("a box null", row(bbox=None), "bbox", "width, height"),
    row_case("a box of three numbers", row(bbox=[4, 4, 12]), "bbox"),
    row_case("a box with NaN", row(bbox=[4, 4, NAN, 12]), "bbox"),
    row_case("a box of texts", row(bbox=["4", "4", "12", "12"]), "bbox"),
    row_case("a box of negative height", row(bbox=[4, 4, 12, -12]), "negative"),
    row_case("polygons instead of a mask", row(segmentation=[[4, 4, 16, 4, 16, 16]]), "size"),
    row_case("a mask null", row(segmentation=None), "size"),
    row_case("a mask of half size", mask(size=[16, 16]), "[16, 16]", "[32, 32]"),
    row_case("a mask without counts", row(segmentation={"size": [32, 32]}), "counts"),
    row_case("a mask of one side", mask(size=[32]), "[32]"),
    row_case("a mask of sides as text", mask(size=["32", "32"]), "size"),
    row_case("a mask of negative size", mask(size=[-32, -32]), "[-32, -32]"),
    row_case("a mask that covers too little", mask(counts=[128, 64]), "192 of 1024"),
    row_case("a mask that covers too much", mask(counts=[128, 64, 900]), "1092 of 1024"),
    row_case("a mask with a negative run", mask(counts=[-1, 65, 960]), "mask"),
    row_case("a mask with runs of text", mask(counts=["128", "896"]), "mask"),
    row_case("a mask as broken text", mask(counts="\x01\x02"), "mask"),
    row_case("a mask as text cut short", mask(counts="P4"), "mask"),
    row_case("a mask as text beyond ASCII", mask(counts="\u2603"), "mask"),
    row_case("score null at a confidence", row(score=None), "score", command="operating-point"),
    row_case("an unknown image at a confidence", row(image_id=1), "image_id 1",
             command="operating-point"),
    row_case("a mask too short at a confidence", mask(counts=[3]), "3 of 1024",
             command="operating-point"),
    results_case("annotations at a confidence", json.dumps(sets.truth()), "annotations file",
                 command="operating-point"),
]  # fmt: skip

_HEAD = "bag_id,label,score\n"
_GOOD = _HEAD + "a,1,0.9\nb,0,0.2\nc,1,0.7\nd,0,0.4\n"


def table_case(name: str, content: bytes | str | None, *expected: str) -> Case:
    """Score a broken table of bags."""

    def build(folder: Path) -> list[object]:
        file = folder / "bags.csv"
        if content is not None:
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        return ["evaluate", "mil", "--draws", 10, "--predictions", file]

    return Case("bag CSV", name, build, ("bags.csv", *expected))


def _folder(folder: Path) -> list[object]:
    (folder / "bags.csv").mkdir()
    return ["evaluate", "mil", "--predictions", folder / "bags.csv"]


TABLES = [
    table_case("missing file", None, "no such file"),
    Case("bag CSV", "a folder", _folder, ("bags.csv",)),
    table_case("empty file", "", "column"),
    table_case("header only", _HEAD, "no bags"),
    table_case("no header", "a,1,0.9\nb,0,0.2\n", "bag_id"),
    table_case("no column of scores", "bag_id,label\na,1\nb,0\n", "score"),
    table_case("no column of labels", "bag_id,score\na,0.9\nb,0.2\n", "label"),
    table_case("no column of names", "label,score\n1,0.9\n0,0.2\n", "bag_id"),
    table_case("a column twice", "bag_id,label,score,score\na,1,0.9,0.1\nb,0,0.1,0.9\n", "score"),
    table_case("semicolons", _GOOD.replace(",", ";"), "bag_id"),
    table_case("tabs", _GOOD.replace(",", "\t"), "bag_id"),
    table_case("decimal commas", _HEAD + 'a,1,"0,9"\nb,0,"0,2"\n', "bag a", "0,9"),
    table_case("UTF-16 from a spreadsheet", _GOOD.encode("utf-16"), "UTF-8"),
    table_case("Latin-1 names", (_GOOD + "\u00e9,1,0.5\n").encode("latin-1"), "UTF-8"),
    table_case("a spreadsheet file", b"PK\x03\x04\x14\x00\x06\x00\xff\xfe" + bytes(64), "CSV"),
    table_case("zeros from a full disk", bytes(4096), "bags.csv"),
    table_case("a score missing", _GOOD + "e,1,\n", "bag e", "score"),
    table_case("a line cut short", _GOOD + "e,1", "bag e", "score"),
    table_case("a field too many", _GOOD + "e,1,0.5,0.5\n", "bag e"),
    table_case("a score NaN", _GOOD + "e,1,nan\n", "bag e", "[0, 1]"),
    table_case("a score infinite", _GOOD + "e,1,inf\n", "bag e", "[0, 1]"),
    table_case("a score above 1", _GOOD + "e,1,1.5\n", "bag e", "[0, 1]"),
    table_case("a logit", _GOOD + "e,0,-2.1\n", "bag e", "[0, 1]"),
    table_case("a score as text", _GOOD + "e,1,high\n", "bag e", "high"),
    table_case("a label missing", _GOOD + "e,,0.5\n", "bag e", "label"),
    table_case("a label as text", _GOOD + "e,tumour,0.5\n", "bag e", "tumour"),
    table_case("a label with a fraction", _GOOD + "e,0.5,0.5\n", "bag e", "0.5"),
    table_case("a label beyond the classes", _GOOD + "e,2,0.5\n", "bag e", "label"),
    table_case("labels -1 and 1", _GOOD + "e,-1,0.5\n", "bag e", "label"),
    table_case("a bag twice", _GOOD + "a,1,0.9\n", "bag a", "more than once"),
    table_case("a bag without a name", _GOOD + ",1,0.9\n", "bag_id"),
    table_case("scores of three classes with a gap",
               "bag_id,label,score_0,score_2\na,0,0.9,0.1\nb,1,0.2,0.8\n", "score_2", "gap"),
    table_case("scores of classes in another order",
               "bag_id,label,score_1,score_0\na,0,0.9,0.1\nb,1,0.2,0.8\n", "score_1", "order"),
    table_case("the score of class 0 alone", "bag_id,label,score_0\na,0,0.9\nb,1,0.1\n",
               "score_0"),
    table_case("labels of other classes than scores",
               "bag_id,label_0,label_1,score_0,score_2\na,0,1,0.9,0.1\n", "label_1"),
    table_case("a quote that is never closed", _GOOD + 'e,1,"0.5\n', "bags.csv"),
]  # fmt: skip


def compared_case(name: str, second: str, *expected: str) -> Case:
    """Compare a valid table of bags with a table that does not match it."""

    def build(folder: Path) -> list[object]:
        files = folder / "first.csv", folder / "second.csv"
        for file, content in zip(files, (_GOOD, second), strict=True):
            file.write_text(content)
        return ["evaluate", "compare", "--draws", 10, "--predictions", *files]

    return Case("bag CSVs compared", name, build, ("second.csv", *expected))


COMPARED = [
    compared_case("a bag is in one alone", _GOOD.replace("c,1,0.7\n", ""), "bag c", "only in"),
    compared_case("other bags", _HEAD + "x,1,0.9\ny,0,0.1\n", "bag a", "bag x"),
    compared_case("a label differs", _GOOD.replace("b,0", "b,1"), "bag b", "label is 1"),
    compared_case("a score missing", _GOOD + "e,1,\n", "bag e", "score"),
    compared_case("other classes", "bag_id,label,score_0,score_1\na,1,0.1,0.9\n", "multiclass"),
]

CASES = [*RESULTS, *TABLES, *COMPARED]
