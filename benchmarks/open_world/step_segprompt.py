"""SegPrompt beside the Mask2Former of one class that it contains: prediction, step and memory.

Run `python benchmarks/open_world/step_segprompt.py [--repeats R] [--profile]`. Both networks have a
ResNet-50 and the same weights and take the same images in turn, in one process of one thread; the
median of the ratios of R rounds counts, of processor time. A training step is forward, losses and
backward at 320 px, batch 2, with 7 objects of 80 known categories an image, 300 prompts and 5
examples; a prediction ends with run lengths at 640 px. Memory is the peak above the start of a
step, of processes of their own. Only ratios can be compared between machines.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.seg.query_models import CLASSES, PREDICTION, STEP, STRIDES, make_batch, peak_of
from models.backbones.timm_features import TimmFeatures
from models.seg.mask2former import Mask2Former
from models.seg.segprompt import SegPrompt

WEIGHTS = {"class": 2.0, "mask": 5.0, "dice": 5.0}
Step = Callable[[], object]


def networks() -> tuple[SegPrompt, Mask2Former]:
    """Return both networks with the same random weights."""
    torch.manual_seed(0)
    ours, plain = (
        kind(classes, TimmFeatures("resnet50", norm="frozen_bn", strides=STRIDES))
        for kind, classes in ((SegPrompt, CLASSES), (Mask2Former, 1))
    )
    plain.load_state_dict(ours.state_dict(), strict=False)
    for model in (ours, plain):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ours, plain


def steps(frozen: bool) -> tuple[Step, Step]:
    """Return a training step of each, with or without a trained backbone."""
    ours, plain = networks()
    batch = make_batch(STEP, 2)
    merged = dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))
    for model in (ours, plain):
        model.train().backbone.requires_grad_(not frozen)

    def step(model: Mask2Former, images: object) -> None:
        model.zero_grad()
        terms = model.losses(images)  # type: ignore[arg-type]
        parts = [WEIGHTS[name.rpartition("_")[2]] * term for name, term in terms.items()]
        torch.stack(parts).sum().backward()
        if isinstance(model, SegPrompt):
            model.update_after_step()

    return lambda: step(ours, batch), lambda: step(plain, merged)


def in_turn(repeats: int, functions: Sequence[Step]) -> list[list[float]]:
    """Return the seconds of processor time of each function in each round."""
    rounds = []
    for _ in range(repeats + 1):  # the first warms up
        row = []
        for function in functions:
            start = time.process_time()
            function()
            row.append(time.process_time() - start)
        rounds.append(row)
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def show(name: str, mine: Sequence[float], other: Sequence[float]) -> None:
    """Print medians and the median ratio of the rounds."""
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    print(
        f"{name:32s} {statistics.median(mine):10.3f} {statistics.median(other):12.3f} "
        f"{statistics.median(ratios):6.2f}  {min(ratios):.2f} to {max(ratios):.2f}",
        flush=True,
    )


def predictions() -> tuple[Step, Step]:
    """Return a prediction of each."""
    batch = make_batch(PREDICTION, 1)
    ours, plain = (model.eval() for model in networks())
    return lambda: ours.predict(batch), lambda: plain.predict(batch)


def peaks() -> list[float]:
    """Return the MiB that a step of each needs, in processes of their own."""
    words = [sys.executable, "-W", "ignore", __file__, "--peak"]
    return [
        float(subprocess.check_output([*words, whose], text=True).split()[-1])
        for whose in ("0", "1")
    ]


def profile() -> None:
    """Print which operations a step of SegPrompt spends its time in."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    step, _ = steps(frozen=False)
    step()
    with profiler(activities=[ProfilerActivity.CPU]) as found:
        step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line a comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="profile a step of SegPrompt")
    parser.add_argument("--peak", type=int, choices=[0, 1], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.peak is not None:
        print(peak_of(steps(frozen=False)[options.peak]))
        return
    print(f"{'':32s} {'SegPrompt s':>10s} {'Mask2Former s':>12s} {'ratio':>6s}  range")
    show("prediction to run lengths", *in_turn(options.repeats, predictions()))
    show("training step", *in_turn(options.repeats, steps(frozen=False)))
    show("training step, backbone frozen", *in_turn(options.repeats, steps(frozen=True)))
    show("peak memory of a step, MiB", *([one] for one in peaks()))
    if options.profile:
        profile()


if __name__ == "__main__":
    main()
