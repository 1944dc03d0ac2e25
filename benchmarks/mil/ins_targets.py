"""Pseudo targets of INS on made-up slides, trained by its recipe through `train.py fit`.

Run `python benchmarks/mil/ins_targets.py --out DIR`. Eight positive and eight negative training
slides of 4 000 instances, and four of each kind for validation. An instance is x ~ N(m_k + s, I) in
64 dimensions, of one of six kinds of tissue in a slide with the shift s; a witness, 5 % of the
instances of a positive slide, has in addition ``strength`` in each of two directions
(`benchmarks/wsi_mil/bags.py`). Further arguments are passed on to `train.py fit`.

Prints how separable the features are, by a linear classifier that is trained on half of the
instances with their true labels and scored on the other half, and the mean pseudo target of the
witnesses and of the other instances of positive slides at the end of the training.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import train
from benchmarks.wsi_mil.bags import Slides, make_world
from datamodules.sampling.keys import keyed_generator
from evaluation.mil.metrics import auroc

RECIPE = Path(__file__).resolve().parents[2] / "configs/mil/ins.yaml"
TRAINING, VALIDATION = 16, 8  # slides, the even ones positive
_TISSUE, _SLIDE_PURPOSE = Slides(), 44
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def make_slide(seed: int, number: int, witnesses: BoolArray, strength: float) -> FloatArray:
    """Return the features of a slide, (N, 64).

    Args:
        seed: seed of all slides.
        number: number of the slide.
        witnesses: (N,).
        strength: signature of a witness along each of the two directions.
    """
    size, world = witnesses.size, make_world(seed, _TISSUE)
    rng = keyed_generator(_SLIDE_PURPOSE, seed, number)
    shares = rng.dirichlet(np.ones(_TISSUE.kinds))
    values: FloatArray = rng.normal(size=(size, _TISSUE.width))
    values += world.tissue[rng.choice(_TISSUE.kinds, size, p=shares)]
    values += _TISSUE.shift * rng.normal(size=_TISSUE.width)
    values += strength * witnesses[:, None] * (world.first + world.second)
    return values


def write_slides(
    folder: Path, size: int, share: float, strength: float, seed: int = 0
) -> tuple[Path, BoolArray]:
    """Write a table of slides and their features, and return the path of the table.

    Args:
        folder: where ``slides.csv`` and ``features`` go.
        size: N, instances of a slide.
        share: fraction of the witnesses of a positive slide.
        strength: see `make_slide`.
        seed: seed of all slides.

    Returns:
        The table, and the witnesses of the training slides, (16, N).
    """
    (folder / "features").mkdir(parents=True, exist_ok=True)
    rng = keyed_generator(_SLIDE_PURPOSE, seed)
    rows, truth = [("slide_id", "label", "split")], []
    for number in range(TRAINING + VALIDATION):
        label = number % 2 == 0
        witnesses = rng.permutation(np.arange(size) < round(share * size)) & label
        features = make_slide(seed, number, witnesses, strength)
        np.save(folder / "features" / f"s{number}.npy", features.astype(np.float16))
        split = "train" if number < TRAINING else "val"
        rows.append((f"s{number}", "positive" if label else "negative", split))
        truth.append(witnesses)
    table = folder / "slides.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return table, np.stack(truth[:TRAINING])


def separability(table: Path, witnesses: BoolArray) -> float:
    """Return the AUROC of a linear classifier of instances that is trained on true labels.

    It is trained on the even instances of the training slides and scored on the odd ones.
    """
    files = [table.parent / "features" / f"s{number}.npy" for number in range(TRAINING)]
    features = np.stack([np.load(file) for file in files]).astype(np.float64)
    model = LogisticRegression(class_weight="balanced", max_iter=500)
    model.fit(features[:, ::2].reshape(-1, features.shape[2]), witnesses[:, ::2].ravel())
    scores = model.decision_function(features[:, 1::2].reshape(-1, features.shape[2]))
    return float(auroc(witnesses[:, 1::2].ravel(), scores, np.ones((1, scores.size)))[0])


def fit(table: Path, runs: Path, arguments: list[str]) -> torch.Tensor:
    """Train by the recipe and return the pseudo targets of the training slides, (16, N).

    Raises:
        RuntimeError: `train.py` has reported an error.
    """
    flags = ["--config", str(RECIPE), "--data.table", str(table), "--runs_dir", str(runs)]
    flags += ["--trainer.enable_progress_bar", "false", *arguments]
    if train.main(["fit", *flags]):
        raise RuntimeError("the training has failed")
    newest = max(runs.glob("ins/version_*"), key=lambda folder: folder.stat().st_mtime)
    state = torch.load(newest / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    targets: torch.Tensor = state["memory.targets"][:, 1]
    return targets.view(TRAINING, -1)


def means(targets: torch.Tensor, witnesses: BoolArray) -> tuple[float, float]:
    """Return the mean target of the witnesses and of the other instances of positive slides."""
    chosen = torch.from_numpy(witnesses)
    positive = chosen.any(dim=1, keepdim=True)
    return float(targets[chosen].mean()), float(targets[positive & ~chosen].mean())


def main() -> int:
    """Write the slides, train, and print the pseudo targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of slides and runs")
    parser.add_argument("--size", type=int, default=4_000, help="instances of a slide")
    parser.add_argument("--share", type=float, default=0.05, help="share of the witnesses")
    parser.add_argument("--strength", type=float, default=5.0, help="signature of a witness")
    parser.add_argument("--seed", type=int, default=0, help="seed of slides and training")
    args, more = parser.parse_known_args()
    torch.set_num_threads(1)
    table, witnesses = write_slides(args.out, args.size, args.share, args.strength, args.seed)
    print(
        f"linear classifier of instances by true labels: AUROC {separability(table, witnesses):.4f}"
    )
    start = time.process_time()
    targets = fit(table, args.out / "runs", ["--seed_everything", str(args.seed), *more])
    witness, other = means(targets, witnesses)
    print(
        f"seed {args.seed}: mean pseudo target {witness:.3f} of witnesses, {other:.3f} of other "
        f"instances of positive slides; {time.process_time() - start:.0f} s of processor time"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
