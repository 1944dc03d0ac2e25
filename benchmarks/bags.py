"""Time to read the features of one slide, compared with a plain copy of the file's bytes.

Run `python benchmarks/bags.py [--repeats R]`. A bag of 10 000 x 1024 float16 is stored in every
format. All files are read from a warm cache in random order, because the state of the allocator
changes times by a few milliseconds. *Read* is the reader with all values copied to memory; *bag* is
an item of the data set, which is also checked for NaN and converted to single precision (twice the
bytes). Times are medians of processor time, which other jobs disturb least; the time of the copy is
the median over all formats.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules.mil.feature_set import FeatureBags, FeatureFolder, FeatureSet
from datamodules.sampling.keys import SampleKey
from formats.features import read_features

INSTANCES, WIDTH, BOUND = 10_000, 1024, 1.5
BOUNDED = ("npy", "safetensors")
FORMATS = (*BOUNDED, "pt", "h5")


def write_formats(folder: Path) -> dict[str, Path]:
    """Write the same features and coordinates in every format, each in a folder with a table."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(INSTANCES, WIDTH, generator=generator).half()
    coords = torch.randint(0, 100_000, (INSTANCES, 2), generator=generator)
    files = {kind: folder / kind / f"slide.{kind}" for kind in FORMATS}
    for file in files.values():
        file.parent.mkdir()
        (file.parent / "table.csv").write_text("slide_id,label\nslide,0\n")
    arrays = {"features": features, "coords": coords}
    np.save(files["npy"], features.numpy())
    save_file(arrays, files["safetensors"])
    torch.save(arrays, files["pt"])
    with h5py.File(files["h5"], "w") as file:
        for name, values in arrays.items():
            file[name] = values.numpy()
    return files


def readers(file: Path) -> dict[str, Callable[[], Any]]:
    """Return the functions to time for one file."""
    folder = FeatureFolder(file.parent)
    data = FeatureSet(file.parent / "table.csv", folder, class_names=["0", "1"])
    bags, key = FeatureBags(data), SampleKey(0, 0)
    return {
        "copy": lambda: np.fromfile(file, dtype=np.uint8),
        "read": partial(_read, file),
        "bag": lambda: bags[key],
    }


def _read(file: Path) -> torch.Tensor:
    return read_features(file).features.clone()


def main() -> int:
    """Print the table and return exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    late = False
    with tempfile.TemporaryDirectory() as folder:
        ways = {kind: readers(file) for kind, file in write_formats(Path(folder)).items()}
        calls = {(k, name): call for k, way in ways.items() for name, call in way.items()}
        times: dict[tuple[str, str], list[float]] = {pair: [] for pair in calls}
        rng = np.random.default_rng(0)
        for number in range(repeats + 2):
            for position in rng.permutation(len(calls)):
                pair = list(calls)[position]
                start = time.thread_time()
                result = calls[pair]()
                seconds = time.thread_time() - start
                del result
                if number >= 2:  # the first rounds warm up
                    times[pair].append(seconds)
    copy = statistics.median(t for kind in FORMATS for t in times[kind, "copy"])
    print(f"plain copy of the bytes {copy * 1e3:.1f} ms")
    for kind in FORMATS:
        read, bag = (statistics.median(times[kind, name]) for name in ("read", "bag"))
        late |= kind in BOUNDED and read / copy > BOUND
        bound = f"   bound {BOUND}" if kind in BOUNDED else ""
        print(
            f"{kind:12s} read {read * 1e3:6.1f} ms, ratio {read / copy:5.2f}{bound:12s}"
            f"   bag {bag * 1e3:6.1f} ms, ratio {bag / copy:5.2f}"
        )
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
