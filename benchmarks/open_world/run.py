"""Study of open-world methods on digit scenes: train on the digits 0 to 5, find 6 to 9.

Run `python benchmarks/open_world/run.py`. It trains every method with every seed that has no result
in `runs/open_world` yet, so that an interrupted command can be repeated; delete the folder after a
change of code. Mask R-CNN and OLN train the same number of steps of two images, on one thread,
within five minutes; models with queries continue from a shared start for `--seconds`, see
`families.py`. The last checkpoint predicts the 200 test scenes, and known and novel objects are
scored by the protocol `exclude-known`.

Writes all rows to `docs/open_world.json` and their table into `docs/open_world.md`. `--only METHOD
[METHOD ...]` and `--seeds` choose runs, `--report` trains nothing, `--restore` takes the rows of
`docs/open_world.json` as done, so that a study can go on on another machine, and further arguments
are passed on to `train.py fit`, for trials in another `--folder`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import evaluate
import train
from datamodules.seg.digit_scenes import DigitScenesDataModule
from engine.checkpoints.restore import read_record
from evaluation.open_world.protocols import known_and_novel_scores
from formats.coco.results import load_ground_truth, read_results
from formats.coco.splits import split_from_record
from formats.files import atomic_write, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent))
from families import FAMILIES, VARIANTS, continued, restore_steps, started
from scores import PROTOCOLS, by_protocol, ranks

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "configs/quickstart"
SEEDS = (0, 1, 2)
LIMIT = 300  # seconds of a training
JSON, PAGE = ROOT / "docs/open_world.json", ROOT / "docs/open_world.md"
BEGIN, END = "<!-- table of benchmarks/open_world/run.py -->", "<!-- end of the table -->"
COLUMNS = ("segm_ar_10", "segm_ar_100", "segm_map", "box_ar_100")
BASE = "mask_rcnn"
RANKS = ["method", "seeds", "known found", "novel found", "median score of known", "of novel"]
RANKS += ["mistakes above the novel median, an image"]

Row = dict[str, Any]


class Method(NamedTuple):
    """A recipe of `configs/quickstart`, further flags, and the name in the table."""

    recipe: str
    title: str
    flags: tuple[str, ...] = ()


_SAMPLER = "--model.init_args.model.init_args.rpn.fill_negatives"
METHODS = {
    BASE: Method("open_world_mask_rcnn.yaml", "Mask R-CNN, one class"),
    "oln_mask": Method("open_world_oln.yaml", "OLN-Mask, negatives in the RPN's sample"),
    "oln_mask_positives": Method(
        "open_world_oln.yaml", "OLN-Mask, positives alone", (_SAMPLER, "false")
    ),
}


def write_scenes(folder: Path) -> tuple[Path, Path]:
    """Write the test scenes once; return the folder of images and the annotations."""
    images, annotations = folder / "images/test", folder / "annotations/instances_test.json"
    if not annotations.is_file():
        DigitScenesDataModule().write_split("test", folder)
    return images, annotations


def trained(method: Method, seed: int, folder: Path, flags: Sequence[str]) -> tuple[Path, float]:
    """Train a method unless it is trained; return its last checkpoint and the processor time.

    Raises:
        RuntimeError: the training has failed.
    """
    done = folder / "trained.json"
    if done.is_file():
        record = json.loads(done.read_text())
        return Path(record["checkpoint"]), record["seconds"]
    words = ["fit", "--config", str(RECIPES / method.recipe), *method.flags, *flags]
    words += ["--seed_everything", str(seed), "--data.seed", str(seed)]
    words += ["--runs_dir", str(folder), "--trainer.enable_progress_bar", "false"]
    words += ["--trainer.limit_val_batches", "5"]  # it chooses nothing: the last checkpoint counts
    start = time.process_time()
    if train.main(words):
        raise RuntimeError(f"{method.title}, seed {seed}: the training has failed")
    seconds = time.process_time() - start
    if seconds > LIMIT:
        print(f"note: {method.title}: {seconds:.0f} s of training, more than {LIMIT}")
    newest = max(folder.glob("*/version_*"), key=lambda run: run.stat().st_mtime)
    checkpoint = newest / "checkpoints/last.ckpt"
    write_json(done, {"checkpoint": str(checkpoint), "seconds": seconds})
    return checkpoint, seconds


def predicted(checkpoint: Path, place: Path, folder: Path) -> Path:
    """Return the file of predictions of a checkpoint in the test scenes; write it if it is new.

    Raises:
        RuntimeError: the command has failed.
    """
    file = place / "predictions.json"
    if not file.is_file():
        images, annotations = write_scenes(folder / "scenes")
        words = ["open-world", "--protocol", "exclude-known", "--ckpt", checkpoint]
        words += ["--annotations", annotations, "--images", images, "--save-predictions", file]
        if evaluate.main([str(word) for word in words]):
            raise RuntimeError(f"{checkpoint}: cannot be scored")
    return file


def result(name: str, seed: int, folder: Path, seconds: float, flags: Sequence[str]) -> Row:
    """Return the row of a run; train and score it unless its file exists."""
    place = folder / name / f"seed_{seed}"
    file = place / "result.json"
    if file.is_file():
        row: Row = json.loads(file.read_text())
        return row
    annotations = write_scenes(folder / "scenes")[1]
    row = {"method": name, "seed": seed}
    if name in VARIANTS:
        checkpoint, row["seconds"], row["steps"] = continued(name, seed, folder, seconds)
    else:
        checkpoint, row["seconds"] = trained(METHODS[name], seed, place, flags)
    found = predicted(checkpoint, place, folder)
    truth = load_ground_truth(annotations)
    rows, _ = read_results(found, {"images": truth["images"]})
    split = split_from_record(read_record(checkpoint)["facts"]["categories"]["known"], name)
    scores = known_and_novel_scores(truth, rows, split, ("bbox", "segm"))
    row |= scores
    row["ranks"] = ranks(truth, found)
    if seed == SEEDS[0]:
        row["protocols"] = by_protocol(truth, found)
    write_json(file, row)
    return row


def start_result(family: str, seed: int, folder: Path) -> None:
    """Write what the detections of a shared start say, unless it is written."""
    place = folder / "starts" / family / f"seed_{seed}"
    file = place / "result.json"
    if not file.is_file():
        truth = load_ground_truth(write_scenes(folder / "scenes")[1])
        found = predicted(started(family, seed, folder), place, folder)
        write_json(file, {"family": family, "seed": seed, "ranks": ranks(truth, found)})


def table(rows: Sequence[Row]) -> str:
    """Return means and standard deviations over the seeds, and differences, as Markdown.

    Differences to the plain model of a method have 95 % intervals of Student's t over the seeds.
    """
    kinds = [(of, column) for of in ("known", "novel") for column in COLUMNS]
    head = ["method", "seeds", "s", *(f"{of} {_short(column)}" for of, column in kinds)]
    lines = [head, ["---"] * len(head)]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        cells = [_title(name), str(len(own)), f"{np.mean([r['seconds'] for r in own]):.0f}"]
        cells += [_spread([row[of][column] for row in own]) for of, column in kinds]
        lines.append(cells)
    at = {(row["method"], row["seed"]): row for row in rows}
    for name in dict.fromkeys(row["method"] for row in rows):
        plain = _plain(name)
        own = [row for row in rows if row["method"] == name and (plain, row["seed"]) in at]
        if name == plain or not own:
            continue
        cells = [f"{_title(name)}, minus {_title(plain)} by seed", str(len(own)), ""]
        for of, column in kinds:
            pairs = [(row[of][column], at[plain, row["seed"]][of][column]) for row in own]
            cells.append(_interval([mine - theirs for mine, theirs in pairs]))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _short(column: str) -> str:
    kind, name = column.split("_", 1)
    return (
        f"{'mask' if kind == 'segm' else 'box'} {name.replace('map', 'AP').replace('ar_', 'AR@')}"
    )


def _title(name: str) -> str:
    return (METHODS | VARIANTS)[name].title


def _plain(name: str) -> str:
    """Return the row that a row is compared with."""
    return VARIANTS[name].family if name in VARIANTS else BASE


def _spread(values: Sequence[float]) -> str:
    spread = f" ({np.std(values, ddof=1):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def _interval(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:+.3f}"
    error = float(stats.sem(values)) * float(stats.t.ppf(0.975, len(values) - 1))
    return f"{mean:+.3f} [{mean - error:+.3f}, {mean + error:+.3f}]"


def ranks_table(rows: Sequence[Row], starts: Sequence[Row]) -> str:
    """Return the means of `scores.ranks` over the seeds that have them, as Markdown.

    Shared starts come before the models that continue from them.
    """
    values: dict[str, list[list[float]]] = {}
    for row in rows:
        if row["method"] in FAMILIES:
            own = [start["ranks"] for start in starts if start["family"] == row["method"]]
            values[f"{_title(row['method'])}, shared start"] = own
        values.setdefault(_title(row["method"]), [])
        values[_title(row["method"])] += [row["ranks"]] if "ranks" in row else []
    lines = [RANKS, ["---"] * len(RANKS)]
    for title, own in ((title, own) for title, own in values.items() if own):
        lines.append([title, str(len(own)), *(f"{mean:.3f}" for mean in np.mean(own, axis=0))])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def protocol_table(rows: Sequence[Row]) -> str:
    """Return the mask scores of novel objects by protocol, of the first seed, as Markdown."""
    kinds = [(name, key) for name in PROTOCOLS for key in COLUMNS[:3]]
    kinds = [(name, key) for name, key in kinds if name != "class-wise" or "ar" in key]
    lines = [["method", *(f"{name}, {_short(key)[5:]}" for name, key in kinds)]]
    lines.append(["---"] * len(lines[0]))
    for row in (row for row in rows if "protocols" in row):
        cells = [f"{row['protocols'][name][key]:.3f}" for name, key in kinds]
        lines.append([_title(row["method"]), *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def publish(rows: Sequence[Row], starts: Sequence[Row]) -> None:
    """Write the JSON and put the table into the page."""
    content = {"protocol": "exclude-known", "split": "test", "rows": list(rows)}
    content["starts"] = list(starts)
    write_json(JSON, content)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic_write(PAGE) as file:
        file.write(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}".encode())


def restore(folder: Path, seconds: float) -> None:
    """Write the published rows that a folder does not have, and the steps of their trainings."""
    content = json.loads(JSON.read_text())
    places = [(row["method"], row) for row in content["rows"]]
    places += [(f"starts/{row['family']}", row) for row in content["starts"]]
    for place, row in places:
        file = folder / place / f"seed_{row['seed']}" / "result.json"
        if not file.is_file():
            write_json(file, row)
    restore_steps(
        folder, {r["method"]: r["steps"] for r in content["rows"] if "steps" in r}, seconds
    )


def main() -> int:
    """Train what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*METHODS, *VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--folder", type=Path, default=Path("runs/open_world"))
    parser.add_argument("--seconds", type=float, default=LIMIT, help="of models with queries")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--restore", action="store_true", help="published rows are done")
    args, more = parser.parse_known_args()
    torch.set_num_threads(1)
    if args.restore:
        restore(args.folder, args.seconds)
    if not args.report:
        for seed in args.seeds:
            for name in args.only or [*METHODS, *VARIANTS]:
                if name in FAMILIES:
                    start_result(name, seed, args.folder)
                result(name, seed, args.folder, args.seconds, more)
    rows, starts = _results(args.folder, "*"), _results(args.folder, "starts/*")
    order = [*METHODS, *VARIANTS]
    rows = [row for row in rows if row["method"] in order]
    rows.sort(key=lambda row: (order.index(row["method"]), row["seed"]))
    print(table(rows))
    print(ranks_table(rows, starts))
    print(protocol_table(rows))
    if not more:
        publish(rows, starts)
    return 0


def _results(folder: Path, places: str) -> list[Row]:
    return [
        json.loads(file.read_text()) for file in sorted(folder.glob(f"{places}/seed_*/result.json"))
    ]


if __name__ == "__main__":
    sys.exit(main())
