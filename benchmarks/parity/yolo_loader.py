"""Timing of the training loader of the original YOLOv8-seg, run as a black box.

`benchmarks/augmentation.py --original PYTHON` starts this file with the Python of a throw-away
environment (README.md). The package (`ultralytics`) is AGPL-3.0: it is not a dependency of this
project, its source is not read, and only public calls are used.

Run `PYTHON yolo_loader.py DATA_YAML SIZE BATCH`. For each input line `SHARE IMAGES`, it loads at
least that many images with that fraction of mosaics and prints the processor seconds per image.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch.utils.data import DataLoader


def make_loader(data_yaml: str, size: int, batch: int, share: float) -> DataLoader[Any]:
    """Return the package's training loader with defaults except for the fraction of mosaics."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(data_yaml, autodownload=False)
    dataset = YOLODataset(
        img_path=data["train"],
        data=data,
        task="segment",
        imgsz=size,
        batch_size=batch,
        augment=True,
        rect=False,
        hyp=get_cfg(overrides={"mosaic": share}),
    )
    return DataLoader(
        dataset,
        batch_size=batch,
        shuffle=True,
        num_workers=0,
        drop_last=True,
        collate_fn=dataset.collate_fn,
        generator=torch.Generator().manual_seed(0),
    )


def produce(loader: DataLoader[Any], count: int) -> float:
    """Return the processor seconds per image, over batches of at least ``count`` images."""
    done, start = 0, time.process_time()
    while done < count:
        for batch in loader:
            done += len(batch["img"])
            if done >= count:
                break
    return (time.process_time() - start) / done


def main() -> None:
    """Process the lines of the standard input."""
    import cv2

    data_yaml, size, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    loaders: dict[float, DataLoader[Any]] = {}
    for line in sys.stdin:
        share, count = float(line.split()[0]), int(line.split()[1])
        if share not in loaders:
            loaders[share] = make_loader(data_yaml, size, batch, share)
        print(f"seconds {produce(loaders[share], count)}", flush=True)


if __name__ == "__main__":
    main()
