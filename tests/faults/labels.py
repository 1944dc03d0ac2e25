"""Labels of bags and of instances that cannot be meant, and faults that all slides share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.faults import sets
from tests.faults.bags import applied_case, array_case, fit_case, of
from tests.faults.case import Case
from tests.faults.features import SLIDES, arrays, column, file_case, h5, table_case, write_set
from tests.faults.features import crossed as crossed_slides


def columns_case(name: str, fields: dict[str, Any], data: dict[str, Any], *expected: str) -> Case:
    """Cross-validate slides with these columns; a letter of a text is a field."""

    def build(folder: Path) -> list[object]:
        write_set(folder)
        lines = [
            ",".join(["slide_id", *fields]),
            *(",".join(row) for row in zip(SLIDES, *fields.values(), strict=True)),
        ]
        (folder / "slides.csv").write_text("\n".join(lines))
        words = crossed_slides(folder)
        recipe = Path(str(words[words.index("--config") + 1]))
        content = yaml.safe_load(recipe.read_text())
        content["data"]["init_args"] |= {"sampler": "shuffle"} | data
        recipe.write_text(yaml.safe_dump(content))
        return words

    return Case("labels of slides", name, build, ("slides.csv", *expected))


def every_case(name: str, change: Callable[[str], dict[str, Any]], *expected: str) -> Case:
    """Cross-validate slides in h5 files whose arrays are all changed in one way."""

    def build(folder: Path) -> list[object]:
        _, place = write_set(folder)
        for file in place.iterdir():
            file.unlink()
        for slide in SLIDES:
            h5(**change(slide))(place / f"{slide}.h5")
        return crossed_slides(folder)

    return Case("one fault of all slides", name, build, expected)


CLASSES = {"er": "10101010", "pr": "11001100"}
BOTH = {"label_columns": ["er", "pr"]}

TABLES = [
    table_case("continuous labels", column("label", lambda k: f".{10 + 3 * k}"), "column label",
               ".10, .13, .16", "8 different ones", "whole numbers from 0"),
    table_case("continuous labels, some missing",
               column("label", lambda k: "NA" if k % 3 == 0 else f"{k}.5"), "column label", "1.5"),
    table_case("days of survival", column("label", lambda k: str(300 + 7 * k)),
               "8 x label", "slide s0", "label '300'", "classes"),
    columns_case("a column of labels that is missing", CLASSES,
                 {"label_columns": ["er", "pgr"]}, "column pgr of label_columns", "mean pr?"),
    columns_case("continuous labels in a named column", {"score": [f"{k}.5" for k in range(8)]},
                 {"label_columns": ["score"]}, "column score", "0.5"),
    columns_case("a column named twice", CLASSES, {"label_columns": ["er", "er"]}, "er twice"),
    columns_case("classes that are neither 0 nor 1", CLASSES | {"er": "12101010"}, BOTH,
                 "slide s1", "er is '2'", "use 1 if"),
    columns_case("exactly one class a slide", CLASSES | {"pr": "01010101"}, BOTH,
                 "exactly one of the classes er, pr", "task: multilabel"),
    columns_case("a class without a slide", CLASSES | {"pr": "00000000"}, BOTH, "class pr"),
    columns_case("several classes for a task of one", CLASSES, BOTH | {"task": "binary"},
                 "task binary", "multilabel"),
    columns_case("more columns than names", CLASSES, BOTH | {"class_names": ["a"]},
                 "2 label_columns, but 1 class_names"),
    columns_case("several classes without a label", {"label": ["a;b", "", *"ababab"]}, {},
                 "slide s1", "label is empty", "none of the classes"),
]  # fmt: skip


def _several_drawn_by_class(folder: Path) -> list[object]:
    write_set(folder)
    rows = [f"{slide},{'ab'[k % 2]};c" for k, slide in enumerate(SLIDES)]
    (folder / "slides.csv").write_text("\n".join(["slide_id,label", *rows]))
    return crossed_slides(folder)  # the recipe has sampler: class_balanced


SEVERAL = np.stack([np.arange(20) % 2, np.arange(20) % 3 == 0], axis=1).astype(int)

BAGS = [
    Case("labels of slides", "several classes drawn by class", _several_drawn_by_class,
         ("class_balanced", "several classes", "shuffle")),
    array_case("one-hot classes", of("y", lambda y: np.eye(2)[y]), "(20, 2)", "argmax"),
    array_case("classes as a column", of("y", lambda y: y[:, None]), "(20, 1)", "as (20,)"),
    array_case("several classes with a 2", lambda: {"y": SEVERAL * 2}, "bag 0", "bag 3",
               "label 2 for class"),
    array_case("several continuous labels", lambda: {"y": SEVERAL * 0.13}, "label 0.13 for class"),
    array_case("a class of several without a bag", lambda: {"y": SEVERAL * [1, 0]},
               "no bag has class 1"),
    fit_case("several classes for a task of one", {"y": SEVERAL}, ["--data.task", "binary"],
             "(20, 2)", "task binary"),
    fit_case("one class each for several", {}, ["--data.task", "multilabel"], "task multilabel",
             "zeros and ones"),
    applied_case("several classes for a checkpoint of one", lambda: {"y": SEVERAL}, "task binary"),
    array_case("instance labels of other instances", lambda: {"instance_labels": np.ones(59)},
               "instance_labels", "(59,)", "60 instances"),
    array_case("instance labels of a third kind", lambda: {"instance_labels": np.arange(60) % 3},
               "instance_labels has 2", "witness"),
    array_case("instance labels as text", lambda: {"instance_labels": np.full(60, "no")},
               "instance_labels", "number"),
]  # fmt: skip

INSTANCES = [
    file_case("instance labels of other instances", "s0.h5", h5(instance_labels=np.ones(4)),
              "slide s0", "(4,) for 5 instances", "one label per instance"),
    file_case("instance labels of a third kind", "s4.h5", h5(instance_labels=np.arange(5)),
              "slide s4", "instance_labels has 2 in row 2", "witness"),
    file_case("instance labels as text", "s0.h5", h5(instance_labels=np.array([b"no"] * 5)),
              "store numbers"),
]  # fmt: skip

SHARED = [
    every_case("another name of the features",
               lambda slide: {"features": None, "embeddings": arrays(slide)["features"]},
               "8 x no data set 'features'", "slide s2",
               "features_key"),
    every_case("a transposed array", lambda slide: {"features": arrays(slide)["features"].T},
               "8 x 5 coordinates for 4 instances", "slide s2"),
]  # fmt: skip


def _no_slide_has_a_file(folder: Path) -> list[object]:
    _, place = write_set(folder)
    for file in place.iterdir():
        file.rename(place / f"x_{file.name}")
    return crossed_slides(folder)


def _fit_continuous(folder: Path) -> list[object]:
    _, place = write_set(folder)
    rows = [f"{slide},.{10 + 3 * k}" for k, slide in enumerate(SLIDES)]
    (folder / "slides.csv").write_text("\n".join(["slide_id,label", *rows]))
    words = ["--data.table", folder / "slides.csv", "--data.features", place]
    return ["train", "fit", "--config", "configs/mil/abmil_features.yaml", *words, *sets.ONE_STEP]


CASES = [
    Case("labels of slides", "continuous labels in training", _fit_continuous,
         ("slides.csv", "column label", ".10, .13"), long=True),
    *TABLES, *BAGS, *INSTANCES, *SHARED,
    Case("one fault of all slides", "no slide has a file", _no_slide_has_a_file,
         ("8 x no feature file in", "slide s2")),
]  # fmt: skip
