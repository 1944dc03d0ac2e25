"""Commands of `evaluate.py` that give the numbers of a report again."""

from __future__ import annotations

from collections.abc import Sequence

from engine.reports.bags import BagRun
from engine.reports.images import ImageRun

Words = dict[str, list[object]]


def image_commands(
    found: Sequence[ImageRun], *, cap: int, draws: int, seed: int, bad_data: str
) -> list[Words]:
    """Return what a number comes from -> words after ``python evaluate.py``, for each run.

    Args:
        found: runs on images, the reference first.
        cap: detections per image that count.
        draws: draws of the bootstrap.
        seed: seed of the bootstrap.
        bad_data: how faulty records are handled.
    """
    truth: list[object] = ["--annotations", found[0].annotations]
    if bad_data != "error":
        truth += ["--bad-data", bad_data]
    caps: list[object] = [] if cap == 100 else ["--max-dets", cap]
    drawn: list[object] = ["--draws", draws, "--seed", seed]
    commands = []
    for one in found:
        given: list[object] = ["coco", "--predictions", one.predictions, *truth, *caps]
        words: Words = {"metrics, errors and calibration": [*given, "--errors", "--per-class"]}
        if one is not found[0]:
            pair: list[object] = ["--predictions", one.predictions, found[0].predictions]
            words["differences"] = ["compare", *pair, *truth, *caps, *drawn]
        commands.append(words)
    return commands


def bag_commands(found: Sequence[BagRun], *, draws: int, seed: int, bad_data: str) -> list[Words]:
    """Return what a number comes from -> words after ``python evaluate.py``, for each run.

    Args:
        found: runs on bags, the reference first.
        draws: draws of the bootstrap.
        seed: seed of the bootstrap.
        bad_data: how faulty records are handled.
    """
    drawn: list[object] = ["--draws", draws, "--seed", seed]
    if bad_data != "error":
        drawn += ["--bad-data", "skip"]
    commands = []
    for one in found:
        task: list[object] = ["--task", "ordinal"] if one.found.task == "ordinal" else []
        words: Words = {"metrics": ["mil", "--predictions", one.table, *task, *drawn]}
        if one is not found[0]:
            pair: list[object] = ["--predictions", one.table, found[0].table]
            words["differences"] = ["compare", *pair, *task, *drawn]
        commands.append(words)
    return commands
