import json
import os
import zipfile

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from formats.feature_arrays import FeatureKeys
from formats.features import first_not_finite, read_features, read_header
from structures import DataProblems

FEATURES = np.arange(40, dtype=np.float16).reshape(10, 4) / 8
COORDS = np.arange(20).reshape(10, 2) * 256


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def good_files(folder):
    """One file of each layout; all hold the same features, those of the second list coordinates."""
    x, xy = torch.tensor(FEATURES), torch.tensor(COORDS)
    np.save(folder / "c.npy", FEATURES)
    np.save(folder / "fortran.npy", np.asfortranarray(FEATURES))
    np.save(folder / "big_endian.npy", FEATURES.astype(">f2"))
    np.save(folder / "double.npy", FEATURES.astype(np.float64))
    torch.save(x, folder / "bare.pt")
    torch.save(x, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file({"a": torch.ones(3), "features": x}, folder / "alone.safetensors")
    save_file({"features": x.bfloat16()}, folder / "brain.safetensors")
    plain = list(folder.iterdir())
    torch.save({"features": x, "coords": xy, "level": 0}, folder / "both.pt")
    save_file({"features": x, "coords": xy, "a": torch.ones(1)}, folder / "both.safetensors")
    h5(folder / "both.h5", features=FEATURES, coords=COORDS)
    h5(folder / "batched.h5", features=FEATURES[None], coords=COORDS[None].astype(np.int32))
    return plain, sorted(set(folder.iterdir()) - set(plain))


def test_every_layout_gives_the_same_arrays(tmp_path):
    plain, placed = good_files(tmp_path)
    for path in plain + placed:
        header, found = read_header(path), read_features(path)
        assert (header.instances, header.width) == (10, 4), path
        assert header.has_coords == (path in placed)
        assert found.features.dtype == header.dtype, path
        np.testing.assert_array_equal(found.features.float(), FEATURES, err_msg=str(path))
        if path in placed:
            assert found.coords.dtype == torch.int64
            np.testing.assert_array_equal(found.coords, COORDS)
        else:
            assert found.coords is None
    assert read_features(tmp_path / "c.npy").features.dtype == torch.float16


def test_single_rows(tmp_path):
    plain, placed = good_files(tmp_path)
    rows = torch.tensor([1, 4, 9])
    for path in plain + placed:
        found = read_features(path, rows=rows)
        np.testing.assert_array_equal(found.features.float(), FEATURES[rows], err_msg=str(path))
        if path in placed:
            np.testing.assert_array_equal(found.coords, COORDS[rows])


def test_features_of_stamp_are_called_feats(tmp_path):
    h5(tmp_path / "a.h5", feats=FEATURES, coords=COORDS)
    assert read_header(tmp_path / "a.h5")[:2] == (10, 4)
    np.testing.assert_array_equal(read_features(tmp_path / "a.h5").features, FEATURES)
    h5(tmp_path / "b.h5", feats=FEATURES[:3], features=FEATURES)  # the usual name first
    np.testing.assert_array_equal(read_features(tmp_path / "b.h5").features, FEATURES)
    with pytest.raises(DataProblems, match=r"no data set 'x'; the file has \['coords', 'feats'\]"):
        read_header(tmp_path / "a.h5", FeatureKeys("x"))


LABELS = np.array([0, 1, -1, 0, 1, 0, 0, 0, 0, 1])


def labelled_files(folder, labels, name="instance_labels"):
    """Files of each layout that can have instance labels."""
    h5(folder / "a.h5", features=FEATURES, **{name: labels})
    content = {"features": torch.tensor(FEATURES), name: torch.from_numpy(labels)}
    torch.save(content, folder / "a.pt")
    save_file(content, folder / "a.safetensors")
    return [folder / f"a{suffix}" for suffix in (".h5", ".pt", ".safetensors")]


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.float32, np.uint8, bool])
def test_instance_labels_of_any_type(tmp_path, kind):
    labels = LABELS if np.dtype(kind).kind in "if" else LABELS.clip(0)
    for path in labelled_files(tmp_path, labels.astype(kind)):
        assert read_header(path).has_labels
        assert read_features(path).instance_labels.tolist() == labels.tolist(), path
        rows = torch.tensor([1, 2, 9])
        assert read_features(path, rows=rows).instance_labels.tolist() == labels[rows].tolist()
    keys = FeatureKeys(instance_labels="tumour")
    for path in labelled_files(tmp_path, LABELS, "tumour"):
        assert not read_header(path).has_labels and read_features(path).instance_labels is None
        assert read_features(path, keys).instance_labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:9], r"instance labels have shape \(9,\) for 10 instances; store one label"),
        (np.stack([LABELS, LABELS]), r"instance labels have shape \(2, 10\) for 10"),
        (LABELS * 2, "instance_labels has 2 in row 1; use 1 for a witness, 0 for another"),
        (LABELS / 2, "instance_labels has 0.5 in row 1"),
        (np.where(LABELS == 0, 255, LABELS).astype(np.uint8), "has 255 in row 0"),
        (np.where(LABELS == 1, np.nan, LABELS), "has nan in row 1"),
    ],
)
def test_instance_labels_that_are_none(tmp_path, labels, message):
    for path in labelled_files(tmp_path, labels):
        for read in (read_header, read_features):
            with pytest.raises(DataProblems, match=message):
                read(path)


def test_names_of_arrays_are_arguments(tmp_path):
    keys = FeatureKeys("vectors", "xy")
    h5(tmp_path / "a.h5", vectors=FEATURES, xy=COORDS)
    save_file(
        {"vectors": torch.tensor(FEATURES), "xy": torch.tensor(COORDS)}, tmp_path / "a.safetensors"
    )
    torch.save({"vectors": torch.tensor(FEATURES), "xy": torch.tensor(COORDS)}, tmp_path / "a.pt")
    for suffix in (".h5", ".safetensors", ".pt"):
        found = read_features(tmp_path / f"a{suffix}", keys)
        np.testing.assert_array_equal(found.features, FEATURES)
        np.testing.assert_array_equal(found.coords, COORDS)
        with pytest.raises(DataProblems, match=r"no .*'features'; the file has .*vectors.*xy"):
            read_features(tmp_path / f"a{suffix}")


def test_writing_into_features_leaves_the_file_alone(tmp_path):
    np.save(tmp_path / "a.npy", FEATURES)
    read_features(tmp_path / "a.npy").features.zero_()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), FEATURES)


def test_only_touched_pages_are_read(tmp_path):
    """A file of 4 GB, most of which was never written, is opened and one row read."""
    path, rows = tmp_path / "sparse.npy", 1 << 20
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, 2048)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        file.seek(start + 2 * 2048 * 77)
        file.write(np.full(2048, 5, np.float16).tobytes())
        file.truncate(start + 2 * 2048 * rows)
    found = read_features(path, rows=torch.tensor([76, 77]))
    assert found.features.sum(1).tolist() == [0, 5 * 2048]


class Evil:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_files_that_carry_code_are_refused_without_running_it(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"features": torch.ones(2, 2), "x": Evil(trace)}, tmp_path / "a.pt")
    torch.save(Evil(trace), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "c.npy", np.array([Evil(trace)], dtype=object), allow_pickle=True)
    for name in ("a.pt", "b.pt", "c.npy"):
        with pytest.raises(DataProblems, match=f"{name}.*: refused, because"):
            read_features(tmp_path / name)
    assert not trace.exists()


def test_packed_archives_are_refused(tmp_path):
    """Mapped from disk, their packed bytes would be taken for features."""
    torch.save({"features": torch.tensor(FEATURES)}, tmp_path / "a.pt")
    with (
        zipfile.ZipFile(tmp_path / "a.pt") as old,
        zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(DataProblems, match=r"b\.pt.*: refused: an archive with compressed entries"):
        read_features(tmp_path / "b.pt")


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_truncated_files_are_found_by_their_header(tmp_path):
    big = np.ones((200, 50), np.float16)
    np.save(tmp_path / "a.npy", big)
    torch.save(torch.tensor(big), tmp_path / "a.pt")
    save_file({"features": torch.tensor(big)}, tmp_path / "a.safetensors")
    h5(tmp_path / "a.h5", features=big)
    for suffix in (".npy", ".pt", ".safetensors", ".h5"):
        path = tmp_path / f"a{suffix}"
        assert read_header(path).instances == 200
        for share in (0.999, 0.5, 0.001, 0):
            cut(path, share)
            with pytest.raises(DataProblems, match=f"a{suffix}") as error:
                read_header(path)
            assert error.value.problems[0].kind == "slide" and error.value.problems[0].remedy
            if suffix == ".npy" and share > 0.1:
                assert f"truncated: {path.stat().st_size} bytes instead of 20128" in str(
                    error.value
                )


def safetensors_with(**entry):
    base = {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}
    header = json.dumps({"features": base | entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors_with(shape=[3, 2]), r"of shape \(3, 2\) lies at 0:8"),
        (safetensors_with(shape=[10**9, 10**9, 10**9]), "lies at 0:8"),
        (safetensors_with(dtype="F8_E4M3"), "holds F8_E4M3"),
        (safetensors_with(data_offsets=[0, 9]), "bytes, its header says"),
        (safetensors_with(data_offsets=[8, 0]), "bytes, its header says"),
        ((1 << 60).to_bytes(8, "little"), "broken header"),
        ((2).to_bytes(8, "little") + b"[]", "not a table"),
        ((2).to_bytes(8, "little") + b"{}", "no tensor 'features'"),
    ],
)
def test_broken_safetensors(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataProblems, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.ones(4)}, r"features have shape \(4,\); store them as \(N, D\)"),
        ({"features": np.ones((2, 3, 4))}, r"features have shape \(2, 3, 4\)"),
        ({"features": np.ones((2, 4), int)}, "features are torch.int64"),
        ({"features": np.ones((0, 4))}, "no instances"),
        ({"features": np.array([[b"a"]])}, r"holds \|S1; store numbers"),
        ({"features": FEATURES, "coords": COORDS[:7]}, "7 coordinates for 10 instances"),
        ({"features": FEATURES, "coords": COORDS[:, :1]}, r"coords have shape \(10, 1\)"),
        ({"features": FEATURES, "coords": COORDS > 0}, "coords are torch.bool"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    h5(tmp_path / "a.h5", **arrays)
    with pytest.raises(DataProblems, match=message):
        read_header(tmp_path / "a.h5")


def test_h5_faults_of_its_own(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", (10**9, 10**6), "f2", chunks=(1, 4))
        file.create_group("coords")
    with pytest.raises(DataProblems, match="'features' was declared but never written"):
        read_header(tmp_path / "a.h5")
    h5(tmp_path / "b.h5", features=FEATURES)
    with h5py.File(tmp_path / "b.h5", "a") as file:
        file.create_group("coords")
    with pytest.raises(DataProblems, match="'coords' is a Group"):
        read_header(tmp_path / "b.h5")


def test_what_is_no_feature_file(tmp_path):
    with pytest.raises(DataProblems, match=r"absent\.npy: no such file"):
        read_header(tmp_path / "absent.npy")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(DataProblems, match="unknown suffix '.csv'; use .h5"):
        read_header(tmp_path / "a.csv")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    torch.save(torch.eye(3).to_sparse(), tmp_path / "sparse.pt")
    for name in ("list.pt", "sparse.pt"):
        with pytest.raises(DataProblems, match="not a dense tensor"):
            read_header(tmp_path / name)


def test_the_first_value_that_is_not_finite():
    values = torch.zeros(5, 3)
    assert first_not_finite(values) is None
    values[4, 0], values[2, 1] = torch.nan, -torch.inf
    assert first_not_finite(values) == (2, 1)
    values[2, 1] = 0
    assert first_not_finite(values) == (4, 0)
