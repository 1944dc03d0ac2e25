"""Training on slides does not depend on how their features are stored, read and kept."""

import numpy as np
import pytest
import torch

import evaluate
import train
from formats.features import read_arrays

OPTIONS = {
    "whole bags": [],
    "random parts": ["--data.max_instances", 5, "--data.batch_size", 3],
    "chunks": ["--data.chunk_instances", 7, "--data.sampler", "shuffle", "--data.batch_size", 4],
}

NO_PICTURES = [f"--callbacks.{name}=false" for name in ("curves", "confusion", "attention")]


@pytest.fixture
def weights(tmp_path):
    """Return a function that trains on a table and returns the weights by name."""

    def run(table, features, *words):
        flags = ["--data.table", table, "--data.features", features, "--trainer.accelerator", "cpu"]
        flags += ["--trainer.max_epochs", 2, "--runs_dir", tmp_path / "runs", "--debug", *words]
        flags += ["--trainer.enable_progress_bar", "false", *NO_PICTURES]
        recipe = ["fit", "--config", "configs/mil/abmil_features.yaml"]
        assert train.main([*recipe, *map(str, flags)]) == 0
        last = max((tmp_path / "runs").rglob("last.ckpt"), key=lambda file: file.stat().st_mtime_ns)
        return torch.load(last, map_location="cpu", weights_only=True)["state_dict"]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_weights_do_not_depend_on_it(write_slides, weights, tmp_path, options):
    """Half precision of a folder of several formats, converted and in memory, or single precision.

    Values in half precision are exact in single precision, so the weights have to be equal.
    """
    table = write_slides(16, size=30)
    old, new, single = table.parent / "features", tmp_path / "new", tmp_path / "single"
    words = ["convert-features", "--from", old, "--to", new, "--format", "h5"]
    assert evaluate.main([str(word) for word in words]) == 0
    single.mkdir()
    for file in new.iterdir():
        np.save(single / f"{file.stem}.npy", read_arrays(file).features.float().numpy())
    given = OPTIONS[options]
    first = weights(table, old, "--data.num_workers", 0, *given)
    kept = weights(table, new, "--data.num_workers", 2, "--data.cache_gib", 0.01, *given)
    assert len(first) > 5
    for name, values in first.items():
        assert torch.equal(values, kept[name]), name
    if options == "whole bags":
        full = weights(table, single, "--data.num_workers", 0)
        assert all(torch.equal(values, full[name]) for name, values in first.items())
