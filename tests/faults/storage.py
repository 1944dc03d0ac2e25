"""Wrong calls that read features quickly: conversion of folders, memory for features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.faults import sets
from tests.faults.case import Case
from tests.faults.features import bytes_of, fit_case, write_set


def case(
    name: str,
    change: Callable[[Path], object],
    *expected: str,
    form: str = "safetensors",
    **words: str,
) -> Case:
    """Change the folder of features and convert it; ``words`` replace the flags."""

    def build(folder: Path) -> list[object]:
        _, place = write_set(folder)
        change(place)
        flags = {"from": "features", "to": "new"} | words
        where = [w for flag, name in flags.items() for w in (f"--{flag}", folder / name)]
        return ["evaluate", "convert-features", *where, "--format", form]

    return Case("feature folder", name, build, expected)


def _nothing(place: Path) -> None:
    for file in place.iterdir():
        file.unlink()


def _brain(place: Path) -> None:
    torch.save(torch.zeros(5, 4).bfloat16(), place / "s1.pt")


def _another(place: Path) -> None:
    (place.parent / "new").mkdir()
    np.save(place.parent / "new" / "s0.npy", np.zeros((7, 4), np.float16))


def _unreadable(place: Path) -> None:
    (place.parent / "new").mkdir()
    (place.parent / "new" / "s0.npy").write_bytes(b"notes")


def _kept(place: Path) -> None:
    del place


def _npz_with_cache(folder: Path) -> list[object]:
    return [*sets.MIL, "--data.file", sets.write_bags(folder / "b.npz"), "--data.cache_gib", 1]


CASES = [
    case("missing", _kept, "no such folder", **{"from": "nowhere"}),
    case("without features", _nothing, "no feature file", ".safetensors", "give a folder"),
    case("a file instead of a folder", _kept, "slides.csv", "folder", **{"from": "slides.csv"}),
    case("onto itself", _kept, "features", "name another folder", to="features"),
    case("into its own subfolder", _kept, "--from", "name another", to="features/pt_files"),
    case("onto a file", _kept, "slides.csv", "name a folder", to="slides.csv"),
    case("a format that is none", _kept, "zarr", "safetensors", form="zarr"),
    case("a broken file", lambda p: bytes_of(lambda c: c[:99])(p / "s0.h5"), "s0.h5", "write"),
    case("bfloat16 as npy", _brain, "s1.pt", "bfloat16", "safetensors", form="npy"),
    case("bfloat16 as h5", _brain, "s1.pt", "bfloat16", "safetensors", form="h5"),
    case("another slide is there", _another, "s0.npy", "already exists", "remove it", form="npy"),
    case("another file is there", _unreadable, "s0.npy", "already exists", "--to", form="npy"),
    fit_case("a memory below 0", ["--data.cache_gib", -1], "cache_gib", "-1", "0 for none"),
    fit_case("a memory as text", ["--data.cache_gib", "all"], "cache_gib"),
    Case("npz of bags", "memory for features", _npz_with_cache, ("cache_gib",), long=True),
]  # fmt: skip
