"""Processes that write cells of pretended models and are killed; run as a script with a folder.

``random``: killed ten times at random moments. ``calls``: killed before each call that opens,
renames or removes a file of the folder, one process for each. Both then let a last process finish
the table, and write as JSON what the tests count.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from evaluation.robustness.grid import places
from evaluation.robustness.kept import keep, kept_file, kept_folder, prepare_folder
from evaluation.robustness.names import BENCHMARK
from evaluation.robustness.writer import CellWriter, Origin
from evaluation.seg.coco_weighted import ClassMatches, Matches

MODELS = ("a", "b")
ORIGIN = Origin({name: f"hash of {name}" for name in MODELS}, data="d", seed=0)


def pretended(model, corruption, severity):
    """Return the metrics of a cell, different in each."""
    value = (len(corruption) * 7 + severity * 3 + ord(model)) % 97 / 97
    return {"segm_map": value, "segm_map_50": value / 3, "box_map": value / 7, "box_ar_1": 0.5}


def pretended_matches(model, corruption, severity):
    """Return the predictions of a cell, different in each: one detection in each of two images."""
    score = pretended(model, corruption, severity)["segm_map"]
    of_class = ClassMatches(
        np.arange(2),
        np.zeros(2, dtype=np.int64),
        np.array([score, score / 2]),
        np.ones((4, 10, 2), dtype=bool),
        np.zeros((4, 10, 2), dtype=bool),
        np.ones((4, 2), dtype=np.int64),
    )
    return [Matches("segm", (1, 10, 100), 2, (of_class,))]


def evaluate(folder, corruptions, severities, seconds=0.0):
    """Write the cells that are missing; predictions and finished cells go into a log."""
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    cells = folder / "cells.csv"
    with CellWriter(cells, ORIGIN) as table:
        prepare_folder(cells)
        for place in places(corruptions, severities):
            for model in MODELS:
                if (model, *place) not in table:
                    os.write(log, f"predicted {model} {place[0]} {place[1]}\n".encode())
                    time.sleep(seconds)
                    keep(kept_file(cells, model, place), pretended_matches(model, *place))
                    table.add(model, *place, pretended(model, *place))
                    os.write(log, f"written {model} {place[0]} {place[1]}\n".encode())


def fork(work):
    """Run ``work`` in a new process and return its id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return process


def killed_at(folder, call, work):
    """Run ``work`` in this process, killed before a call on the folder's files."""
    count = -1

    def hook(event, arguments):
        nonlocal count
        if event in {"open", "os.rename", "os.remove"} and str(folder) in str(arguments[0]):
            count += 1
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work()


def counted(folder):
    """Return the table and how often cells were predicted and written."""
    lines = folder.with_suffix(".log").read_text().splitlines()
    log = Counter(tuple(line.split(" ", 1)) for line in lines)
    by_word = {
        word: [n for (w, _), n in log.items() if w == word] for word in ("predicted", "written")
    }
    cells = folder / "cells.csv"
    kept = [path for path in kept_folder(cells).rglob("*") if path.is_file()]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(kept))).hexdigest()
    return {
        "kept": len(kept),
        "digest": digest,
        "table": cells.read_text(),
        "files": sorted(path.name for path in folder.iterdir()),
        "cells": len(by_word["predicted"]),
        "predictions": sum(by_word["predicted"]),
        "most_written": max(by_word["written"]),
    }


def ended(process):
    """Wait for a process; return whether it was killed, and fail if it failed."""
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "a process failed"
    return False


def lines_of(log):
    return log.read_bytes().count(b"\n") if log.exists() else 0


def at_random(root):
    """Kill a process at ten random moments: a while after its log has grown by some lines.

    Ten times 25 lines are fewer than the 304 of all cells, so that no process ends before, however
    fast it is.
    """
    folder, kills, drawn = root / "killed", 0, random.Random(0)
    log = folder.with_suffix(".log")
    work = lambda: evaluate(folder, BENCHMARK, (1, 2, 3, 4, 5), 0.001)  # noqa: E731
    for _ in range(10):
        awaited = lines_of(log) + drawn.randrange(1, 25)
        process = fork(work)
        while lines_of(log) < awaited:
            time.sleep(0.0005)
        time.sleep(drawn.uniform(0, 0.002))
        os.kill(process, signal.SIGKILL)
        kills += ended(process)
    unfinished = counted(folder)["table"].count("\n") != 1 + 76 * 2 * 3
    ended(fork(work))
    whole = root / "whole"
    evaluate(whole, BENCHMARK, (1, 2, 3, 4, 5))
    same = all(counted(folder)[key] == counted(whole)[key] for key in ("table", "digest"))
    return counted(folder) | {"kills": kills, "unfinished": unfinished, "same": same}


def at_calls(root):
    """Kill a process before each of its calls."""
    found = []
    for call in range(1000):
        folder = root / f"call{call}"
        work = lambda folder=folder: evaluate(folder, ["fog"], (5,))  # noqa: E731
        killed = ended(fork(lambda folder=folder, n=call, w=work: killed_at(folder, n, w)))
        if not killed:
            return found
        ended(fork(work))
        found.append(counted(folder))
    raise AssertionError("the process never ends")


if __name__ == "__main__":
    os.fsync = lambda _: None  # what a killed process has written is there without it
    place = Path(sys.argv[1])
    sys.stdout.write(json.dumps({"random": at_random(place), "calls": at_calls(place)}))
