"""Rows of h5 data sets, however they are stored."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from formats import h5_rows
from formats.h5_rows import read_rows

N, D = 200, 6
VALUES = np.random.default_rng(0).normal(size=(N, D)).astype(np.float16)
PARTS = (np.array([], int), np.array([0]), np.array([3, 4, 5, 9, 11, 199]), np.arange(0, N, 7))


def grown(file):
    """Two data sets that grew in turns, as extraction tools write batch by batch."""
    sets = [
        file.create_dataset(name, (0, D), maxshape=(None, D), chunks=(1, D), dtype="f2")
        for name in ("x", "other")
    ]
    for start in range(0, N, 16):
        for data in sets:
            part = VALUES[start : start + 16]
            data.resize(start + len(part), axis=0)
            data[start:] = part


def unwritten(file):
    data = file.create_dataset("x", (N, D), chunks=(1, D), dtype="f2", fillvalue=7)
    data[::2] = VALUES[::2]


def elsewhere(file):
    with h5py.File(Path(file.filename).with_name("far.h5"), "w") as far:
        far.create_dataset("y", data=VALUES[::-1].copy())
        far.create_dataset("x", data=VALUES, chunks=(1, D))
    file["pad"] = np.zeros(999)
    file["x"] = h5py.ExternalLink("far.h5", "x")


def virtual(file):
    file.create_dataset("y", data=VALUES)
    layout = h5py.VirtualLayout((N, D), "f2")
    layout[:] = h5py.VirtualSource(file["y"])
    file.create_virtual_dataset("x", layout)


def outside(file):
    raw = Path(file.filename).with_suffix(".raw")
    raw.write_bytes(VALUES.tobytes())
    file.create_dataset("x", (N, D), "f2", external=[(str(raw), 0, VALUES.nbytes)])


def odd_float(file):
    """Half precision with another exponent bias, which the library converts."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 10, 5, 0, 10)
    kind.set_ebias(20)
    kind.set_size(2)
    space = h5py.h5s.create_simple((N, D))
    h5py.h5d.create(file.id, b"x", kind, space)
    file["x"][...] = VALUES


def stored(**options):
    return lambda file: file.create_dataset("x", **({"data": VALUES} | options))


LAYOUTS = {
    "in one piece": (stored(), True),
    "a row a chunk": (stored(chunks=(1, D), maxshape=(None, D)), True),
    "a row a chunk, with a leading axis": (stored(data=VALUES[None], chunks=(1, 1, D)), True),
    "in one piece, with a leading axis": (stored(data=VALUES[None]), True),
    "large chunks": (stored(chunks=(37, D)), True),
    "grown": (grown, True),
    "one axis": (stored(data=VALUES[:, 0], chunks=(9,)), True),
    "double": (stored(data=VALUES.astype(float), chunks=(1, D)), True),
    "chunks of columns": (stored(chunks=(50, 4)), False),
    "compressed rows": (stored(chunks=(1, D), compression="gzip"), False),
    "compressed chunks": (stored(chunks=(16, D), compression="lzf", shuffle=True), False),
    "check sums": (stored(chunks=(16, D), fletcher32=True), False),
    "big endian": (stored(data=VALUES.astype(">f2"), chunks=(1, D)), False),
    "half unwritten": (unwritten, False),
    "in another file": (elsewhere, True),
    "virtual": (virtual, False),
    "raw file": (outside, False),
    "odd float": (odd_float, False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_every_layout_gives_the_rows_of_the_library(tmp_path, monkeypatch, layout, version):
    write, direct = LAYOUTS[layout]
    with h5py.File(tmp_path / "a.h5", "w", libver=version) as file:
        write(file)
    called = []
    with h5py.File(tmp_path / "a.h5", "r") as file:
        array = file["x"]
        expected = array[()].reshape(N, -1) if array.ndim == 3 else array[()]
        real = h5_rows._read_by_library
        monkeypatch.setattr(
            h5_rows, "_read_by_library", lambda *a: (called.append(len(a[2])), real(*a))[1]
        )
        for rows in (None, *PARTS):
            found = read_rows(array, rows)
            assert found.dtype == expected.dtype.newbyteorder("=")
            np.testing.assert_array_equal(found, expected if rows is None else expected[rows])
    assert any(called) != direct
    if layout not in ("half unwritten", "odd float", "one axis", "double"):
        np.testing.assert_array_equal(expected, VALUES)


def test_a_user_block_in_front_of_the_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=1024) as file:
        file.create_dataset("x", data=VALUES, chunks=(1, D))
    with h5py.File(tmp_path / "a.h5", "r") as file:
        np.testing.assert_array_equal(read_rows(file["x"], PARTS[2]), VALUES[PARTS[2]])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts the bytes read")
@pytest.mark.parametrize("chunks", [None, (1, 1024), (512, 1024)])
def test_a_few_rows_cost_a_few_bytes(tmp_path, chunks):
    values = np.ones((4000, 1024), np.float16)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=chunks)

    def bytes_read():
        return int(Path("/proc/self/io").read_text().split()[1])

    with h5py.File(tmp_path / "a.h5", "r") as file:
        before = bytes_read()
        read_rows(file["x"], np.arange(0, 4000, 400))
        assert bytes_read() - before < values.nbytes / 20


def test_a_file_that_was_cut_while_it_is_open(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=VALUES)
    with h5py.File(tmp_path / "a.h5", "r", locking=False) as file:
        os.truncate(tmp_path / "a.h5", file["x"].id.get_offset() + 100)
        with pytest.raises(OSError, match="truncated"):
            read_rows(file["x"])
