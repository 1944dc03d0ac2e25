"""Broken times, values and grades of bags."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults import sets
from tests.faults.case import Case

_RECIPES = "configs/mil/abmil_{}.yaml"


def _table(
    head: str, *rows: str, task: str = "cox", more: tuple[object, ...] = (), start: str = "check"
) -> Callable[[Path], list[object]]:
    """Check, train or cross-validate a table of slides with these columns and rows."""

    def words(folder: Path) -> list[object]:
        place = folder / "features"
        place.mkdir()
        for k in range(len(rows)):
            np.save(place / f"s{k}.npy", np.zeros((2, 4), np.float32))
        lines = [f"slide_id,{head}", *(f"s{k},{row}" for k, row in enumerate(rows))]
        table = folder / "slides.csv"
        table.write_text("\n".join(lines) + "\n")
        recipe = ["--config", _RECIPES.format(task), *more]
        if start == "cv":
            return ["evaluate", "mil-cv", *recipe, "--data", table, "--folds", 2]
        if start == "fit":
            return ["train", "fit", *recipe, "--data.table", table, *sets.ONE_STEP, *sets.CPU]
        return ["evaluate", "check-data", *recipe, "--data.table", table]

    return words


_TIMES = ("3,1", "5,0", "2,1", "7,0", "9,1", "1,0", "4,1", "8,0")


def _changed(row: str, **more: object) -> Callable[[Path], list[object]]:
    return _table("time,event", row, *_TIMES[1:], **more)  # type: ignore[arg-type]


def _npz(
    task: str, more: tuple[object, ...] = (), **arrays: object
) -> Callable[[Path], list[object]]:
    """Train on an npz file of eight bags with these arrays."""

    def words(folder: Path) -> list[object]:
        bags = {"X": np.zeros((16, 3), np.float32), "bag_index": np.repeat(np.arange(8), 2)}
        np.savez(folder / "bags.npz", **bags, **arrays)  # type: ignore[arg-type]
        overlay = ["--config", f"configs/_base/task/{task}.yaml"]
        recipe = ["--config", "configs/mil/abmil.yaml", *overlay, *more]
        fit = ["train", "fit", *recipe, "--data.file", folder / "bags.npz"]
        return [*fit, *sets.ONE_STEP, *sets.CPU]

    return words


_VALUES = ("--data.target_columns", "[tmb]")
_EIGHT = np.array([3, 5, 2, 7, 9, 1, 4, 8.0])
_EVENTS = np.array([1, 0, 1, 0, 1, 0, 1, 0])

CASES = [
    Case("target", "a negative time", _changed("-3,1"),
         ("slides.csv", "slide s0", "line 2", "time is '-3'", "at least 0")),
    Case("target", "a time that is no number", _changed("nan,1"),
         ("slide s0", "time is 'nan'", "at least 0")),
    Case("target", "a time in words", _changed("alive,1", start="fit"),
         ("slide s0", "time is 'alive'", "remove the line")),
    Case("target", "an empty time", _changed(",1", start="cv"), ("slide s0", "time is empty")),
    Case("target", "an event of 2", _changed("3,2", task="discrete_time"),
         ("slide s0", "line 2", "event is '2'", "1 if the event happened")),
    Case("target", "events in words", _changed("3,dead"), ("event is 'dead'", "0 if the time is")),
    Case("target", "no event", _table("time,event", *[f"{k + 1},0" for k in range(8)]),
         ("none of the 8 bags has an event", "check the column event")),
    Case("target", "flags of censoring read as events, all censored",
         _table("time,censored", *[f"{k + 1},1" for k in range(8)],
                more=("--data.censorship_column", "censored")),
         ("none of the 8 bags has an event", "column censored", "1 is a censored time")),
    Case("target", "no event among the training slides",
         _table("time,event,split", "1,0,train", "2,0,train", "3,0,train", "4,1,val", "5,1,test",
                start="fit"),
         ("slides.csv", "none of the 3 training bags has an event")),
    Case("target", "no event outside a fold",
         _table("time,event,fold", *[f"{k + 1},{k % 2},{k % 2}" for k in range(8)], start="cv"),
         ("fold 1", "none of the 4 training bags has an event")),
    Case("target", "a patient with two times",
         _table("patient_id,time,event", "p,3,1", "p,5,1", *[f"{t[0]},{t}" for t in _TIMES],
                more=("--data.bag", "patient")),
         ("patient p", "time 3, event 1 (s0)", "time 5, event 1 (s1)", "one label")),
    Case("target", "the largest time of a patient",
         _changed("3,1", more=("--data.bag", "patient", "--data.patient_label", "max")),
         ("patient_label max", "cox", "patient_label: same")),
    Case("target", "no column of times", _table("os_time,event", *_TIMES),
         ("slides.csv", "column time is missing", "os_time", "time_column")),
    Case("target", "no column of events", _table("time,status", *_TIMES),
         ("column event is missing", "event_column or censorship_column")),
    Case("target", "an unknown column of times",
         _changed("3,1", more=("--data.time_column", "os_days"), start="cv"),
         ("slides.csv", "column os_days is missing", "time, event")),
    Case("target", "events and flags of censoring",
         _changed("3,1", more=("--data.event_column", "event", "--data.censorship_column", "c")),
         ("event_column event", "censorship_column c", "one of them")),
    Case("target", "more bins than events",
         _table("time,event", *["3,1"] * 8, *["9,0"] * 8, task="discrete_time", start="fit"),
         ("time_bins", "fewer bins")),
    Case("target", "no bins",
         _changed("3,1", task="discrete_time", more=("--data.time_bins", "0")),
         ("time_bins", "at least 1")),
    Case("target", "no column of values", _table("tmb", *map(str, range(8)), task="regression"),
         ("target_columns", "[tmb]")),
    Case("target", "an unknown column of values",
         _table("tmbs", *map(str, range(8)), task="regression", more=_VALUES),
         ("column tmb is missing", "did you mean tmbs")),
    Case("target", "a value in words",
         _table("tmb", "high", *map(str, range(8)), task="regression", more=_VALUES),
         ("slide s0", "tmb is 'high'", "empty")),
    Case("target", "a constant value",
         _table("tmb", *["4"] * 8, task="regression", more=_VALUES, start="cv"),
         ("target tmb has only the value 4", "target_columns")),
    Case("target", "a value without numbers",
         _table("tmb,a", *[f",{k}" for k in range(8)], task="regression", more=_VALUES),
         ("target tmb has no known value",)),
    Case("target", "grades in words without an order",
         _table("label", *["low", "high"] * 4, task="ordinal"),
         ("label", "high, low", "--data.class_names")),
    Case("target", "values as classes", _changed("3,1", more=("--data.label_columns", "[time]")),
         ("label_columns", "cox", "leave it out")),
    Case("target", "weights of classes",
         _changed("3,1", more=("--data.sampler", "weighted", "--data.class_weights", "[1, 2]")),
         ("class_weights", "class_balanced")),
    Case("target", "npz: a negative time",
         _npz("discrete_time", time=np.where(_EIGHT == 7, -7, _EIGHT), event=_EVENTS),
         ("bags.npz", "bag 3", "time is -7", "at least 0")),
    Case("target", "npz: an event of 2",
         _npz("discrete_time", time=_EIGHT, event=np.where(_EIGHT == 5, 2, _EVENTS)),
         ("bag 1", "event is 2", "0 if the time is censored")),
    Case("target", "npz: no event", _npz("cox", time=_EIGHT, event=_EVENTS * 0),
         ("none of the 8 bags has an event",)),
    Case("target", "npz: no times", _npz("cox", y=_EVENTS), ("time, event is missing", "cox")),
    Case("target", "npz: events of fewer bags", _npz("cox", time=_EIGHT, event=_EVENTS[:5]),
         ("(8,)", "(5,)")),
    Case("target", "npz: names of fewer values",
         _npz("regression", y=np.stack([_EIGHT, -_EIGHT], 1), target_names=np.array(["a"])),
         ("target_names", "2 columns")),
    Case("target", "npz: an unknown value",
         _npz("regression", ("--data.target_columns", "[b]"), y=_EIGHT[:, None],
              target_names=np.array(["a"])),
         ("no target b", "targets a")),
    Case("target", "npz: a constant value",
         _npz("regression", y=np.ones((8, 1)), target_names=np.array(["a"])),
         ("target a has only the value 1",)),
]  # fmt: skip
