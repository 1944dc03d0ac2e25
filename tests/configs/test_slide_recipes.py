"""Recipes that extract features run; published encoders are built in `test_published_encoders`."""

from pathlib import Path

import h5py
import pytest

import train
from tests.support.small_slides import write_slide

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs/wsi").glob("extract_*.yaml"))
TINY = ["--model.init_args.encoder", "tests.support.tiny_encoder.TinyEncoder"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_slide(recipe, tmp_path, monkeypatch):
    """With its own encoder where the weights are packaged, else with a tiny one."""
    monkeypatch.chdir(ROOT)
    write_slide(tmp_path / "slides/a.tiff")
    words = ["--data.slides", tmp_path / "slides", "--data.features", tmp_path / "features"]
    words += ["--data.num_workers", 0, "--runs_dir", tmp_path / "runs"]
    own = recipe.stem == "extract_features"
    words += [] if own else [*TINY, "--data.patch_px", 64]
    assert train.main(["predict", "--config", str(recipe), *map(str, words)]) == 0
    with h5py.File(tmp_path / "features/a.h5") as file:
        assert file["features"].shape[1] == (1280 if own else 8)
        assert file.attrs["mpp"] == 0.5
