"""How often the intervals of `evaluate.py compare` hold the truth, by simulation.

Run `python benchmarks/compare_coverage.py [--sets S] [--draws R]`; prints a Markdown table. Scores
of two models are normal with unit variance, those of positives shifted by d, correlated by 1/2
between the models: the AUROC is Phi(d / sqrt 2), so the true difference is known. A row is S data
sets: the share of 95 % intervals that hold the true difference and of p below .05, of the paired
bootstrap and of DeLong's test; and DeLong's standard error over the standard deviation of the
differences.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.delong import delong_test
from evaluation.paired import compare_bags

SIZES = ((10, 40), (40, 40), (100, 100))  # positives, negatives
SHIFTS = ((1.0, 1.0), (1.2, 0.8))
_HEADER = (
    "| bags | A - B | bootstrap holds it | p < .05 | DeLong holds it | p < .05 | s. e. / spread |",
    "|---|---|---|---|---|---|---|",
)


def simulate(bags: tuple[int, int], shifts: Sequence[float], sets: int, draws: int) -> str:
    """Return one row of the table."""
    random = np.random.default_rng(11)
    labels = np.repeat([1, 0], bags)
    normal = NormalDist()
    cumulative = np.vectorize(normal.cdf)
    first, second = (normal.cdf(d / math.sqrt(2)) for d in shifts)
    truth = first - second
    held, rejected = np.zeros(2), np.zeros(2)
    values, variances = [], []
    for seed in range(sets):
        common, *own = random.normal(size=(3, sum(bags))) * math.sqrt(0.5)
        scores = [
            cumulative(common + noise + labels * d) for noise, d in zip(own, shifts, strict=True)
        ]
        paired = compare_bags(labels, scores[0], scores[1], "binary", draws=draws, seed=seed)
        found = paired.differences["bag_auroc"], delong_test(labels, scores[0], scores[1])
        held += [one.low <= truth <= one.high for one in found]
        rejected += [one.p < 0.05 for one in found]
        values.append(found[1].value)
        variances.append(found[1].standard_error ** 2)
    ratio = math.sqrt(np.mean(variances)) / np.std(values, ddof=1)
    shares = [
        f"{share:.3f}"
        for pair in zip(held, rejected, strict=True)
        for share in np.array(pair) / sets
    ]
    cells = [f"{bags[0]} positive, {bags[1]} negative", f"{truth:.3f}", *shares, f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1000)
    args = parser.parse_args()
    print(*_HEADER, sep="\n", flush=True)
    for bags in SIZES:
        for shifts in SHIFTS:
            print(simulate(bags, shifts, args.sets, args.draws), flush=True)


if __name__ == "__main__":
    main()
