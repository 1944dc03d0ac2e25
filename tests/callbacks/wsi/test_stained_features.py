"""`train.py predict` with a stain and with augmented versions, as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

import train
from datamodules.transforms.stain import stain_version
from datamodules.wsi.stain import Macenko
from formats.slide_features import read_attributes
from tests.support.extraction import RECIPE, content, rows
from tests.support.slides import write_tiff
from tests.support.stained_slides import stained_pixels, write_stained
from tests.support.tiny_encoder import TinyEncoder

ROOT = Path(__file__).resolve().parents[3]
MACENKO = ("--data.stain", "datamodules.wsi.stain.Macenko")


@pytest.fixture
def slides(tmp_path):
    for number, name in enumerate("ab"):
        write_stained(tmp_path / "slides" / f"{name}.tiff", number, strength=0.8 + 0.3 * number)
    return tmp_path / "slides"


@pytest.fixture
def command(tmp_path, slides):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))

    def line(*words, out="out"):
        given = ["predict", "--config", str(recipe), "--data.slides", str(slides)]
        given += ["--data.features", str(tmp_path / out), "--runs_dir", str(tmp_path / "runs")]
        return [*given, *map(str, words)]

    return line


def arrays(path):
    with h5py.File(path) as file:
        versions = [file[f"augmented/{k}"][:] for k in sorted(file.get("augmented", ()))]
        return file["features"][:], file["coords"][:], versions


def encoded(images):
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
    return TinyEncoder()(pixels).detach().numpy()


def test_normalised_features_and_what_the_file_says(command, tmp_path):
    assert train.main(command(*MACENKO, "--data.stain.beta", "0.2")) == 0
    path = tmp_path / "out" / "b.h5"
    features, coords, versions = arrays(path)
    assert not versions
    patches, made = read_attributes(path)
    assert patches == len(features)
    section = made.settings["stain"]
    assert section["init_args"] == Macenko(beta=0.2).section()["init_args"]
    assert "augmented" not in made.settings
    with h5py.File(path) as file:
        assert json.loads(file.attrs["stain"]) == made.stain
    change = Macenko(beta=0.2).transform(made.stain)
    image = stained_pixels(1, strength=1.1)
    expected = encoded([change(image[y : y + 64, x : x + 64]) for x, y in coords])
    np.testing.assert_allclose(features, expected, rtol=2e-3, atol=1e-4)
    other = read_attributes(tmp_path / "out" / "a.h5")[1].stain
    assert other["eosin"] == pytest.approx(made.stain["eosin"], abs=0.02)
    ratio = np.divide(made.stain["amounts"], other["amounts"])
    np.testing.assert_allclose(ratio, 1.1 / 0.8, rtol=0.03)  # of the strengths


def test_versions_are_those_of_their_key(command, tmp_path):
    assert train.main(command("--data.augmented", 2)) == 0
    assert train.main(command(out="plain")) == 0
    path = tmp_path / "out" / "a.h5"
    features, coords, versions = arrays(path)
    np.testing.assert_array_equal(features, arrays(tmp_path / "plain" / "a.h5")[0])
    _, made = read_attributes(path)
    assert made.settings["augmented"] == 2 and made.stain is None
    before = content(tmp_path / "out")
    assert train.main(command()) == 0  # what is asked for is there
    assert content(tmp_path / "out") == before
    assert train.main(command("--data.augmented", 3)) == 2
    image = stained_pixels(0, strength=0.8)
    for number, found in enumerate(versions, 1):
        version = stain_version(made.slide_fingerprint, number)
        change = version.density_map()
        images = [version.turned(change(image[y : y + 64, x : x + 64])) for x, y in coords]
        np.testing.assert_allclose(found, encoded(images), rtol=2e-3, atol=1e-4)
        assert np.abs(found - features).max() > 0.01
    assert len(versions) == 2


@pytest.mark.slow
def test_the_files_do_not_depend_on_workers(command, tmp_path):
    words = (*MACENKO, "--data.augmented", 2)
    assert train.main(command(*words)) == 0
    assert train.main(command(*words, "--data.num_workers", 2, out="two")) == 0
    assert content(tmp_path / "out") == content(tmp_path / "two")
    (tmp_path / "out" / "a.h5").unlink()
    assert train.main(command(*words)) == 0  # as after a stop
    assert content(tmp_path / "out") == content(tmp_path / "two")
    assert train.main(command(*words, "--data.batch_size", 3, out="three")) == 0
    for name in "ab":  # only rounding may differ  # A520
        stains = [
            read_attributes(tmp_path / out / f"{name}.h5")[1].stain for out in ("two", "three")
        ]
        assert stains[0] == stains[1]
        one, two = (arrays(tmp_path / out / f"{name}.h5") for out in ("two", "three"))
        np.testing.assert_allclose(one[0], two[0], rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(one[2], two[2], rtol=2e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_write_the_same(command, tmp_path):
    words = (*MACENKO, "--data.augmented", 2)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    two = ["--config", "configs/_base/ddp.yaml", "--trainer.devices", "2"]
    two += ["--trainer.accelerator", "cpu"]
    for out, more in {"one": [], "two": two}.items():
        line = [sys.executable, "train.py", *command(*words, *more, out=out)]
        done = subprocess.run(
            line, cwd=ROOT, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.slow
def test_other_settings_are_refused(command, tmp_path, capfd):
    assert train.main(command(*MACENKO)) == 0
    capfd.readouterr()
    assert train.main(command()) == 2
    said = capfd.readouterr().err
    assert "was made with stain.class_path datamodules.wsi.stain.Macenko in the file" in said
    values = read_attributes(tmp_path / "out" / "a.h5")[1].stain
    (tmp_path / "reference.json").write_text(json.dumps(values))
    reference = ("--data.stain.reference", tmp_path / "reference.json")
    assert train.main(command(*MACENKO, *reference)) == 2
    assert "stain.reference.amounts" in capfd.readouterr().err
    assert train.main(command(*MACENKO, *reference, out="own")) == 0
    settings = read_attributes(tmp_path / "own" / "a.h5")[1].settings
    assert settings["stain"]["init_args"]["reference"] == values
    assert train.main(command(*MACENKO, "--data.stain.reference", "none.png", out="new")) == 2
    said = capfd.readouterr().err
    assert "none.png: no such file; name an image or a JSON file" in said
    assert "Traceback" not in said and not (tmp_path / "new").exists()


def test_a_slide_that_cannot_be_fitted_fails_alone(command, slides, tmp_path):
    image = np.full((512, 640, 3), 240, np.uint8)
    image[64:-64, 64:-64] = (200, 90, 170)
    write_tiff(slides / "c.tiff", [image], None, 0.5, tile=64)
    assert train.main(command(*MACENKO)) == 2
    table = rows(tmp_path / "out")
    assert [table[name]["status"] for name in "abc"] == ["done", "done", "failed"]
    assert "its stains cannot be told apart" in table["c"]["reason"]
    assert (tmp_path / "out" / "previews" / "c.png").exists()
    assert not (tmp_path / "out" / "c.h5").exists()
