"""`evaluate.py convert-features` as a user types it."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import evaluate
from datamodules.mil import feature_conversion
from formats.feature_arrays import FeatureKeys
from formats.features import read_arrays, read_features

FORMS = ("h5", "safetensors", "npy")
N, D = 1500, 512


def run(*words):
    return evaluate.main(["convert-features", *map(str, words)])


def values(number, kind=np.float16):
    """Random bits, NaN and infinity among them."""
    bits = np.random.default_rng(number).integers(0, 256, (N, D * np.dtype(kind).itemsize))
    return bits.astype(np.uint8).view(kind)


def trident(path, features, coords, **attributes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, array in (("features", features), ("coords", coords)):
            rest = array.shape[1:]
            file.create_dataset(name, data=array, maxshape=(None, *rest), chunks=(1, *rest))
        file["coords"].attrs["patch_size_level0"] = 512
        file["more"] = np.arange(3)
        file.attrs.update(attributes)


COORDS = np.arange(2 * N).reshape(N, 2) * 256


@pytest.fixture
def folder(tmp_path):
    """Slides in the layouts of several tools; `b` also lies in a format that is not preferred."""
    place = tmp_path / "old"
    trident(place / "a.svs.h5", values(0), COORDS, encoder="made up")
    trident(place / "h5_files" / "b.h5", values(1, np.float32), COORDS.astype(np.int32))
    (place / "pt_files").mkdir()
    torch.save(torch.zeros(3, D), place / "pt_files" / "b.pt")
    torch.save(torch.from_numpy(values(2)), place / "pt_files" / "c.pt")
    save_file(
        {"features": torch.from_numpy(values(3)), "coords": torch.from_numpy(COORDS)},
        place / "d.safetensors",
    )
    np.save(place / "e.npy", values(4, np.float64))
    return place


EXPECTED = {
    "a.svs": (values(0), COORDS),
    "b": (values(1, np.float32), COORDS.astype(np.int32)),
    "c": (values(2), None),
    "d": (values(3), COORDS),
    "e": (values(4, np.float64), None),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_keeps_every_bit(folder, tmp_path, capsys, form):
    new, report = tmp_path / "new", tmp_path / "report.json"
    assert run("--from", folder, "--to", new, "--format", form, "--out", report) == 0
    assert sorted(file.name for file in new.iterdir()) == [f"{name}.{form}" for name in EXPECTED]
    for name, (features, coords) in EXPECTED.items():
        found = read_arrays(new / f"{name}.{form}")
        assert found.features.numpy().dtype == features.dtype
        assert found.features.numpy().tobytes() == features.tobytes()
        if form == "npy" or coords is None:
            assert found.coords is None
        else:
            assert found.coords.numpy().dtype == coords.dtype
            np.testing.assert_array_equal(found.coords.numpy(), coords)
    assert json.loads(report.read_text())["metrics"] == {
        "files written": 5,
        "files already there": 0,
        "files without their coordinates": 3 * (form == "npy"),
    }
    assert "5 of 5 files written" in capsys.readouterr().err


def test_h5_gets_chunks_of_a_mebibyte_and_keeps_what_else_is_in_the_file(folder, tmp_path):
    assert run("--from", folder, "--to", tmp_path / "new", "--format", "h5") == 0
    with h5py.File(tmp_path / "new" / "a.svs.h5") as file:
        assert file["features"].chunks == (1024, D)
        assert file["coords"].chunks == (N, 2)
        assert file["coords"].attrs["patch_size_level0"] == 512
        assert file.attrs["encoder"] == "made up"
        assert file["more"][:].tolist() == [0, 1, 2]
    size = (tmp_path / "new" / "a.svs.h5").stat().st_size
    assert size < 1.5 * values(0).nbytes


def test_a_call_that_was_cut_short_is_continued(folder, tmp_path, monkeypatch, capsys):
    words = ["--from", folder, "--to", tmp_path / "new", "--format", "safetensors"]
    real, calls = feature_conversion.convert_file, []

    def convert(*arguments):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(arguments)
        real(*arguments)

    monkeypatch.setattr(feature_conversion, "convert_file", convert)
    assert run(*words) == 130
    first = {file: file.stat().st_mtime_ns for file in (tmp_path / "new").iterdir()}
    assert len(first) == 2
    monkeypatch.setattr(feature_conversion, "convert_file", real)
    assert run(*words) == 0
    assert "3 of 3 files written" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in first} == first
    assert sorted(file.stem for file in (tmp_path / "new").iterdir()) == sorted(EXPECTED)
    assert run(*words) == 0
    assert re.search(r"files already there .* 5 ", capsys.readouterr().out)


def test_a_source_that_is_newer_is_converted_again(folder, tmp_path):
    words = ["--from", folder, "--to", tmp_path / "new", "--format", "npy"]
    assert run(*words) == 0
    np.save(folder / "e.npy", values(9, np.float64))
    assert run(*words) == 0
    assert np.load(tmp_path / "new" / "e.npy").tobytes() == values(9, np.float64).tobytes()


def test_a_write_that_fails_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("formats.feature_writer._safetensors", broken)
    assert run("--from", folder, "--to", tmp_path / "new", "--format", "safetensors") == 2
    monkeypatch.undo()
    monkeypatch.setattr("formats.feature_writer._equal", lambda a, b: False)
    assert run("--from", folder, "--to", tmp_path / "new", "--format", "npy") == 2
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_other_names_are_kept_and_unsigned_places_become_readable(tmp_path):
    (tmp_path / "old").mkdir()
    with h5py.File(tmp_path / "old" / "a.h5", "w") as file:
        file["feats"], file["xy"] = values(0), COORDS.astype(np.uint32)
    names = ["--features-key", "feats", "--coords-key", "xy"]
    for form in ("h5", "safetensors"):
        words = ["--from", tmp_path / "old", "--to", tmp_path / form, "--format", form]
        assert run(*words, *names) == 0
        found = read_arrays(tmp_path / form / f"a.{form}", FeatureKeys("feats", "xy"))
        assert found.features.numpy().tobytes() == values(0).tobytes()
        np.testing.assert_array_equal(found.coords.numpy(), COORDS)
    assert set(load_file(tmp_path / "safetensors" / "a.safetensors")) == {"feats", "xy"}


def test_faults_come_together_before_anything_is_written(folder, tmp_path, capsys):
    (folder / "f.h5").write_bytes(b"no")
    np.save(folder / "g.npy", np.ones(3, np.float16))
    torch.save(torch.ones(3, D).bfloat16(), folder / "h.pt")
    words = ["--from", folder, "--to", tmp_path / "new", "--format", "npy"]
    assert run(*words) == 2
    said = capsys.readouterr().err
    assert "f.h5" in said and "g.npy: features have shape (3,)" in said
    assert "h.pt: holds bfloat16, which npy does not have; use the format safetensors" in said
    assert not (tmp_path / "new").exists()
    assert run(*words, "--bad-data", "skip") == 0
    assert {file.stem for file in (tmp_path / "new").iterdir()} == set(EXPECTED)
    assert "skipped: 1 problem(s) of" in capsys.readouterr().out
    assert Path(folder / "f.h5").read_bytes() == b"no"


def test_features_of_stamp_get_our_name_and_labels_stay(tmp_path):
    source, target = tmp_path / "stamp", tmp_path / "ours"
    source.mkdir()
    features = np.arange(12, dtype=np.float16).reshape(4, 3)
    with h5py.File(source / "a.h5", "w") as file:
        file["feats"], file["instance_labels"] = features, np.array([0, 1, -1, 0], np.int8)
        file.attrs["extractor"] = "stamp"
    assert run("--from", source, "--to", target, "--format", "h5") == 0
    with h5py.File(target / "a.h5") as file:
        assert sorted(file) == ["features", "instance_labels"]
        assert file.attrs["extractor"] == "stamp"
        assert (file["features"][:] == features).all()
    read = read_features(target / "a.h5")
    assert read.instance_labels.tolist() == [0, 1, -1, 0]
    assert run("--from", source, "--to", tmp_path / "st", "--format", "safetensors") == 0
    assert read_features(tmp_path / "st" / "a.safetensors").instance_labels.tolist() == [
        0,
        1,
        -1,
        0,
    ]
