"""`evaluate.py low-light`: what darkness costs checkpoints, each in its own form of input."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from commands._arguments import (
    add_bad_data,
    add_input,
    add_out,
    add_output,
    camera_bits,
    exposure_ratio,
    figure,
    positive,
)
from commands._sources import ground_truth
from commands._tables import progress, report_bad_data, show

SUMMARY = "AP of checkpoints in normal light and in the dark"
KINDS = ("segm_map", "box_map")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser)
    add_bad_data(parser, annotations=True)
    add_input(parser, "--ckpt", nargs="+", required=True, help="segmentation checkpoint(s)")
    add_input(parser, "--annotations", required=True, help="COCO ground truth of ordinary images")
    add_input(parser, "--images", help="image folder to use")
    parser.add_argument("--batch-size", type=positive, help="default: the checkpoint's")
    parser.add_argument(
        "--ratios", type=exposure_ratio, nargs="+", default=[10.0, 30.0, 100.0], metavar="R",
        help="reductions of the exposure; default: 10 30 100",
    )  # fmt: skip
    parser.add_argument(
        "--bits", type=camera_bits, nargs="+", default=[8, 10, 12, 14], metavar="N",
        help="bits of the RAW data, 8 to 14; default: 8 10 12 14",
    )  # fmt: skip
    add_output(
        parser, "--figure", type=figure, metavar="F.png", help="draw AP over bits for each ratio"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate checkpoints in normal light, in their own dark, and for each ratio and precision."""
    from datamodules.transforms.raw.data import LightChange
    from engine.checkpoints.restore import read_record
    from evaluation.report.record import report

    _check_sources(args.ckpt)
    forms = {str(path): _form(read_record(path)["facts"]) for path in args.ckpt}
    truth, skipped = ground_truth(args)
    cells = list(itertools.product(dict.fromkeys(args.ratios), dict.fromkeys(args.bits)))
    tell, done = progress("evaluations"), 0
    metrics: dict[str, dict[str, float]] = {}
    rows: list[dict[str, Any]] = []
    for path in args.ckpt:
        lights = [LightChange("normal"), LightChange("dark")]
        lights += [LightChange("dark", ratio, bits) for ratio, bits in cells]
        found = []
        for light in lights:
            found.append(_scores(args, path, truth, light))
            done += 1
            tell(done, len(lights) * len(args.ckpt))
        normal, dark, *others = found
        metrics[str(path)] = {
            f"{what}_{kind}": value
            for kind in KINDS
            for what, value in (
                ("normal", normal[kind]),
                ("dark", dark[kind]),
                ("drop", normal[kind] - dark[kind]),
            )
        }
        rows += [
            {"model": str(path), "input": forms[str(path)], "ratio": ratio, "bits": bits, **scores}
            for (ratio, bits), scores in zip(cells, others, strict=True)
        ]
    _show(metrics, rows, forms)
    if args.figure:
        from evaluation.report.low_light import plot_bits
        from evaluation.report.plots import save_figure

        save_figure(plot_bits(metrics, rows), args.figure)
        print(f"written: {args.figure}")
    extra: dict[str, Any] = {"cells": rows, **report_bad_data(skipped)}
    return report(sys.argv, metrics, files=[args.annotations, *args.ckpt], **extra)


def _scores(
    args: argparse.Namespace, path: Path, truth: dict[str, Any], light: Any
) -> dict[str, float]:
    from engine.deploy.predict import predict_coco
    from evaluation.seg.coco import score_results

    found = predict_coco(
        path,
        args.annotations,
        args.images,
        args.batch_size,
        args.bad_data,
        truth=truth,
        light=light,
    )
    scores = score_results(found.ground_truth, found.rows, max_dets=found.max_dets or 100)
    return {kind: scores.metrics[kind] for kind in KINDS}


def _form(facts: Mapping[str, Any]) -> str:
    options = facts["preprocessing"].get("low_light")
    return "srgb" if options is None else str(options["input"])


def _show(
    metrics: Mapping[str, Mapping[str, float]], rows: list[dict[str, Any]], forms: dict[str, str]
) -> None:
    from evaluation.report.model_table import letter

    names = {name: letter(number) for number, name in enumerate(metrics)}
    for name, short in names.items():
        print(f"{short}: {name} ({forms[name]})")
    columns = list(next(iter(metrics.values())))
    lines = [[names[n], *(f"{v:.4f}" for v in found.values())] for n, found in metrics.items()]
    show("normal light and dark", ["model", *(c.replace("_", " ") for c in columns)], lines)
    lines = [
        [names[row["model"]], f"{row['ratio']:g}", row["bits"], *(f"{row[k]:.4f}" for k in KINDS)]
        for row in rows
    ]
    show(
        "dark, by exposure and precision", ["model", "ratio", "bits", "segm map", "box map"], lines
    )


def _check_sources(sources: list[Path]) -> None:
    """Reject repeated or missing files before any model predicts."""
    if len({str(source) for source in sources}) < len(sources):
        raise ValueError("a checkpoint is given twice; name each once")
    for source in sources:
        if not source.is_file():
            raise ValueError(f"{source}: no such file; name checkpoints of train.py")
