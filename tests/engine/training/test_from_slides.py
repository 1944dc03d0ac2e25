"""`train.py predict --data.slides`: slides are extracted as for the training and then predicted."""

import copy
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

import train
from callbacks.wsi import heatmaps
from tests.support.extraction import RECIPE, rows
from tests.support.slides import reduced, write_tiff
from tests.support.small_slides import BORDER, MPP, slide_pixels, write_broken_slide
from tests.support.tiny_encoder import TinyEncoder

ROOT = Path(__file__).resolve().parents[3]
SLIDES = 6
SETTINGS = ["--data.mpp", "0.6", "--data.min_tissue", "0.4"]  # not the defaults


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function that runs a command of train.py in a folder and returns its exit code."""
    runs = tmp_path_factory.mktemp("runs")

    def call(command, *words, name="run"):
        given = [command, *map(str, words), "--runs_dir", str(runs), "--name", name]
        return train.main([*given, "--trainer.accelerator", "cpu"]), runs / name

    return call


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, run):
    """Six slides with labels, their features and a checkpoint that was trained on these."""
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "slides").mkdir()
    for number in range(SLIDES):
        image = slide_pixels(number)
        image[BORDER:-BORDER, BORDER:-BORDER] -= np.uint8(5 * number)  # a colour of its own
        levels = [image, reduced(image, 4)]
        write_tiff(folder / "slides" / f"s{number}.tiff", levels, None, MPP, tile=64)
    lines = [f"s{n}.tiff,{n % 2},{'val' if n > 3 else 'train'}" for n in range(SLIDES)]
    (folder / "slides.csv").write_text("\n".join(["slide_id,label,split", *lines]))
    new = [f"s{n}.tiff" for n in range(SLIDES)]
    (folder / "new.csv").write_text("\n".join(["slide_id", *new]))  # without labels
    recipe = copy.deepcopy(RECIPE)
    recipe["model"]["init_args"]["encoder"]["init_args"] = {"factor": 9.0}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    extract(folder, run, "tiny.yaml", "features", *SETTINGS)
    folder.joinpath("best.ckpt").write_bytes(fit(folder, run, "features").read_bytes())
    return folder


def extract(folder, run, recipe, out, *words):
    given = ["--config", folder / recipe, "--data.slides", folder / "slides"]
    code, _ = run("predict", *given, "--data.features", folder / out, *words, name="extract")
    assert code == 0


def fit(folder, run, features, recipe="configs/mil/abmil_features.yaml"):
    given = ["--config", recipe, "--data.table", folder / "slides.csv", "--data.num_workers", 0]
    given += ["--data.features", folder / features, "--trainer.max_epochs", 1]
    name = f"fit_{features}_{Path(recipe).stem}"
    code, runs = run("fit", *given, "--checkpoint.save_top_k", 0, name=name)
    assert code == 0
    return runs / "version_0" / "checkpoints" / "last.ckpt"


def predict(run, cohort, *words, name, checkpoint="best.ckpt", table="new.csv"):
    """Run predict over slides; return the exit code and the folder of the run."""
    given = ["--ckpt_path", cohort / checkpoint, "--data", cohort / table]
    given += ["--data.extraction_workers", 0]
    code, runs = run("predict", *given, *words, name=name)
    versions = sorted(runs.glob("version_*"))
    return code, versions[-1] if versions else None


def scores(folder):
    with (folder / "predictions" / "bags.csv").open(newline="") as file:
        return {row["bag_id"]: float(row["score"]) for row in csv.DictReader(file)}


def arrays(folder):
    found = {}
    for path in folder.glob("*.h5"):
        with h5py.File(path) as file:
            found[path.name.removesuffix(".h5").removesuffix(".tiff")] = (
                file["features"][:], file["coords"][:], file.attrs["settings"],
            )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def over_files(cohort, run):
    """Scores of `predict` over the feature files of the ordinary extraction."""
    given = ["--ckpt_path", cohort / "best.ckpt", "--data", cohort / "new.csv"]
    code, runs = run("predict", *given, "--data.features", cohort / "features", name="files")
    assert code == 0
    found = scores(runs / "version_0")
    assert np.diff(sorted(found.values())).min() > 1e-5
    return found


@pytest.mark.slow
def test_slides_score_as_their_feature_files(cohort, run, over_files, caplog, monkeypatch):
    monkeypatch.chdir(cohort.parent)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with caplog.at_level("INFO"):
        code, found = predict(run, cohort, "--data.slides", f"{cohort.name}/slides", name="slides")
    assert code == 0
    assert scores(found) == pytest.approx(over_files, abs=1e-6, rel=0)
    features = found / "predictions" / "features"
    assert f"features of the slides are written to {features}" in caplog.text
    own, others = arrays(features), arrays(cohort / "features")
    assert own.keys() == others.keys()
    for name, (values, coords, settings) in others.items():
        np.testing.assert_array_equal(own[name][1], coords)
        np.testing.assert_allclose(own[name][0], values, rtol=2e-3, atol=1e-4)
        assert own[name][2] == settings
    assert len(list((features / "previews").iterdir())) == SLIDES
    maps = found / "predictions" / "heatmaps"
    assert sorted(p.name for p in maps.glob("*.geojson")) == [
        f"s{n}.tiff.geojson" for n in range(SLIDES)
    ]


def test_files_that_are_there_are_used_and_the_others_extracted(
    cohort, run, over_files, tmp_path, monkeypatch
):
    for name in ("s0", "s3"):
        (tmp_path / "own").mkdir(exist_ok=True)
        shutil.copy(cohort / "features" / f"{name}.h5", tmp_path / "own")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "own").iterdir()}
    monkeypatch.setattr(heatmaps, "find_slides", None)  # nothing is drawn
    words = ["--data.slides", cohort / "slides", "--data.features", tmp_path / "own"]
    code, found = predict(run, cohort, *words, "--callbacks.heatmaps", "false", name="partly")
    assert code == 0
    assert scores(found) == pytest.approx(over_files, abs=1e-6, rel=0)
    assert {n: (tmp_path / "own" / n).stat().st_mtime_ns for n in before} == before
    assert len(list((tmp_path / "own").glob("*.h5"))) == SLIDES
    assert not (found / "predictions" / "features").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], r"slide s1.tiff: was made with min_tissue .* now, mpp 0.5 in the file and 0.6 now"),
        pytest.param(
            [*SETTINGS, "--model.encoder.seed", "3"],
            r"weights_sha256 \w{12}... in the file and",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_other_features_are_refused(cohort, run, tmp_path, capfd, words, reason):
    extract(cohort, run, "tiny.yaml", tmp_path / "other", *words)
    (tmp_path / "own").mkdir()
    shutil.copy(tmp_path / "other" / "s1.h5", tmp_path / "own")
    given = ["--data.slides", cohort / "slides", "--data.features", tmp_path / "own"]
    capfd.readouterr()
    code, found = predict(run, cohort, *given, name="refused")
    said = capfd.readouterr().err
    assert (code, found) == (2, None)
    assert re.search(reason, said)
    assert "name another folder by --data.features" in said
    assert [p.name for p in (tmp_path / "own").iterdir()] == ["s1.h5"]


def copied(cohort, folder, broken=()):
    """Copy the slides; some are broken."""
    shutil.copytree(cohort / "slides", folder / "slides")
    for name in broken:
        write_broken_slide(folder / "slides" / f"{name}.tiff")
    return ["--data.slides", folder / "slides", "--data.features", folder / "own"]


@pytest.mark.slow
@pytest.mark.parametrize("bad_data", ["error", pytest.param("skip", marks=pytest.mark.slow)])
def test_a_slide_that_fails_does_not_stop_the_others(
    cohort, run, over_files, tmp_path, capfd, bad_data
):
    words = copied(cohort, tmp_path, ["s2"])
    code, found = predict(run, cohort, *words, "--data.bad_data", bad_data, name=f"bad_{bad_data}")
    assert code == (2 if bad_data == "error" else 0)
    told = "slide s2.tiff: the 80 x 80 pixels at" in capfd.readouterr().err
    assert told == (bad_data == "error")
    left = {name: score for name, score in over_files.items() if name != "s2.tiff"}
    assert scores(found) == pytest.approx(left, abs=1e-6, rel=0)
    assert rows(tmp_path / "own")["s2.tiff"]["status"] == "failed"
    config = yaml.safe_load((found / "config.yaml").read_text())
    assert config["data"]["init_args"]["left_out"] == ["s2.tiff"]


@pytest.mark.slow
def test_nothing_is_predicted_where_every_slide_fails(cohort, run, tmp_path, capfd):
    words = copied(cohort, tmp_path, [f"s{n}" for n in range(SLIDES)])
    code, _ = predict(run, cohort, *words, name="all_bad")
    assert code == 2
    assert "6 x the 80 x 80 pixels at" in capfd.readouterr().err


@pytest.mark.slow
def test_a_slide_that_is_not_there_is_told_before_anything_begins(cohort, run, tmp_path, capfd):
    words = copied(cohort, tmp_path)
    (tmp_path / "slides" / "s4.tiff").unlink()
    code, found = predict(run, cohort, *words, name="missing")
    assert (code, found) == (2, None)
    assert "slide s4.tiff, line 6: no slide of this name in" in capfd.readouterr().err
    assert not (tmp_path / "own").exists()
    (cohort / "twice.csv").write_text((cohort / "new.csv").read_text() + "\ns0.tiff\n")
    words += ["--data.bad_data", "skip", "--callbacks.feature_files", "false"]  # which it needs
    code, found = predict(run, cohort, *words, name="missing", table="twice.csv")
    assert code == 0
    assert sorted(scores(found)) == [f"s{n}.tiff" for n in (0, 1, 2, 3, 5)]


@pytest.fixture(scope="module")
def from_file(cohort, run):
    """A checkpoint whose encoder read its weights from a file."""
    torch.save(TinyEncoder(seed=5).layer.state_dict(), cohort / "weights.pt")
    recipe = yaml.safe_load((cohort / "tiny.yaml").read_text())
    kind = "tests.support.tiny_encoder.FileEncoder"
    given = {"weights": str(cohort / "weights.pt")}
    recipe["model"]["init_args"]["encoder"] = {"class_path": kind, "init_args": given}
    (cohort / "file.yaml").write_text(yaml.safe_dump(recipe))
    extract(cohort, run, "file.yaml", "of_file")
    path = cohort / "of_file.ckpt"
    path.write_bytes(fit(cohort, run, "of_file").read_bytes())
    (cohort / "weights.pt").rename(cohort / "moved.pt")
    return path


@pytest.mark.slow
def test_weights_from_a_file_are_given_again_and_compared(cohort, run, from_file, tmp_path, capfd):
    given = {"checkpoint": from_file.name, "name": "weights"}
    words = ["--data.slides", cohort / "slides"]
    assert (
        str(cohort).encode()
        not in from_file.read_bytes()
        .replace(b"of_file", b"")
        .split(b"extraction")[1]
        .split(b"precision")[0]
    )
    assert predict(run, cohort, *words, **given) == (2, None)
    said = capfd.readouterr().err
    assert "FileEncoder reads its weights from a file" in said
    assert "--data.encoder_weights FILE" in said
    torch.save(TinyEncoder(seed=6).layer.state_dict(), tmp_path / "other.pt")
    words += ["--data.encoder_weights"]
    assert predict(run, cohort, *words, tmp_path / "other.pt", **given) == (2, None)
    said = capfd.readouterr().err
    assert len(set(re.findall(r"\b[0-9a-f]{12}\.\.\.", said))) == 2
    code, found = predict(run, cohort, *words, cohort / "moved.pt", **given)
    assert code == 0
    own, others = arrays(found / "predictions" / "features"), arrays(cohort / "of_file")
    np.testing.assert_allclose(own["s0"][0], others["s0"][0], rtol=2e-3, atol=1e-4)


def altered(cohort, change):
    """Return the name of the checkpoint with changed facts."""
    content = torch.load(cohort / "best.ckpt", weights_only=True)
    change(content["segmil"]["facts"])
    torch.save(content, cohort / "altered.ckpt")
    return "altered.ckpt"


@pytest.mark.parametrize(
    ("change", "words", "reason"),
    [
        (lambda facts: facts.pop("extraction"), [], "does not tell how the features of its train"),
        (lambda facts: facts["extraction"].pop("encoder"), [], "older than their attribute encod"),
        (lambda facts: facts["extraction"].update(differ=["mpp"]), [], "differ in mpp"),
        (lambda facts: facts.pop("class_names"), [], "predicts images, not slides"),
        (
            lambda facts: facts["extraction"]["settings"].update(tissue={"outlines": True}),
            [],
            "give the outlines of these slides by --data.tissue_outlines DIR",
        ),
        (
            lambda facts: facts["extraction"]["settings"].update(from_a_later_version=3),
            [],
            "extracted with from_a_later_version None in place of 3 of the training",
        ),
        (lambda facts: None, ["--data", "slides.txt"], "needs --data SLIDES.csv"),
        (lambda facts: None, ["--data", "nowhere.csv"], "--data nowhere.csv: no such file"),
        (lambda facts: None, ["--trainer.fast_dev_run", "1"], "without trainer.fast_dev_run"),
    ],
)
def test_checkpoints_that_cannot_be_applied_to_slides(cohort, run, capfd, change, words, reason):
    checkpoint = cohort / altered(cohort, change)
    table = [] if "--data" in words else ["--data", cohort / "new.csv"]
    given = ["--ckpt_path", checkpoint, "--data.slides", cohort / "slides", *table, *words]
    code, folder = run("predict", *given, name="unfit")
    said = capfd.readouterr().err
    assert (code, folder.exists()) == (2, False), said
    assert reason in said
    assert said.count("error: ") == 1


@pytest.mark.slow
def test_a_checkpoint_of_cross_validation(cohort, run, tmp_path):
    import evaluate

    words = ["--config", "configs/mil/abmil_features.yaml", "--data", cohort / "slides.csv"]
    words += ["--features", cohort / "features", "--folds", "2", "--repeats", "1"]
    words += ["--trainer.max_epochs", "1", "--data.num_workers", "0"]
    words += ["--model.threshold", "0.5", "--save-checkpoints", cohort / "folds"]
    assert evaluate.main(["mil-cv", *map(str, words)]) == 0
    (cohort / "fold.ckpt").write_bytes(next((cohort / "folds").glob("*.ckpt")).read_bytes())
    given = {"checkpoint": "fold.ckpt", "name": "fold"}
    code, found = predict(run, cohort, "--data.slides", cohort / "slides", **given)
    assert code == 0
    files = ["--ckpt_path", cohort / "fold.ckpt", "--data", cohort / "new.csv"]
    code, runs = run("predict", *files, "--data.features", cohort / "features", name="fold_files")
    assert code == 0
    assert scores(found) == pytest.approx(scores(runs / "version_0"), abs=1e-6, rel=0)


@pytest.mark.slow
def test_two_processes(cohort, over_files, tmp_path):
    """They extract together, wait for each other, and predict together."""
    words = copied(cohort, tmp_path, ["s2"])[:2]  # into a folder of the run
    line = [sys.executable, "train.py", "predict", "--ckpt_path", cohort / "best.ckpt"]
    line += ["--data", cohort / "new.csv", "--config", "configs/_base/ddp.yaml", *words]
    line += ["--trainer.accelerator", "cpu", "--data.extraction_workers", "0"]
    line += ["--runs_dir", tmp_path / "runs"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*map(str, line)], cwd=ROOT, capture_output=True, text=True, env=environment,
        check=False, timeout=300,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert said.count("slide s2.tiff: the 80 x 80 pixels at") == 1
    assert said.count("5 of 6 slides have their features") == 1
    (found,) = (tmp_path / "runs").glob("*/*")
    left = {name: score for name, score in over_files.items() if name != "s2.tiff"}
    assert scores(found) == pytest.approx(left, abs=1e-6, rel=0)
    assert len(list((found / "predictions" / "heatmaps").glob("*.geojson"))) == SLIDES - 1
