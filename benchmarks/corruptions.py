"""Time of the corruptions beside the library, per image of 640 x 480; or a figure of all of them.

Run `python benchmarks/corruptions.py [--repeats 3] [--extra]`. Each corruption is timed at each
severity, ours and the library's in turn, in one process and one thread; a time is the median over
the repeats of processor time. The sum over the 15 corruptions of the benchmark and five severities
is compared with its bound.

`python benchmarks/corruptions.py --figure FILE [--image FILE] [--severities 1 3 5]` draws every
corruption instead. Without ``--image``, both use a photograph that comes with scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.robustness.corruptions import (
    BENCHMARK,
    EXTRA,
    SEVERITIES,
    Image,
    check_corruptions,
    corrupt,
)

BOUND = 0.50  # of the library's time
SIZE = (640, 480)
SHOWN = 240  # width of the image that the figure shows


def photograph(path: Path | None, size: tuple[int, int] | None = None) -> Image:
    """Return an RGB image of this width and height, or (without a size) as wide as shown."""
    if path is None:
        from sklearn.datasets import load_sample_image

        image = load_sample_image("china.jpg")
    elif (read := cv2.imread(str(path))) is None:
        raise SystemExit(f"error: {path} is not an image")
    else:
        image = cv2.cvtColor(read, cv2.COLOR_BGR2RGB)
    size = size or (SHOWN, round(SHOWN * image.shape[0] / image.shape[1]))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(image: Image, names: tuple[str, ...], repeats: int) -> dict[str, tuple[float, float]]:
    """Return seconds of ours and of the library by corruption, summed over severities."""
    found = {}
    for name in names:
        sums = [0.0, 0.0]
        for severity in SEVERITIES:
            calls = [
                lambda exact=exact, name=name, severity=severity: corrupt(
                    image, name, severity, seed=0, exact=exact
                )
                for exact in (False, True)
            ]
            for call in calls:
                call()  # warm up; numba compiles here
            times = [[seconds(call) for call in calls] for _ in range(repeats)]
            sums = [
                total + statistics.median(column)
                for total, column in zip(sums, zip(*times, strict=True), strict=True)
            ]
        found[name] = (sums[0], sums[1])
    return found


def report(found: dict[str, tuple[float, float]]) -> int:
    """Print milliseconds per image and the ratio; return exit code 1 if the bound is missed."""
    print(f"{'milliseconds per image':24s} {'segmil':>8s} {'library':>8s}")
    for name, sums in found.items():
        mine, library = (1000 * total / len(SEVERITIES) for total in sums)
        print(f"  {name:22s} {mine:8.1f} {library:8.1f}")
    mine, library = (sum(found[name][place] for name in BENCHMARK) for place in (0, 1))
    ratio = mine / library
    print(f"15 x 5: segmil {mine:.2f} s, library {library:.2f} s, ratio {ratio:.2f}, bound {BOUND}")
    return int(ratio > BOUND)


def main() -> int:
    """Measure, or draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--extra", action="store_true", help="also time the four others")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw, and measure nothing")
    parser.add_argument("--image", type=Path, metavar="FILE")
    parser.add_argument("--severities", type=int, nargs="+", default=[1, 3, 5])
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        check_corruptions(BENCHMARK, exact=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.figure is None:
        names = BENCHMARK + (EXTRA if args.extra else ())
        return report(measure(photograph(args.image, SIZE), names, args.repeats))
    from evaluation.report.plots import save_figure
    from evaluation.robustness.corruption_figure import plot_corruptions

    figure = plot_corruptions(photograph(args.image), BENCHMARK + EXTRA, args.severities, seed=0)
    save_figure(figure, args.figure, dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
