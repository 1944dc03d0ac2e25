"""Time to read the features of slides: every format, parts of bags, bags kept in memory.

Run `python benchmarks/bags.py [--repeats R]`. The functions run in random order on files in a warm
cache, because the state of the allocator changes times by a few milliseconds. Times are medians of
processor time, which other jobs disturb least.

*Formats*: a bag of 10 000 x 1024 float16 in every format, compared with a plain copy of the file's
bytes. *Read* is the reader with all values copied to memory; *bag* is an item of the data set in
single precision (twice the bytes), which is also checked for NaN. TRIDENT's h5 has a chunk a row.

*Parts*: 1 000 random instances of that bag (`max_instances`), compared with a reader that takes
them from the whole file, as the h5 library reads it.

*Epochs*: all training bags of 12 slides of 5 000 x 1024 through the loader, in TRIDENT's layout;
the second epoch with `cache_gib` compared with the first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from datamodules.mil.feature_bags import FeatureBags
from datamodules.mil.feature_set import FeatureFolder, FeatureSet
from datamodules.mil.features import FeatureBagsDataModule
from datamodules.sampling.keys import SampleKey
from formats.features import read_features

INSTANCES, WIDTH, BOUND = 10_000, 1024, 1.5
PART, PART_BOUND = 1_000, 0.35
SLIDES, SLIDE_INSTANCES, EPOCH_BOUND = 12, 5_000, 0.25
BOUNDED = ("npy", "safetensors")
FORMATS = (*BOUNDED, "pt", "h5", "trident")

Call = Callable[[], Any]
Times = dict[str, list[float]]


def write_trident(file: Path, arrays: Mapping[str, torch.Tensor]) -> None:
    """Write an h5 file with a chunk a row, to which rows can be added."""
    with h5py.File(file, "w") as stream:
        for name, values in arrays.items():
            rest = values.shape[1:]
            stream.create_dataset(
                name, data=values.numpy(), chunks=(1, *rest), maxshape=(None, *rest)
            )


def random_arrays(instances: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return features (N, 1024) in half precision and coordinates (N, 2)."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(instances, WIDTH, generator=generator).half()
    return {
        "features": features,
        "coords": torch.randint(0, 100_000, (instances, 2), generator=generator),
    }


def write_formats(folder: Path) -> dict[str, Path]:
    """Write the same features and coordinates in every format, each in a folder with a table."""
    arrays = random_arrays(INSTANCES)
    suffixes = {kind: "h5" if kind == "trident" else kind for kind in FORMATS}
    files = {kind: folder / kind / f"slide.{suffix}" for kind, suffix in suffixes.items()}
    for file in files.values():
        file.parent.mkdir()
        (file.parent / "table.csv").write_text("slide_id,label\nslide,0\n")
    np.save(files["npy"], arrays["features"].numpy())
    save_file(arrays, files["safetensors"])
    torch.save(arrays, files["pt"])
    with h5py.File(files["h5"], "w") as stream:
        for name, values in arrays.items():
            stream[name] = values.numpy()
    write_trident(files["trident"], arrays)
    return files


def readers(kind: str, file: Path) -> dict[str, Call]:
    """Return the functions to time for one file by name."""
    folder = FeatureFolder(file.parent)
    data = FeatureSet(file.parent / "table.csv", folder, class_names=["0", "1"])
    bags, parts = FeatureBags(data), FeatureBags(data, PART)
    return {
        f"{kind} copy": lambda: np.fromfile(file, dtype=np.uint8),
        f"{kind} read": partial(_read, file),
        f"{kind} bag": partial(_bag, bags),
        f"{kind} part": partial(_bag, parts),
    }


def _bag(bags: FeatureBags) -> torch.Tensor:
    return bags[SampleKey(0, 0)].in_single_precision().features


def _read(file: Path) -> torch.Tensor:
    return read_features(file).features.clone()


def part_of_whole(file: Path) -> torch.Tensor:
    """Read a whole h5 file by the library and return 1 000 rows in single precision."""
    found = []
    with h5py.File(file, "r", locking=False) as stream:
        for name in ("features", "coords"):
            found.append(np.empty(stream[name].shape, stream[name].dtype))
            stream[name].read_direct(found[-1])
    rows = np.sort(np.random.default_rng(0).choice(INSTANCES, PART, replace=False))
    return torch.from_numpy(found[0][rows].astype(np.float32))


def timed(calls: Mapping[str, Call], repeats: int) -> dict[str, float]:
    """Return the median processor time of each function, called in random order."""
    times: Times = {name: [] for name in calls}
    rng = np.random.default_rng(0)
    for number in range(repeats + 2):
        for position in rng.permutation(len(calls)):
            name = list(calls)[position]
            start = time.thread_time()
            result = calls[name]()
            seconds = time.thread_time() - start
            del result
            if number >= 2:  # the first rounds warm up
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def time_formats(folder: Path, repeats: int) -> bool:
    """Print the times of formats and parts and return whether a bound is missed."""
    files = write_formats(folder)
    calls = {n: call for kind, file in files.items() for n, call in readers(kind, file).items()}
    calls |= {f"{k} whole": partial(part_of_whole, files[k]) for k in ("h5", "trident")}
    found, late = timed(calls, repeats), False
    copy = statistics.median(found[f"{kind} copy"] for kind in FORMATS)
    print(f"plain copy of the bytes {copy * 1e3:.1f} ms")
    for kind in FORMATS:
        read, bag, part = (found[f"{kind} {name}"] for name in ("read", "bag", "part"))
        late |= kind in BOUNDED and read / copy > BOUND
        bound = f"   bound {BOUND}" if kind in BOUNDED else ""
        print(
            f"{kind:12s} read {read * 1e3:6.1f} ms, ratio {read / copy:5.2f}{bound:12s}"
            f"   bag {bag * 1e3:6.1f} ms, ratio {bag / copy:5.2f}   part {part * 1e3:6.1f} ms"
        )
    for kind in ("h5", "trident"):
        ratio = found[f"{kind} part"] / found[f"{kind} whole"]
        late |= kind == "trident" and ratio > PART_BOUND
        bound = f"   bound {PART_BOUND}" if kind == "trident" else ""
        whole = found[f"{kind} whole"] * 1e3
        print(f"{kind:12s} part of a file read whole {whole:6.1f} ms, ratio {ratio:5.2f}{bound}")
    return late


def time_epochs(folder: Path, repeats: int) -> bool:
    """Print the times of two epochs with and without a cache; return whether a bound is missed."""
    (folder / "features").mkdir(parents=True)
    for number in range(SLIDES):
        arrays = random_arrays(SLIDE_INSTANCES, number)
        write_trident(folder / "features" / f"s{number}.h5", arrays)
    rows = "".join(f"s{n},{n % 2},train\n" for n in range(SLIDES))
    (folder / "slides.csv").write_text(f"slide_id,label,split\n{rows}")
    times: dict[str, list[tuple[float, float]]] = {"no cache": [], "cache": []}
    for _ in range(repeats):
        for name, gib in (("no cache", 0.0), ("cache", 1.0)):
            data = FeatureBagsDataModule(folder / "slides.csv", val_fraction=0, cache_gib=gib)
            loader = data.train_dataloader()
            times[name].append((_epoch(loader), _epoch(loader)))
    late = False
    for name, pairs in times.items():
        first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        late |= name == "cache" and ratio > EPOCH_BOUND
        bound = f"   bound {EPOCH_BOUND}" if name == "cache" else ""
        print(
            f"{name:12s} first epoch {first * 1e3:6.0f} ms, second {second * 1e3:6.0f} ms, "
            f"ratio {ratio:5.2f}{bound}"
        )
    return late


def _epoch(loader: Any) -> float:
    start = time.thread_time()
    for bags in loader:
        bags.in_single_precision()
    return time.thread_time() - start


def main() -> int:
    """Print the tables and return exit code 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        late = time_formats(Path(folder), repeats)
        late |= time_epochs(Path(folder) / "epochs", max(2, repeats // 3))
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
