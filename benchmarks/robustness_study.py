"""Study of robustness: norms, stages, weights to start from and MIL models, under corruptions.

Run `python benchmarks/robustness_study.py --nuclei DATA --slide SLIDE`, where DATA is a COCO folder
of nuclei (dsb2018_fluo) and SLIDE the region of wsi_small. It trains every method of
`robustness/plan.py` that has no result in `runs/robustness_study` yet, all of a seed before those
of the next, and scores it under every corruption or shift at five severities, and on other test
data. What is done is skipped, a cell being kept as soon as it is known, so that an interrupted
command can be repeated; delete the folder after a change of code. `--seconds` stops it in time.

The whole study takes a little more than six hours of one core (docs/benchmarks.md has the commands
for two). `--report` trains and scores nothing. The tables of what is there, with 95 % intervals,
are printed and, with `--page`, put into docs/REPRODUCTION.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.robustness.plan import BAGS, METHODS, NUCLEI, ROOT, SEEDS, SETS, TILES, Run, runs
from benchmarks.robustness.scoring import score_bags, score_images, score_tiles
from benchmarks.robustness.tables import tables
from benchmarks.robustness.tiles import tile_bags
from benchmarks.robustness.training import DONE, trained
from formats.files import atomic_write

PAGE = ROOT / "docs/REPRODUCTION.md"
BEGIN, END = "<!-- tables of benchmarks/robustness_study.py -->", "<!-- end of the tables -->"


def done(run: Run, args: argparse.Namespace) -> int:
    """Train and score a run as far as it is not; return the number of cells that are missing."""
    folder, root = run.folder(args.folder), args.folder
    if args.part == "score" and not (folder / DONE).is_file():
        return 1
    sources = {NUCLEI: args.nuclei}
    if run.data == TILES:
        bags = tile_bags(root, args.slide)
        sources[TILES] = bags.train
    checkpoint = trained(run, root, sources)
    if args.part == "train":
        return 0
    if run.data == TILES:
        return score_tiles(run, root, checkpoint, bags, args.until)
    if run.data == BAGS:
        return score_bags(run, root, checkpoint, args.until)
    return score_images(run, root, checkpoint, args.nuclei, args.until)


def publish(text: str, page: Path) -> None:
    """Put the tables between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic_write(page) as file:
        file.write(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted({name for methods in METHODS.values() for name in methods})
    made.add_argument("--nuclei", type=Path, metavar="DATA", help="COCO folder of nuclei")
    made.add_argument("--slide", type=Path, help="slide whose tiles are cut")
    made.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    made.add_argument("--only", nargs="+", choices=names, default=[])
    made.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    made.add_argument("--folder", type=Path, default=Path("runs/robustness_study"))
    made.add_argument("--part", choices=("train", "score"), help="default: both")
    made.add_argument("--seconds", type=float, help="no run and no cell is begun after them")
    made.add_argument("--report", action="store_true", help="train and score nothing")
    made.add_argument("--page", action="store_true", help="put the tables into the page")
    return made


def main(words: list[str] | None = None) -> int:
    """Do what is missing and print the results."""
    made = parser()
    args = made.parse_args(words)
    torch.set_num_threads(1)
    args.until = None if args.seconds is None else time.time() + args.seconds
    if not args.report:
        for flag, data in (("nuclei", NUCLEI), ("slide", TILES)):
            if data in args.sets and getattr(args, flag) is None:
                made.error(f"--{flag} is missing; give it, or choose others of --sets")
        for run in runs(args.seeds, args.sets, args.only):
            if args.until is None or time.time() < args.until:
                missing = done(run, args)
                print(f"{run.data}, {run.name}: {missing} cells are missing", flush=True)
    text = tables(args.folder)
    print(text)
    if args.page:
        publish(text, PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
