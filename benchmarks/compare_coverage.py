"""Simulated coverage of the intervals of `evaluate.py compare`.

Run `python benchmarks/compare_coverage.py [--pictures] [--sets S] [--draws R]`; it prints a
Markdown table with S data sets per row.

Bags: the scores of two models are normal with unit variance and correlation 1/2 between the models,
and scores of positives are shifted by d. The AUROC is Phi(d / sqrt 2), so the true difference is
known. For the paired bootstrap and DeLong's test, the table shows the fraction of 95 % intervals
that contain the true difference and the fraction of p below .05; and DeLong's standard error
divided by the standard deviation of the differences.

Images: up to six objects of three classes (60, 30 and 10 % of the objects). The boxes of two models
have partly shared errors, and there are false boxes. The true difference of box AP is the mean over
the data sets. The table shows the same fractions for A - B and for A alone, and the width of the
interval of A - B divided by the width of a normal interval with the standard deviation of the
differences.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.seg.coco_bootstrap import compare_images
from evaluation.statistics.delong import delong_test
from evaluation.statistics.paired import compare_bags

SIZES = ((5, 40), (10, 40), (40, 40), (100, 100))  # positives, negatives
SHIFTS = ((1.0, 1.0), (1.2, 0.8))
_HEADER = (
    "| bags | A - B | bootstrap holds it | p < .05 | DeLong holds it | p < .05 | s. e. / spread |",
    "|---|---|---|---|---|---|---|",
)
IMAGES = (40, 160)
SLACKS = ((1.0, 1.0), (1.0, 1.4))  # scale of the box errors of each model
_SHARES = (0.6, 0.3, 0.1)
_IMAGE_HEADER = (
    "| images | A - B | bootstrap holds it | p < .05 | holds A | width / spread |",
    "|---|---|---|---|---|---|",
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


def simulate_images(images: int, slacks: Sequence[float], sets: int, draws: int) -> str:
    """Return one row of the table for images."""
    random = np.random.default_rng(7)
    found = [
        compare_images(*data_set(random, images, slacks), draws=draws, seed=seed)
        for seed in range(sets)
    ]
    over = [one.differences["box_map"] for one in found]
    truth, truth_of_first = (np.mean([d.value for d in over]), np.mean([d.first for d in over]))
    alone = [one.intervals[0]["box_map"] for one in found]
    shares = [
        np.mean([d.low <= truth <= d.high for d in over]),
        np.mean([d.p < 0.05 for d in over]),
        np.mean([low <= truth_of_first <= high for low, high in alone]),
    ]
    reach = NormalDist().inv_cdf(0.975)
    spread = np.std([d.value for d in over], ddof=1)
    ratio = np.mean([d.high - d.low for d in over]) / (2 * reach * spread)
    cells = [str(images), f"{truth:.3f}", *(f"{share:.3f}" for share in shares), f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} |"


def data_set(
    random: np.random.Generator, images: int, slacks: Sequence[float]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return COCO ground truth and the results of two models."""
    classes = range(1, len(_SHARES) + 1)
    truth: dict[str, Any] = {
        "images": [{"id": i, "height": 120, "width": 900} for i in range(1, images + 1)],
        "categories": [{"id": c, "name": str(c)} for c in classes],
        "annotations": [],
    }
    results: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for image in truth["images"]:
        hardness = random.gamma(2, 0.5)
        for place in range(random.integers(7)):
            category = int(random.choice(classes, p=_SHARES))
            box = [110.0 * place, 20.0, random.uniform(30, 80), 60.0]
            record = {"image_id": image["id"], "category_id": category, "bbox": box}
            number = len(truth["annotations"]) + 1
            area = box[2] * box[3]
            truth["annotations"].append({**record, "id": number, "area": area, "iscrowd": 0})
            shared = random.normal()
            for rows, slack in zip(results, slacks, strict=True):
                off = abs(shared + random.normal()) * 4 * hardness * slack
                moved = {**record, "bbox": [box[0] + off, *box[1:]]}
                if random.random() >= 0.1:  # otherwise the object is missed
                    rows.append({**moved, "score": _probability(random, 1.5 - off / 6)})
        for rows in results:
            rows.extend(_false_boxes(random, image["id"], classes))
    return truth, *results


def _false_boxes(
    random: np.random.Generator, image: int, classes: Sequence[int]
) -> Iterator[dict[str, Any]]:
    for _ in range(random.poisson(1.2)):
        category = int(random.choice(classes, p=_SHARES))
        box = [random.uniform(0, 700), 20.0, 60.0, 60.0]
        score = _probability(random, 0.0)
        yield {"image_id": image, "category_id": category, "bbox": box, "score": score}


def _probability(random: np.random.Generator, logit: float) -> float:
    return 1 / (1 + math.exp(-logit - random.normal()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", action="store_true", help="AP of images, not AUROC of bags")
    parser.add_argument("--sets", type=int, help="default: 1000, or 200 for images")
    parser.add_argument("--draws", type=int, help="default: 1000, or 200 for images")
    args = parser.parse_args()
    usual = 200 if args.pictures else 1000
    sets, draws = args.sets or usual, args.draws or usual
    if args.pictures:
        print(*_IMAGE_HEADER, sep="\n", flush=True)
        for images in IMAGES:
            for slacks in SLACKS:
                print(simulate_images(images, slacks, sets, draws), flush=True)
        return
    print(*_HEADER, sep="\n", flush=True)
    for bags in SIZES:
        for shifts in SHIFTS:
            print(simulate(bags, shifts, sets, draws), flush=True)


if __name__ == "__main__":
    main()
