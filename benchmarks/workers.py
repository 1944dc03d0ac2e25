"""Data loader workers: transfer time of a batch, and memory of an additional worker.

Run `python benchmarks/workers.py [--repeats R] [--rounds N]`. *Crossing* times one worker that
sends copies of a batch of 8 images of 320 px with 20 instances each, alternating with one tensor of
the same number of bytes. *Memory* is what an additional worker adds to the proportional set size
(PSS) of a job that trains on COCO data of 500 and of 50 000 annotated images, after each worker has
made 60 batches. Linux only, because PSS is read from ``/proc``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules.seg.coco import CocoDataModule
from structures import SegBatch

IMAGES, SIDE, INSTANCES = 8, 320, 20
OUTLINE = [4, 4, 24, 4, 24, 44, 4, 44]
SLOWER, MORE_MIB = 1.20, 10.0  # bounds


def make_batch() -> SegBatch:
    """Return a batch of noise."""
    total = IMAGES * INSTANCES
    generator = torch.Generator().manual_seed(0)
    sizes = torch.full((IMAGES, 2), SIDE)
    return SegBatch(
        images=torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator),
        sizes=sizes,
        boxes=torch.rand(total, 4, generator=generator) * SIDE,
        labels=torch.randint(0, 80, (total,), generator=generator),
        masks=torch.rand(total, SIDE, SIDE, generator=generator) > 0.5,
        counts=torch.full((IMAGES,), INSTANCES),
        crowd=torch.zeros(total, dtype=torch.bool),
        index=torch.arange(IMAGES),
        original_sizes=sizes.clone(),
        image_ids=tuple(range(IMAGES)),
    )


def tensors(batch: SegBatch) -> dict[str, Tensor]:
    """Return the tensors of a batch by field name."""
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


class Copies(Dataset[Any]):
    """Data set of fresh copies of a batch, as a collate function returns them."""

    def __init__(self, batch: SegBatch, one_tensor: bool, count: int) -> None:
        self.batch, self.one_tensor, self.count = batch, one_tensor, count
        size = sum(t.numel() * t.element_size() for t in tensors(batch).values())
        self.bytes = torch.randint(0, 255, (size,), dtype=torch.uint8)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        if self.one_tensor:
            return self.bytes.clone()
        copies = {name: t.clone() for name, t in tensors(self.batch).items()}
        return dataclasses.replace(self.batch, **copies)


def crossing(rounds: int, repeats: int) -> tuple[list[float], list[float]]:
    """Return seconds per batch of both kinds, one value per repeat of ``rounds`` batches."""
    batch, warm_up = make_batch(), 4
    count = (rounds + warm_up) * repeats
    loaders = [
        iter(DataLoader(Copies(batch, one, count), batch_size=None, num_workers=1))
        for one in (False, True)
    ]
    results: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for loader, row in zip(loaders, results, strict=True):
            for _ in range(warm_up):  # some batches were prefetched earlier
                next(loader)
            start = time.perf_counter()
            for _ in range(rounds):
                next(loader)
            row.append((time.perf_counter() - start) / rounds)
    return results


def write_set(folder: Path, count: int) -> CocoDataModule:
    """Return a data set of ``count`` file names of one image, with two polygons each."""
    images, side = folder / "images", 64
    images.mkdir(parents=True)
    Image.new("RGB", (side, side)).save(images / "0.png")
    for k in range(1, count):
        os.link(images / "0.png", images / f"{k}.png")
    annotations = [
        {
            "id": 2 * k + half + 1,
            "image_id": k,
            "category_id": 1 + k % 80,
            "bbox": [4 + 30 * half, 4, 20, 40],
            "area": 800,
            "iscrowd": 0,
            "segmentation": [[c + 30 * half * (i % 2 == 0) for i, c in enumerate(OUTLINE)]],
        }
        for k in range(count)
        for half in (0, 1)
    ]
    record = {
        "images": [
            {"id": k, "file_name": f"{k}.png", "height": side, "width": side} for k in range(count)
        ],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, 81)],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(record))
    return CocoDataModule(
        train_images=images, train_annotations=file, val_images=images, val_annotations=file
    )


def pss(process: int) -> float:
    """Return the proportional set size of a process in MiB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return int(next(x for x in lines if x.startswith("Pss:")).split()[1]) / 1024


def memory_with(data: CocoDataModule, workers: int, batches: int) -> float:
    """Return the PSS of this process and its workers after ``batches`` batches per worker."""
    data.num_workers = workers
    iterator = iter(data.train_dataloader())
    for _ in range(batches * workers):
        next(iterator)
    processes = [child.pid for child in multiprocessing.active_children()]
    assert len(processes) == workers
    total = pss(os.getpid()) + sum(pss(int(process or 0)) for process in processes)
    del iterator
    return total


def measure_memory(count: int) -> float:
    """Return the MiB per additional worker: half of the increase from one to three workers."""
    with tempfile.TemporaryDirectory() as folder:
        data = write_set(Path(folder), count)
        one, three = (memory_with(data, workers, batches=60) for workers in (1, 3))
    return (three - one) / 2


def main() -> int:
    """Print both comparisons and return exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--memory", type=int, help="print the MiB per worker with N images")
    args = parser.parse_args()
    if args.memory is not None:
        print(measure_memory(args.memory))
        return 0
    torch.set_num_threads(1)
    ours, single = crossing(args.rounds, args.repeats)
    ratio = statistics.median(a / b for a, b in zip(ours, single, strict=True))
    print(f"crossing, {IMAGES} images of {SIDE} px with {INSTANCES} instances each:")
    print(f"  SegBatch   {statistics.median(ours) * 1e3:7.2f} ms")
    print(f"  one tensor {statistics.median(single) * 1e3:7.2f} ms")
    print(f"  ratio      {ratio:7.2f}     bound {SLOWER:.2f}")
    added = {}
    for count in (500, 50_000):
        command = [sys.executable, "-W", "ignore", __file__, "--memory", str(count)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        added[count] = float(done.stdout)
        print(f"an additional worker with {count:6d} images adds {added[count]:6.1f} MiB")
    more = added[50_000] - added[500]
    print(f"  difference {more:7.2f} MiB  bound {MORE_MIB:.0f} MiB")
    return int(ratio > SLOWER or more > MORE_MIB)


if __name__ == "__main__":
    sys.exit(main())
