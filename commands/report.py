"""`evaluate.py report`: an HTML page of one or several runs."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from commands._arguments import (
    Output,
    add_allow_overlap,
    add_bad_data,
    add_features,
    add_input,
    add_out,
    not_negative,
    positive,
    seed,
)
from commands._outputs import check_place
from commands._tables import report_bad_data, show
from commands._wandb import add_wandb
from commands._wandb_logs import log_report

SUMMARY = "an HTML page of runs: where they fail, whether scores can be trusted, which is better"

_EXTRA = ("jinja2", "plotly")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out(parser, json_inputs="predictions")
    add_bad_data(parser, annotations=True)
    add_input(
        parser,
        "--run",
        nargs="+",
        required=True,
        metavar="RUN",
        help="run folder(s) of fit, whose best checkpoint predicts its test split, or of test; "
        "the first is the reference",
    )
    add_input(parser, "--annotations", help="COCO ground truth, instead of a run's own images")
    add_input(parser, "--images", help="image folder of --annotations")
    add_input(
        parser, "--data", help="npz of bags, CSV of slides, or a recipe, instead of a run's own"
    )
    add_features(parser)
    add_allow_overlap(parser)
    add_input(
        parser,
        "--cells",
        nargs="+",
        metavar="CELLS.csv",
        help="tables of `python evaluate.py robustness`",
    )
    parser.add_argument(
        "--html",
        type=_html,
        metavar="FILE.html",
        help="the page; default: report.html in the first RUN",
    )
    page = Output("--html", continued=True)  # the page of an earlier call is replaced
    parser.set_defaults(outputs={**parser.get_default("outputs"), "html": page})
    parser.add_argument(
        "--gallery", type=not_negative, default=24, help="images or bags to choose, beside those "
        "that mistakes lead to; 0: none",
    )  # fmt: skip
    parser.add_argument("--draws", type=positive, default=1000, help="bootstrap draws")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the bootstrap and gallery")
    add_wandb(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the page of one or several runs."""
    check_extra()
    from engine.reports.folder import read_runs
    from evaluation.report.html import render_page
    from evaluation.report.record import report
    from evaluation.robustness.grid import read_grids
    from formats.files import atomic_write

    if args.cells:
        read_grids(args.cells)  # faults are found before anything is predicted
    runs = read_runs(args.run)
    html = args.html or runs[0].folder / "report.html"
    check_place("--html", html)
    if runs[0].kind == "seg":
        from commands.reports._images import image_report as make
    else:
        from commands.reports._bags import bag_report as make
    found = make(args, runs)
    html.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(html) as file:
        file.write(render_page(found.page).encode())
    _show(found.page)
    for note in found.page.notes:
        print(f"note: {note}")
    print(f"written: {html}")
    extra = {
        **report_bad_data(found.problems),
        "notes": list(found.page.notes),
        "runs": {one.name: str(one.folder) for one in runs},
        "html": str(html),
        **found.extra,
    }
    record = report(sys.argv, found.metrics, files=found.files, seed=args.seed, **extra)
    log_report(
        args,
        record,
        html,
        checkpoints=[one.checkpoint for one in runs if one.checkpoint is not None],
        data={"annotations": args.annotations, "images": args.images, "data": args.data},
        predictions={
            f"{one.name.replace('/', '_')}{path.suffix}": path
            for one, path in zip(runs, found.predictions, strict=True)
        },
        own_data=args.annotations is None
        and args.data is None
        and all(one.predictions is None for one in runs),
    )
    return record


def _html(text: str) -> Path:
    """Return the path of a page to write; an argument type."""
    path = Path(text)
    if path.suffix.lower() not in (".html", ".htm"):
        raise argparse.ArgumentTypeError(f"a page is an HTML file; got {text!r}, name page.html")
    return path


def check_extra() -> None:
    """Refuse to begin without the packages of the page.

    Raises:
        ValueError: one is not installed.
    """
    if lacking := lacking_packages():
        raise ValueError(
            f"a report needs {' and '.join(lacking)}: run `pip install -e '.[report]'` in the "
            "folder of segmil"
        )


def lacking_packages() -> list[str]:
    """Return the packages of the page that are not installed."""
    return [name for name in _EXTRA if find_spec(name) is None]


def _show(page: Any) -> None:
    """Print the headlines."""
    for number, facts in enumerate(page.runs):
        rows = []
        for line in page.headlines:
            one = line.values[number]
            rows.append((line.name, one.value, one.low, one.high))
        title = f"{facts.name}: {facts.count} {'images' if page.kind == 'seg' else 'bags'}"
        show(
            f"{title} of {facts.data} ({facts.split})", ["metric", "value", "2.5 %", "97.5 %"], rows
        )
