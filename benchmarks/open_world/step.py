"""Processor time of SWORD's training step beside that of Deformable DETR, at equal queries.

Run `python benchmarks/open_world/step.py [--repeats R]`: forward, losses, backward and, for SWORD,
the update of its queue, of a ResNet-50 at 320 px, batch 2, with 300 queries and 7 objects an image,
on one thread. Both have the same weights of Deformable DETR and take turns; the median of the
ratios of R rounds counts, because other work on the machine slows both. SimOTA assigns more queries
to an object, the better they fit it, so that a step costs more towards the end of a training:
`early` has random weights; in `late` every object has ten boxes close to it in every layer, the
most that SimOTA assigns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.seg.query_models import OBJECTS, STEP, make_batch
from models.backbones.timm_features import TimmFeatures
from models.losses.box import to_centres
from models.seg.deformable_detr import DeformableDETR
from models.seg.sword import SWORD
from structures import SegBatch

QUERIES, EACH = 300, 10
WEIGHTS = {"class": 2.0, "box": 5.0, "giou": 2.0, "mask": 2.0, "dice": 5.0}
BOUND = 1.15
PARTS: dict[str, dict[str, Any]] = {
    "SWORD": {},
    "without contrast": {"contrast": False},
    "without IoU heads": {"iou_heads": False},
    "Hungarian": {"assignment": "hungarian"},
}


def network(kind: type[DeformableDETR], late: bool, batch: SegBatch, **options: Any) -> Any:
    """Return a network with random weights and, in `late`, with boxes close to the objects."""
    torch.manual_seed(0)
    backbone = TimmFeatures("resnet50", norm="frozen_bn", trainable_stages=3)
    model = kind(1, backbone, num_queries=QUERIES, **options).train()
    if late:
        _hit(model, batch)
    return model.to(memory_format=torch.channels_last)


def _hit(model: DeformableDETR, batch: SegBatch) -> None:
    """Move the boxes of the first queries of every layer close to the objects."""
    boxes = to_centres(batch.boxes / STEP).view(len(batch), OBJECTS, 1, 4)
    boxes = boxes.expand(-1, -1, EACH, -1).flatten(1, 2)  # (B, 70, 4)
    decode = model._decode_queries

    def decoded(*given: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        queries, points, found = decode(*given)
        close = [torch.cat([boxes + 0.01 * b[:, : boxes.shape[1]], b[:, boxes.shape[1] :]], 1)
                 for b in found]  # fmt: skip
        return queries, points, close

    model._decode_queries = decoded  # type: ignore[method-assign]


def step(model: Any, batch: SegBatch) -> Callable[[], float]:
    """Return a function that makes a step and gives its processor time."""

    def run() -> float:
        start = time.process_time()
        model.zero_grad()
        terms = model.losses(batch)
        torch.stack(
            [WEIGHTS.get(name, 1.0) * term for name, term in terms.items()]
        ).sum().backward()
        if isinstance(model, SWORD):
            model.update_after_step()
        return time.process_time() - start

    return run


def compare(late: bool, repeats: int, only: list[str]) -> float:
    """Print the times; return the ratio of SWORD."""
    torch.set_num_threads(1)
    batch = make_batch(STEP, 2)
    batch.labels.zero_()
    steps = {"Deformable DETR": step(network(DeformableDETR, late, batch), batch)}
    for name in only:
        steps[name] = step(network(SWORD, late, batch, **PARTS[name]), batch)
    for run in steps.values():
        run()  # the first is slower; it fills the queue
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, run in steps.items():
            times[name].append(run())
    plain = times["Deformable DETR"]
    ratios = {}
    for name, own in times.items():
        each = [one / other for one, other in zip(own, plain, strict=True)]
        ratios[name] = statistics.median(each)
        state = f"{'late' if late else 'early'}: {name}: {statistics.median(own):.2f} s"
        print(f"{state}, ratio {ratios[name]:.3f} ({min(each):.3f} to {max(each):.3f})", flush=True)
    return ratios.get("SWORD", 0.0)


def main() -> None:
    """Measure both states."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, metavar="R")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="ROW")
    given = parser.parse_args()
    worst = max(compare(late, given.repeats, given.only) for late in (False, True))
    print(f"SWORD: at most {worst:.3f}, bound {BOUND}")


if __name__ == "__main__":
    main()
