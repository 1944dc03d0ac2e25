"""Copies of slides on a quick disk."""

import os

import numpy as np
import pytest

from datamodules.wsi.planning import Patching, PatchSampler
from datamodules.wsi.slide_list import SlideEntry, read_headers
from datamodules.wsi.staging import AHEAD, Stage
from datamodules.wsi.tissue import OtsuTissue
from tests.support.small_slides import write_slide


def copies(folder):
    return sorted(path.name for path in folder.glob("segmil_*/*"))


def test_slides_are_copied_ahead_and_removed(tmp_path):
    """At no time there are more copies than the one that is read and those ahead of it."""
    for number in range(6):
        write_slide(tmp_path / f"s{number}.tiff", number)
    entries = [SlideEntry(f"s{n}", tmp_path / f"s{n}.tiff") for n in range(6)]
    headers, _ = read_headers(entries, 0.5)
    patching, stage = Patching(0.5, 64, OtsuTissue(), 0.25), Stage(tmp_path / "stage")
    plain = list(PatchSampler(headers, patching, 9))
    most = 0
    for number, key in enumerate(PatchSampler(headers, patching, 9, stage)):
        expected = plain[number]
        assert key.path.parent.parent.parent == tmp_path / "stage"
        assert key._replace(path=expected.path, coords=0) == expected._replace(coords=0)
        np.testing.assert_array_equal(key.coords, expected.coords)
        assert key.path.read_bytes() == expected.path.read_bytes()
        most = max(most, len(copies(tmp_path / "stage")))
        if key.first + len(key.coords) == key.patches:
            stage.remove(key.slide_id)
    assert 1 <= most <= 1 + AHEAD
    assert copies(tmp_path / "stage") == []
    stage.close()
    assert list((tmp_path / "stage").iterdir()) == []


def test_all_files_of_a_slide_come_along(tmp_path):
    """Those of the folder of an MRXS slide; formats with unknown further files stay."""
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Data0001.dat", "a/Slidedat.ini", "b.vms"):
        (tmp_path / name).write_text(name)
    stage = Stage(tmp_path / "stage")
    copy = stage.copy(tmp_path / "a.mrxs", "a")
    assert copy.read_text() == "a.mrxs"
    assert (copy.parent / "a" / "Data0001.dat").read_text() == "a/Data0001.dat"
    assert stage.copy(tmp_path / "b.vms", "b") == tmp_path / "b.vms"
    message = f"{copy}: is broken; mend it"
    assert stage.as_original(message, tmp_path / "a.mrxs", "a") == (
        f"{tmp_path / 'a.mrxs'}: is broken; mend it"
    )
    stage.close()


def test_a_full_disk_is_no_reason_to_stop(tmp_path, monkeypatch, recwarn):
    (tmp_path / "a.tiff").write_bytes(b"slide")
    stage = Stage(tmp_path / "stage")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "_copy_file", full)
    for name in "ab":
        assert stage.copy(tmp_path / "a.tiff", name) == tmp_path / "a.tiff"
    assert [str(w.message).count("No space left on device") for w in recwarn] == [1]
    assert copies(tmp_path / "stage") == []
    stage.close()


def test_copies_of_processes_that_were_killed_are_removed(tmp_path):
    stage = Stage(tmp_path)
    own = next(tmp_path.iterdir())
    host = own.name.removesuffix(str(os.getpid()))
    (tmp_path / f"{host}99999999" / "a").mkdir(parents=True)
    (tmp_path / f"{host}1" / "a").mkdir(parents=True)  # runs
    (tmp_path / "segmil_elsewhere_99999999").mkdir()
    Stage(tmp_path).close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([f"{host}1", "segmil_elsewhere_99999999"])
    stage.close()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to .* another folder by stage"):
        Stage(tmp_path / "file")
