"""A wheel, installed without its sources, trains and predicts from an empty folder."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests.support.copied_tree import copy_tree


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
    start = "import sys; sys.argv[0] = 'x'; from segmil import scripts; scripts."
    recipe = ["--config", "configs/quickstart/abmil.yaml"]
    run(empty, site, "-c", f"{start}train()", "fit", *recipe, "--trainer.max_epochs", "1")
    checkpoint = "runs/abmil/version_0/checkpoints/best.ckpt"
    found = run(empty, site, "-c", f"{start}evaluate()", "mil", "--ckpt", checkpoint, "--data",
                recipe[1], "--draws", "20")  # fmt: skip
    assert "bag_auroc" in found
    code = f"import segmil; print(segmil.load({checkpoint!r}).restored.module.class_names)"
    assert "negative" in run(empty, site, "-c", code)
    assert "site" in run(empty, site, "-c", "import segmil, engine; print(engine.__file__)")
