"""Broken npz files of bags."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import sets
from tests.faults.case import MARKER, Case


def crossed(folder: Path, file: Path) -> list[object]:
    recipe = sets.write_recipe(folder / "recipe.yaml")
    words = ["--config", recipe, "--data", file, "--folds", 2, "--repeats", 1]
    return ["evaluate", "mil-cv", *words]


def array_case(name: str, changes: Callable[[], dict[str, Any]], *expected: str) -> Case:
    """Cross-validate on a file with some arrays changed, or left out if None."""

    def build(folder: Path) -> list[object]:
        return crossed(folder, sets.write_bags(folder / "bags.npz", **changes()))

    return Case("npz of bags", name, build, ("bags.npz", *expected))


def file_case(name: str, change: Callable[[bytes], bytes], *expected: str) -> Case:
    """Cross-validate on a file with changed bytes."""

    def build(folder: Path) -> list[object]:
        file = sets.write_bags(folder / "bags.npz")
        file.write_bytes(change(file.read_bytes()))
        return crossed(folder, file)

    return Case("npz of bags", name, build, ("bags.npz", *expected))


def fit_case(name: str, changes: dict[str, Any], words: list[object], *expected: str) -> Case:
    """Train on a file with wrong arrays or wrong arguments for it."""

    def build(folder: Path) -> list[object]:
        file = sets.write_bags(folder / "bags.npz", **changes)
        return [*sets.MIL, "--data.file", file, *words]

    return Case("npz of bags", name, build, expected, long=True)


def applied_case(name: str, changes: Callable[[], dict[str, Any]], *expected: str) -> Case:
    """Score a valid checkpoint on a wrong file."""

    def build(folder: Path) -> list[object]:
        file = sets.write_bags(folder / "other.npz", **changes())
        return ["evaluate", "mil", "--ckpt", sets.mil_checkpoint(), "--data", file, "--draws", 10]

    return Case("npz of bags", name, build, ("other.npz", *expected))


def edited(array: str, where: Any, value: Any) -> Callable[[], dict[str, Any]]:
    def changes() -> dict[str, Any]:
        values = sets.bags()[array]
        values[where] = value
        return {array: values}

    return changes


def of(array: str, change: Callable[[Any], Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {array: change(sets.bags()[array])}


class Code:
    """Object that writes a marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._marker), "w")


def _member(header: bytes) -> bytes:
    """Return an npz file whose X consists of the given header only."""
    file = io.BytesIO()
    np.savez(file, **{k: v for k, v in sets.bags().items() if k != "X"})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("X.npy", header)
    return file.getvalue()


def _header(shape: str, kind: str = "<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _with_code(folder: Path) -> list[object]:
    values = np.empty(60, dtype=object)
    values[:] = [Code(folder / MARKER)] * 60
    content = io.BytesIO()
    np.lib.format.write_array(content, values, allow_pickle=True)
    (folder / "bags.npz").write_bytes(_member(content.getvalue()))
    return crossed(folder, folder / "bags.npz")


def _pickle(folder: Path) -> list[object]:
    (folder / "bags.npz").write_bytes(pickle.dumps(Code(folder / MARKER)))
    return crossed(folder, folder / "bags.npz")


def _missing(folder: Path) -> list[object]:
    return crossed(folder, folder / "bags.npz")


def _folder(folder: Path) -> list[object]:
    (folder / "bags.npz").mkdir()
    return crossed(folder, folder / "bags.npz")


def _plain_array(folder: Path) -> list[object]:
    np.save(folder / "bags.npz.npy", sets.bags()["X"])
    return crossed(folder, (folder / "bags.npz.npy").rename(folder / "bags.npz"))


def _flipped(content: bytes) -> bytes:
    place = content.index(b"NUMPY") + 300
    return content[:place] + bytes(byte ^ 255 for byte in content[place : place + 9]) + content[
        place + 9 :
    ]  # fmt: skip


FILES = [
    Case("npz of bags", "missing file", _missing, ("bags.npz", "no such file")),
    Case("npz of bags", "a folder", _folder, ("bags.npz",)),
    Case("npz of bags", "an array that carries code", _with_code, ("bags.npz", "plain number")),
    Case("npz of bags", "a pickle that carries code", _pickle, ("bags.npz", "numpy.savez")),
    Case("npz of bags", "a single array", _plain_array, ("bags.npz",)),
    file_case("empty file", lambda _: b"", "readable"),
    file_case("cut in half", lambda c: c[: len(c) // 2], "readable"),
    file_case("last byte lost", lambda c: c[:-1], "readable"),
    file_case("first kilobyte lost", lambda c: c[1000:], "readable"),
    file_case("bytes flipped", _flipped, "readable"),
    file_case("zeros from a full disk", lambda c: bytes(len(c)), "readable"),
    file_case("CSV text", lambda _: b"bag,label,x\na,1,0.5\n", "readable"),
    file_case("an array cut short", lambda _: _member(_header("(60, 4)") + bytes(99)), "readable"),
    file_case("an array of 8 terabytes", lambda _: _member(_header("(1000000000000,)")),
              "readable"),
    file_case("an array of negative length", lambda _: _member(_header("(-1, 4)")), "bags.npz"),
    file_case("a header without shape", lambda _: _member(_header("None")), "readable"),
    file_case("a header of unknown type", lambda _: _member(_header("(1,)", "<q9")), "readable"),
    file_case("a header with a call", lambda _: _member(_header("__import__('os')")), "readable"),
    file_case("a member that is text", lambda _: _member(b"hello"), "bags.npz"),
]  # fmt: skip

ARRAYS = [
    array_case("no X", lambda: {"X": None}, "array X", "missing"),
    array_case("no bag_index", lambda: {"bag_index": None}, "bag_index", "missing"),
    array_case("no y", lambda: {"y": None}, "y is missing"),
    array_case("X of one axis", of("X", lambda x: x[:, 0]), "2 axes"),
    array_case("X of three axes", of("X", lambda x: x[None]), "2 axes"),
    array_case("X empty", of("X", lambda x: x[:0]), "X"),
    array_case("X without features", of("X", lambda x: x[:, :0]), "X"),
    array_case("X of text", of("X", lambda x: x.astype(str)), "numbers"),
    array_case("X complex", of("X", lambda x: x + 1j), "numbers"),
    array_case("X of dates", of("X", lambda x: x.astype("datetime64[s]")), "numbers"),
    array_case("y a single number", lambda: {"y": np.array(1)}, "y"),
    array_case("y of three axes", of("y", lambda y: np.eye(2)[y][None]), "y must have 1 or 2"),
    array_case("a NaN", edited("X", (7, 2), np.nan), "2", "NaN"),
    array_case("an infinity", edited("X", (7, 2), np.inf), "2", "infinite"),
    array_case("a value beyond float32", edited("X", (7, 2), 1e300), "bag 2", "float32"),
    array_case("fewer indices than instances", of("bag_index", lambda b: b[:-1]), "bag_index",
               "60", "59"),
    array_case("unsorted bags", of("bag_index", lambda b: b[::-1]), "sort"),
    array_case("bags numbered from 1", of("bag_index", lambda b: b + 1), "20"),
    array_case("negative bags", of("bag_index", lambda b: b - 1), "-1"),
    array_case("bags with fractions", of("bag_index", lambda b: b + 0.5), "whole numbers"),
    array_case("bag_index with NaN", of("bag_index", lambda b: np.where(b == 2, np.nan, b)),
               "whole numbers"),
    array_case("bag_index of text", of("bag_index", lambda b: b.astype(str)), "numbers"),
    array_case("an empty bag", of("bag_index", lambda b: np.where(b == 7, 6, b)), "7",
               "no instances"),
    array_case("a bag without label", of("y", lambda y: y[:-1]), "19"),
    array_case("labels -1 and 1", of("y", lambda y: 2 * y - 1), "classes", "0, 1"),
    array_case("labels with fractions", of("y", lambda y: y + 0.5), "classes"),
    array_case("a label NaN", of("y", lambda y: np.where(np.arange(20) == 3, np.nan, y)), "3",
               "classes"),
    array_case("a label of 19 digits", edited("y", 3, 10**18), "class"),
    array_case("labels as text", of("y", lambda y: np.array(["no", "yes"])[y]), "numbers"),
    array_case("a class without a bag", of("y", lambda y: 2 * y), "class 1"),
    array_case("one class only", of("y", lambda y: 0 * y), "class 0", "two classes"),
    array_case("folds of other bags", lambda: {"cv_fold": np.zeros((1, 19), int)}, "cv_fold"),
    array_case("folds of one axis", lambda: {"cv_fold": np.arange(20) % 2}, "cv_fold"),
    array_case("folds with fractions", lambda: {"cv_fold": np.arange(20)[None] % 2 / 1}, "cv_fold",
               "integers"),
    array_case("folds with a gap", lambda: {"cv_fold": np.arange(20)[None] % 2 * 2}, "repeat 0",
               "gap"),
    array_case("one fold", lambda: {"cv_fold": np.zeros((1, 20), int)}, "repeat 0", "two folds"),
    array_case("folds from 1", lambda: {"cv_fold": np.arange(20)[None] % 2 + 1}, "repeat 0"),
    array_case("patients of other bags", lambda: {"groups": np.arange(19)}, "groups", "20"),
    array_case("patients of two axes", lambda: {"groups": np.ones((20, 2))}, "groups"),
    array_case("a patient in two folds",
               lambda: {"groups": np.arange(20) // 2, "cv_fold": np.arange(20)[None] % 2},
               "patient 0", "fold"),
    fit_case("a fold that is not there", {"cv_fold": np.arange(20)[None] % 2},
             ["--data.fold", 2], "bags.npz", "folds are 0 to 1"),
    fit_case("a negative fold", {}, ["--data.fold", -1], "bags.npz", "folds are 0 to"),
    fit_case("a repeat that is not there", {"cv_fold": np.arange(20)[None] % 2},
             ["--data.fold", 0, "--data.repeat", 1], "bags.npz", "repeat"),
    fit_case("more folds than bags", {}, ["--data.fold", 0, "--data.num_folds", 21], "20"),
    fit_case("all bags held out", {}, ["--data.test_fraction", 1], "[0, 1)"),
    fit_case("a share below 0", {}, ["--data.val_fraction", -0.1], "[0, 1)"),
    fit_case("statistics of other features", {},
             ["--data.mean", "[0, 0]", "--data.std", "[1, 1]"], "bags.npz"),
    fit_case("a mean without deviations", {}, ["--data.mean", "[0, 0, 0, 0]"], "std"),
    fit_case("a limit below 0", {}, ["--data.clip", -3], "clip", "positive"),
    applied_case("other features than trained on", of("X", lambda x: x[:, :3]), "3 features"),
    applied_case("more classes than trained on", lambda: {"y": np.arange(20) % 3}, "class"),
    applied_case("no labels to score by", lambda: {"y": None}, "label"),
]  # fmt: skip

CASES = [*FILES, *ARRAYS]
