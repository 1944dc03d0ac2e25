"""Speed of the training loader with and without mosaic, in images per second of processor time.

Run `python benchmarks/augmentation.py [--root DIR] [--size 640] [--original PYTHON]`. ``DIR`` is a
COCO-format folder (images/train, annotations/instances_train.json). Our loader makes batches of 16
with default options and masks at stride 4. With ``--original``, it alternates with the loader of
the original YOLOv8-seg on the same images, which runs as a black box in a throw-away environment
(benchmarks/parity/README.md), and the ratio of the medians is printed with its bound. Every run
uses one thread; our loader returns float images, the original uint8 images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules.seg.coco import CocoDataModule
from datamodules.seg.mosaic_options import MosaicOptions
from formats.yolo.convert import convert

ROOT = Path(__file__).resolve().parents[1]
BATCH = 16
FASTER = 1.3  # bound on original / ours, with mosaic
KINDS = {"mosaic": 1.0, "single images": 0.0}


class Ours:
    """Our loader, with a given fraction of mosaics."""

    def __init__(self, root: Path, size: int) -> None:
        self.loaders: dict[float, Any] = {}
        self.epochs: dict[float, int] = dict.fromkeys(KINDS.values(), 0)
        for share in KINDS.values():
            data = CocoDataModule(
                train_images=root / "images" / "train",
                train_annotations=root / "annotations" / "instances_train.json",
                val_images=root / "images" / "train",
                val_annotations=root / "annotations" / "instances_train.json",
                batch_size=BATCH,
                mask_stride=4,
                mosaic=MosaicOptions(size=size, probability=share),
            )
            self.loaders[share] = data.train_dataloader()

    def seconds(self, share: float, count: int) -> float:
        """Return the processor seconds per image, over batches of at least ``count`` images."""
        loader, done, start = self.loaders[share], 0, time.process_time()
        while done < count:
            loader.batch_sampler.set_epoch(self.epochs[share])
            self.epochs[share] += 1
            for batch in loader:
                done += len(batch)
                if done >= count:
                    break
        return (time.process_time() - start) / done


class Original:
    """The original loader in a separate process.

    Args:
        python: Python executable of the environment with the package.
        root: COCO-format folder.
        folder: output folder for the same images as a YOLO set.
        size: side in pixels.
    """

    def __init__(self, python: str, root: Path, folder: Path, size: int) -> None:
        file = root / "annotations" / "instances_train.json"
        convert(
            "coco",
            "yolo",
            annotations=file,
            images=root / "images" / "train",
            out=folder,
            skip_crowds=True,
        )
        data = folder / "data.yaml"
        data.write_text(f"{data.read_text()}val: images/train\n")  # required by the package
        script = ROOT / "benchmarks" / "parity" / "yolo_loader.py"
        quiet = {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [python, str(script), str(data), str(size), str(BATCH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | quiet,
        )

    def seconds(self, share: float, count: int) -> float:
        """Return the processor seconds per image, over batches of at least ``count`` images.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{share} {count}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError("the process of the original has ended; its messages are above")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(
    loaders: list[Ours | Original], images: int, repeats: int
) -> dict[str, list[list[float]]]:
    """Return seconds per image by kind and loader, one value per repeat; loaders alternate."""
    found: dict[str, list[list[float]]] = {kind: [[] for _ in loaders] for kind in KINDS}
    for kind, share in KINDS.items():
        for loader in loaders:
            loader.seconds(share, 2 * BATCH)  # warm up
        for _ in range(repeats):
            for loader, row in zip(loaders, found[kind], strict=True):
                row.append(loader.seconds(share, images))
    return found


def main() -> int:
    """Print the comparison and return exit code 1 if the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=ROOT.parent / "shared" / "data" / "coco_small")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--original", metavar="PYTHON")
    parser.add_argument("--pictures", type=int, default=160, help="images per run")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        loaders: list[Ours | Original] = [Ours(args.root, args.size)]
        if args.original:
            loaders.append(Original(args.original, args.root, Path(folder), args.size))
        found = measure(loaders, args.pictures, args.repeats)
        if isinstance(loaders[-1], Original):
            loaders[-1].close()
    print(f"images per processor second, {args.size} px, medians of {args.repeats} runs")
    for kind, rows in found.items():
        medians = [statistics.median(row) for row in rows]
        line = f"  {kind:16s} ours {1 / medians[0]:6.1f}"
        if len(medians) > 1:
            ratio = medians[1] / medians[0]
            line += f"  original {1 / medians[1]:6.1f}  ratio {ratio:5.2f}"
            if kind == "mosaic":
                line += f"  bound {FASTER}"
                missed = ratio < FASTER
        print(line)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
