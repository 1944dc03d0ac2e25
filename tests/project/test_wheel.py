"""A wheel, installed without its sources, trains and predicts from an empty folder."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests.support.copied_tree import copy_tree

# What a user does in one folder, in one process, which imports what takes seconds once.
SESSION = """
import sys
from pathlib import Path
import segmil
from segmil import scripts

recipe = "configs/quickstart/abmil.yaml"
few = ["--trainer.max_epochs=1", "--callbacks.curves=false", "--callbacks.confusion=false"]
checkpoint = "runs/abmil/version_0/checkpoints/best.ckpt"
for command, words in [
    (scripts.train, ["fit", "--config", recipe, *few, "--callbacks.attention=false"]),
    (scripts.evaluate, ["mil", "--ckpt", checkpoint, "--data", recipe, "--draws", "20"]),
]:
    sys.argv = ["command", *words]
    try:
        command()
    except SystemExit as stop:
        assert stop.code == 0
import engine
print(segmil.load(checkpoint).restored.module.class_names, Path(engine.__file__).parent)
"""


def run(folder, path, *words):
    """Run Python in a folder with packages from another; return its output."""
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_installation_needs_no_clone(tmp_path):
    pytest.importorskip("setuptools")
    source, site, empty = (tmp_path / name for name in ("source", "site", "empty"))
    source.mkdir()
    empty.mkdir()
    copy_tree(source, {})
    (source / "LICENSE").write_text("")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run(tmp_path, "", "-m", "pip", "wheel", "-q", *options, "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("segmil-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    assert "segmil-train = segmil.scripts:train" in next(site.rglob("entry_points.txt")).read_text()
    said = run(empty, site, "-c", SESSION)
    assert "bag_auroc" in said
    assert said.splitlines()[-1] == f"('without 9', 'with 9') {site / 'engine'}"
