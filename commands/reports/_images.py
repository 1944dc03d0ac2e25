"""Reports of runs on images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from commands._tables import progress_with_time
from commands.reports._parts import Report, by_run, shared_parts

if TYPE_CHECKING:
    from engine.reports.folder import RunFolder
    from engine.reports.images import ImageRun
    from evaluation.report.page.content import Reliability


def image_report(args: argparse.Namespace, runs: Sequence[RunFolder]) -> Report:
    """Return the report of runs on the same images.

    Raises:
        ValueError: the data of the runs differ, or are missing or faulty.
    """
    from engine.reports.commands import image_commands
    from engine.reports.images import ImageSource, read_image_run
    from evaluation.report.page.seg_page import find_errors, seg_page
    from evaluation.report.page.seg_scores import score_runs

    if args.data is not None:
        raise ValueError("--data names bags; name images by --annotations and --images")
    if args.images is not None and args.annotations is None:
        raise ValueError("--images are those of --annotations; add it")
    source = ImageSource(args.annotations, args.images, args.bad_data)
    found = [read_image_run(run, source) for run in runs]
    truth = common_truth(found)
    names = [run.name for run in runs]
    scores = score_runs(
        truth,
        {name: one.rows for name, one in zip(names, found, strict=True)},
        cap=max(one.max_dets for one in found),  # A833
        draws=args.draws,
        seed=args.seed,
        progress=progress_with_time("draws"),
    )
    errors = find_errors(scores)
    calibrations = [_calibration(one) for one in errors]
    diagrams = _diagrams(names, calibrations)
    problems = tuple(dict.fromkeys(problem for one in found for problem in one.problems))
    commands = image_commands(
        found, cap=scores.cap, draws=args.draws, seed=args.seed, bad_data=args.bad_data
    )
    shared = shared_parts(args, runs, [_predicted(one) for one in found], commands, problems)
    notes = dict.fromkeys(note for one in found for note in one.notes)
    shared = replace(shared, notes=(*shared.notes, *notes))
    page = seg_page(shared, scores, errors, diagrams, found[0].read)
    entries = [_entries(one, record) for one, record in zip(errors, calibrations, strict=True)]
    extra: dict[str, Any] = {
        "per_class": by_run(names, [one.per_class() for one in scores.scores]),
        "intervals": by_run(names, list(scores.intervals)),
        **{key: by_run(names, [entry[key] for entry in entries]) for key in entries[0]},
        "difference": {
            name: {metric: _difference(d) for metric, d in paired.differences.items()}
            for name, paired in zip(names[1:], scores.paired, strict=True)
        },
        "operating_point": scores.point.score,
        "max_dets": scores.cap,
        "predicted": by_run(names, [one.predicted for one in found]),
        "predictions": by_run(names, [str(one.predictions) for one in found]),
        "annotations": str(found[0].annotations),
    }
    files = [found[0].annotations, *(one.predictions for one in found)]
    metrics = by_run(names, [one.metrics for one in scores.scores])
    return Report(page, metrics, files, [one.predictions for one in found], problems, extra)


def common_truth(found: Sequence[ImageRun]) -> dict[str, Any]:
    """Return the ground truth of runs on the same images, with all classes that models know.

    Raises:
        ValueError: the classes, images or objects of two runs differ.
    """
    first = found[0]
    for one in found[1:]:
        mine, theirs = _classes(first), _classes(one)
        held = [{a["category_id"] for a in run.truth["annotations"]} for run in (first, one)]
        if held[0] != held[1] or any(theirs.get(k, name) != name for k, name in mine.items()):
            raise ValueError(
                f"{first.run.folder} has the classes {_some(mine)}, {one.run.folder} "
                f"{_some(theirs)}; write a report of each"
            )
        if _content(first) != _content(one):
            raise ValueError(
                f"{first.run.folder} was evaluated on {first.data} ({first.split}), "
                f"{one.run.folder} on other images or objects, {one.data} ({one.split}); name the "
                "same data for all by --annotations and --images"
            )
    classes = {k: name for one in found for k, name in _classes(one).items()}
    categories = [{"id": k, "name": classes[k]} for k in sorted(classes)]
    return {**first.truth, "categories": categories}


def _classes(one: ImageRun) -> dict[int, str]:
    return {int(c["id"]): str(c["name"]) for c in one.truth["categories"]}


def _some(classes: dict[int, str]) -> str:
    names = [classes[number] for number in sorted(classes)]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _content(one: ImageRun) -> list[str]:
    """Return what identifies the images and objects, however their masks are written."""
    images = [f"{i['id']} {i['height']} {i['width']}" for i in one.truth["images"]]
    objects = [
        f"{a['image_id']} {a['category_id']} {int(a.get('iscrowd') or 0)} "
        + " ".join(f"{float(side):.1f}" for side in a["bbox"])
        for a in one.truth["annotations"]
    ]
    return [*sorted(images), *sorted(objects)]


def _diagrams(
    names: Sequence[str], calibrations: Sequence[tuple[str, dict[str, Any] | None]]
) -> list[Reliability]:
    """Return the reliability diagrams of the runs whose scores can be judged."""
    from evaluation.report.page.reliability import reliability_of

    return [
        reliability_of(name, f"detections ({'masks' if of == 'segm' else 'boxes'})", record)
        for name, (of, record) in zip(names, calibrations, strict=True)
        if record is not None
    ]


def _calibration(errors: Any) -> tuple[str, dict[str, Any] | None]:
    """Return the calibration of the main overlap and its name, as `evaluate.py coco --errors`."""
    from evaluation.report.errors import calibration_of_matches
    from evaluation.seg.coco_scores import KIND

    for one in errors:
        record = calibration_of_matches(one.images)
        if record is not None:
            return KIND[one.kind], record
    return "segm", None


def _entries(errors: Any, calibration: tuple[str, dict[str, Any] | None]) -> dict[str, Any]:
    """Return the entries of a run's record that `evaluate.py coco --errors` has."""
    from evaluation.seg.coco_scores import KIND

    of, record = calibration
    return {
        "errors": {KIND[one.kind]: one.summary.gains for one in errors},
        "error_counts": {KIND[one.kind]: one.summary.counts for one in errors},
        "calibration": None if record is None else {"of": of, **record},
    }


def _difference(found: Any) -> dict[str, float]:
    return {key: getattr(found, key) for key in ("value", "low", "high", "p")}


def _predicted(one: ImageRun) -> Any:
    from engine.reports.facts import Predicted

    return Predicted(
        data=one.data,
        split=one.split,
        count=len(one.truth["images"]),
        data_hash=one.data_hash,
        predictions=one.predictions,
        parameters=one.parameters,
    )
