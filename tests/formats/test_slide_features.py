"""Feature files of slides: what is written, and what is left of files that are not finished."""

import re

import h5py
import numpy as np
import pytest

from formats.features import FeatureKeys, read_features, read_header
from formats.slide_features import (
    CHUNK,
    SlideAttributes,
    SlideFeatureWriter,
    origin_of,
    patch_side,
    read_attributes,
    remove_parts,
    version_name,
)

MADE = SlideAttributes(
    slide_mpp=0.25, mpp=0.5, patch_px=224, patch_size_level0=448, encoder="e(a=1)",
    weights_sha256="f" * 64, settings={"mpp": 0.5, "tissue": {"floor": 0.1}},
    slide_fingerprint="abc", tissue_mm2=3.5, mpp_source="file",
)  # fmt: skip


def write(path, patches, width, sizes):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((patches, width)).astype(np.float16)
    coords = rng.integers(0, 1 << 40, (patches, 2))
    writer, first = SlideFeatureWriter(path, patches, width, MADE), 0
    for size in sizes:
        assert not path.exists()
        writer.add(features[first : first + size], coords[first : first + size])
        first += size
    writer.finish()
    return features, coords


@pytest.mark.parametrize(
    ("patches", "width", "sizes"),
    [(1, 3, [1]), (1300, 1024, [64] * 20 + [20]), (1300, 1024, [600, 700]), (7, 600_000, [3, 4])],
)
def test_what_is_written_is_read(tmp_path, patches, width, sizes):
    path = tmp_path / "new" / "slide.svs.h5"
    features, coords = write(path, patches, width, sizes)
    found = read_features(path)
    assert np.array_equal(found.features.numpy(), features)
    assert np.array_equal(found.coords.numpy(), coords)
    with h5py.File(path) as file:
        rows, columns = file["features"].chunks
        assert (columns, file["features"].dtype) == (width, np.float16)
        assert rows == patches or rows == 1 or CHUNK / 2 < rows * width * 2 <= CHUNK
    assert read_attributes(path) == (patches, MADE)
    assert read_header(path).origin == ("e(a=1)", "f" * 64, 0.5, 224, "")
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_bytes_do_not_depend_on_the_batches(tmp_path):
    write(tmp_path / "a.h5", 1300, 1024, [64] * 20 + [20])
    write(tmp_path / "b.h5", 1300, 1024, [1300])
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_files_of_different_stains_have_different_origins():
    section = {"class_path": "a.Stain", "init_args": {"beta": 0.1}}
    other = {"class_path": "a.Stain", "init_args": {"beta": 0.2}}
    found = [
        origin_of(MADE._replace(settings={"mpp": 0.5} | more).plain())
        for more in ({}, {"stain": section}, {"stain": section}, {"stain": other})
    ]
    assert found[1] == found[2] != found[3] != found[0]
    assert re.fullmatch(r"stain a\.Stain \(\w{8}\) instead of none", found[1].difference(found[0]))
    assert found[3].stain.startswith("a.Stain (")


@pytest.mark.parametrize("sizes", [[64] * 20 + [20], [600, 700]])
def test_versions_are_written_beside_the_features(tmp_path, sizes):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 1300, 1024)).astype(np.float16)
    made = MADE._replace(stain={"glass": [243.0, 242.0, 244.0]})
    writer, first = SlideFeatureWriter(tmp_path / "a.h5", 1300, 1024, made, 2), 0
    with pytest.raises(ValueError, match="0 versions instead of 2"):
        writer.add(values[0, :4], np.zeros((4, 2), np.int64))
    for size in sizes:
        part = slice(first, first + size)
        writer.add(values[:, part], np.zeros((size, 2), np.int64))
        first += size
    writer.finish()
    for version, expected in enumerate(values):
        keys = FeatureKeys(features=version_name(version))
        assert np.array_equal(read_features(tmp_path / "a.h5", keys).features.numpy(), expected)
    header = read_header(tmp_path / "a.h5")
    assert (header.versions, header.instances, header.width) == (2, 1300, 1024)
    assert read_attributes(tmp_path / "a.h5") == (1300, made)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["augmented/2"].chunks == file["features"].chunks
        assert sorted(file) == ["augmented", "coords", "features"]


def test_unfinished_files_are_removed_unless_they_are_being_written(tmp_path):
    path = tmp_path / "a.h5"
    writer = SlideFeatureWriter(path, 2, 3, MADE)
    (tmp_path / ".a.h5.99").write_bytes(b"left by a kill")
    (tmp_path / ".ab.h5.99").write_bytes(b"of another slide")
    remove_parts(path)
    names = {p.name for p in tmp_path.iterdir()}
    assert len(names) == 2
    assert ".a.h5.99" not in names
    with pytest.raises(RuntimeError, match="0 of 2 patches"):
        writer.finish()
    writer.abandon()
    assert [p.name for p in tmp_path.iterdir()] == [".ab.h5.99"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop("encoder"), "has no attribute encoder"),
        (lambda a: a.update(complete=False), "is not complete"),
    ],
)
def test_files_of_other_programs(tmp_path, change, reason):
    write(tmp_path / "a.h5", 2, 3, [2])
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        change(file.attrs)
    with pytest.raises(ValueError, match=reason):
        read_attributes(tmp_path / "a.h5")


def test_attributes_of_the_same_names_with_another_meaning():
    names = {"encoder": "x", "weights_sha256": "y", "patch_px": 3, "settings": "z"}
    assert origin_of(names | {"mpp": np.ones(2)}) is None
    assert origin_of(names) is None
    assert origin_of(names | {"mpp": 0.5}) == ("x", "y", 0.5, 3, "")


OURS = {
    "encoder": "a", "weights_sha256": "", "mpp": 0.5, "patch_px": 224, "settings": "{}",
    "slide_mpp": 0.2527, "patch_size_level0": 443,
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "coords", "side"),
    [
        (OURS, {"patch_size_level0": 443}, 0.5 / 0.2527 * 224),
        ({}, {"patch_size_level0": 512}, 512.0),  # as TRIDENT writes it
        ({}, {}, None),
        ({}, {"patch_size_level0": "large"}, None),
        ({}, {"patch_size_level0": 0}, None),
        (OURS | {"slide_mpp": 0.0}, {}, None),
    ],
)
def test_the_side_of_a_patch_at_level_0(file, coords, side):
    assert patch_side(file, coords) == side
