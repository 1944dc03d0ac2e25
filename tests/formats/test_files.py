"""Atomic writing, JSON and hashes of files."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from formats.files import atomic_write, file_digest, file_hash, write_json


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with atomic_write(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"


def test_an_error_leaves_the_earlier_file_and_no_remains(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("earlier")

    def fail():
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_keep_their_value(tmp_path):
    payload = {
        "third": 1 / 3,
        "float32": np.float32(0.1),
        "count": np.int64(7),
        "array": np.array([[1, 2]]),
        "nan": [float("nan"), np.float32("nan"), np.array([np.inf, 1.0])],
    }
    read = json.loads(write_json(tmp_path / "new" / "m.json", payload).read_text())
    assert read == {
        "third": 1 / 3,
        "float32": 0.10000000149011612,
        "count": 7,
        "array": [[1, 2]],
        "nan": [None, None, [None, 1.0]],
    }
    with pytest.raises(TypeError, match="Path cannot be written as JSON"):
        write_json(tmp_path / "m.json", {"p": tmp_path})


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_json(tmp_path / "m.json", {"old": 1})

    def full(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789ab")
    whole = hashlib.sha256(b"0123456789ab")
    assert file_digest(path) == file_digest(path, largest=12) == whole.digest()
    assert file_hash(path) == whole.hexdigest()[:16]


def test_of_a_larger_file_the_size_and_the_ends_are_hashed(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789ab")
    assert file_digest(path, largest=11, ends=3) == hashlib.sha256(b"120129ab").digest()
