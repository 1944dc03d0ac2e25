"""Property tests draw the same few examples every time, so that a failure can be repeated.

`pytest --hypothesis-profile thorough` looks at many others.
"""

import csv
import gc
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import tests.support.quick_start.sitecustomize as quick_start  # before Lightning

os.environ["PYTHONPATH"] = os.pathsep.join(  # of the processes that tests start
    [str(Path(quick_start.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
)

# isort: split

import h5py
import numpy as np
import pytest
import torch
from hypothesis import settings
from safetensors.numpy import save_file

from tests.support.data_folders import (  # noqa: F401  fixtures of every folder
    shared_data,
    small_coco,
    write_coco,
    write_yolo,
)

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=30, database=None
)
settings.register_profile("thorough", deadline=None, max_examples=1000, database=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items):
    """Put files with slow tests first, so that no process waits long for another at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish():
    """Leave libraries and ten thousand tests out of every later search for garbage."""
    gc.collect()
    gc.freeze()


def write_features(path, features, coords):
    """Write a slide in the format of the suffix; npy has no coordinates."""
    if path.suffix == ".npy":
        np.save(path, features)
    elif path.suffix == ".pt":
        torch.save({"features": torch.tensor(features), "coords": torch.tensor(coords)}, path)
    elif path.suffix == ".safetensors":
        save_file({"features": features, "coords": coords}, path)
    else:
        with h5py.File(path, "w") as file:
            file["features"], file["coords"] = features, coords


@pytest.fixture
def write_slides(tmp_path):
    """Return a function that writes a table of slides s0, s1, ... and their features.

    Slide i has class i % classes and 3 to 6 instances; those of class c have a larger feature c.
    A patient has two slides of one class. Formats take turns. Keywords are columns of the table,
    None leaves one out.
    """

    def written(count=12, classes=2, width=4, name="set", size=None, **columns):
        folder = tmp_path / name
        (folder / "features").mkdir(parents=True, exist_ok=True)
        table = {
            "slide_id": [f"s{i}" for i in range(count)],
            "patient_id": [f"p{i // (2 * classes)}_{i % classes}" for i in range(count)],
            "label": [i % classes for i in range(count)],
        } | columns
        table = {key: value for key, value in table.items() if value is not None}
        for i in range(count):
            random = np.random.default_rng([i, width])
            features = random.normal(size=(size or 3 + i % 4, width)).astype(np.float16)
            features[:, i % classes] += 3
            suffix = (".npy", ".h5", ".pt", ".safetensors")[i % 4]
            coords = random.integers(0, 9999, (len(features), 2))
            write_features(folder / "features" / f"s{i}{suffix}", features, coords)
        path = folder / "slides.csv"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
        return path

    return written


def keep_wandb_below(folder, monkeypatch):
    """Keep everything W&B writes below a folder, off the network and quiet."""
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        inner = folder / variable.lower()
        inner.mkdir()
        monkeypatch.setenv(variable, str(inner))


@pytest.fixture
def offline_wandb(tmp_path, monkeypatch):
    """Keep everything W&B writes below ``tmp_path``, off the network and quiet."""
    keep_wandb_below(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def module_wandb(tmp_path_factory):
    """Keep everything W&B writes below a folder of all tests of a module; return the folder."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        keep_wandb_below(folder, patch)
        yield folder


@pytest.fixture(scope="session")
def read_wandb():
    """Return a function that reads a W&B run folder through the command that W&B supports.

    Its answer has ``record`` (the run's own), ``config``, ``summary``, ``history`` (rows as flat
    dictionaries), ``artifacts``, ``alerts``, ``metrics`` (definitions by name), ``labels`` (class
    names of masks by key) and ``tables``, a function from a key to the rows of its last table.
    """
    program = str(Path(sys.executable).with_name("wandb"))
    known = subprocess.run([program, "leet", "inspect", "--help"], capture_output=True, check=False)
    if known.returncode != 0:
        pytest.skip("this wandb has no `leet inspect`, the supported way to read a run")

    def inspect(folder, *options):
        command = [program, "leet", "inspect", *options, "--json", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def read(folder):
        folder = Path(folder).resolve()
        rows = [json.loads(line) for line in inspect(folder).splitlines()]
        whole = json.loads(inspect(folder, "--summary"))
        found = {
            kind: [r[kind] for r in rows if r["type"] == kind]
            for kind in ("run", "history", "artifact", "metric", "alert")
        }
        history = [h["item"] for h in found["history"]]
        configs = [r["config"]["update"] for r in rows if r["type"] == "config"]
        internal = [c["_wandb"] for c in configs if isinstance(c.get("_wandb"), dict)]
        labels = internal[-1].get("mask/class_labels", {}) if internal else {}

        def tables(key):
            paths = [h[f"{key}.path"] for h in history if f"{key}.path" in h]
            content = json.loads((Path(folder) / "files" / paths[-1]).read_text())
            return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

        return SimpleNamespace(
            record=found["run"][0],
            config=whole["config"],
            summary=whole["summary"],
            state=whole["state"],
            history=history,
            artifacts=found["artifact"],
            alerts=found["alert"],
            metrics={m["name"]: m for m in found["metric"] if "name" in m},
            labels=labels,
            tables=tables,
        )

    return read


@pytest.fixture
def damage_png():
    """Return a function that spoils the pixels of a PNG and leaves its header and its end."""

    def damage(file):
        whole = file.read_bytes()
        file.write_bytes(whole[:50] + bytes(255 - b for b in whole[50:-12]) + whole[-12:])

    return damage
