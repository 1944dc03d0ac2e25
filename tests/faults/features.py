"""Broken tables of slides and feature files (h5, pt, npy, safetensors)."""

import csv
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.faults import sets
from tests.faults.bags import Code
from tests.faults.case import MARKER, Case

_RECIPE = "configs/mil/abmil_features.yaml"
SLIDES = [f"s{k}" for k in range(8)]


def arrays(slide: str) -> dict[str, Any]:
    """Return 5 instances of 4 features and their coordinates."""
    rng = np.random.default_rng(int(slide[1:]))
    features = rng.normal(size=(5, 4)).astype(np.float16)
    return {"features": features, "coords": np.arange(10).reshape(5, 2) * 256}


def lines() -> list[dict[str, str]]:
    """Return the lines of a valid table with two slides per patient."""
    return [
        {"slide_id": s, "patient_id": f"p{k // 2}", "label": ("benign", "tumour")[k // 2 % 2]}
        for k, s in enumerate(SLIDES)
    ]


def write_set(folder: Path) -> tuple[Path, Path]:
    """Write a table and features in four formats; return both paths."""
    import h5py
    from safetensors.numpy import save_file

    place = folder / "features"
    place.mkdir()
    for number, slide in enumerate(SLIDES):
        content = arrays(slide)
        if number % 4 == 0:
            with h5py.File(place / f"{slide}.h5", "w") as file:
                for name, values in content.items():
                    file[name] = values
        elif number % 4 == 1:
            torch.save({k: torch.from_numpy(v) for k, v in content.items()}, place / f"{slide}.pt")
        elif number % 4 == 2:
            np.save(place / f"{slide}.npy", content["features"])
        else:
            save_file(content, place / f"{slide}.safetensors")
    return write_table(folder, lines()), place


def write_table(folder: Path, rows: list[dict[str, str]]) -> Path:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    (folder / "slides.csv").write_text(text.getvalue())
    return folder / "slides.csv"


def crossed(folder: Path, *words: object) -> list[object]:
    """Cross-validate on the set of a folder."""
    recipe = sets.write_recipe(folder / "recipe.yaml", _RECIPE, max_epochs=None)
    data = ["--data", folder / "slides.csv", "--features", folder / "features"]
    return ["evaluate", "mil-cv", "--config", recipe, *data, "--folds", 2, "--repeats", 1, *words]


def table_case(name: str, change: Callable[[list[dict[str, str]]], Any], *expected: str) -> Case:
    """Change the lines of the table; ``change`` works in place or returns lines or text."""

    def build(folder: Path) -> list[object]:
        write_set(folder)
        rows = lines()
        changed = change(rows)
        if isinstance(changed, str | bytes):
            content = changed.encode() if isinstance(changed, str) else changed
            (folder / "slides.csv").write_bytes(content)
        else:
            write_table(folder, rows if changed is None else changed)
        return crossed(folder)

    return Case("table of slides", name, build, ("slides.csv", *expected))


def file_case(
    name: str, file: str, change: Callable[[Path], object], *expected: str, kind: str = ""
) -> Case:
    """Change one feature file."""

    def build(folder: Path) -> list[object]:
        _, place = write_set(folder)
        change(place / file)
        return crossed(folder)

    kind = kind or Path(file).suffix[1:]
    return Case(f"features, {kind}", name, build, (Path(file).stem, *expected))


def fit_case(name: str, words: list[object], *expected: str) -> Case:
    """Train on a valid set with arguments that do not fit it."""

    def build(folder: Path) -> list[object]:
        table, place = write_set(folder)
        data = ["--data.table", table, "--data.features", place, "--data.num_workers", 0]
        return ["train", "fit", "--config", _RECIPE, *data, *sets.ONE_STEP, *words]

    return Case("table of slides", name, build, expected, long=True)


def line(number: int, **changes: str) -> Callable[[list[dict[str, str]]], None]:
    return lambda rows: rows[number].update(changes)


def column(name: str, values: Callable[[int], str]) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for number, row in enumerate(rows):
            row[name] = values(number)

    return change


def without(name: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            del row[name]

    return change


_TEXT = "slide_id,label\n" + "".join(f"{row['slide_id']},{row['label']}\n" for row in lines())


def _no_table(folder: Path) -> list[object]:
    write_set(folder)[0].unlink()
    return crossed(folder)


def _no_features(folder: Path) -> list[object]:
    write_set(folder)
    (folder / "features").rename(folder / "others")
    return crossed(folder)


def _two_labels(folder: Path) -> list[object]:
    _, place = write_set(folder)
    rows = lines()
    rows[1]["label"] = "tumour"
    words = ["--data.table", write_table(folder, rows), "--data.features", place]
    return ["train", "fit", "--config", _RECIPE, *words, "--data.bag", "patient", *sets.ONE_STEP]


TABLES = [
    Case("table of slides", "missing table", _no_table, ("slides.csv",)),
    Case("table of slides", "missing folder of features", _no_features, ("features", "folder")),
    table_case("empty file", lambda _: "", "slide_id"),
    table_case("header only", lambda _: "slide_id,label\n", "no slide"),
    table_case("no header", lambda _: _TEXT.split("\n", 1)[1], "slide_id"),
    table_case("semicolons", lambda _: _TEXT.replace(",", ";"), "slide_id"),
    table_case("UTF-16 from a spreadsheet", lambda _: _TEXT.encode("utf-16"), "UTF-8"),
    table_case("a spreadsheet file", lambda _: b"PK\x03\x04\xff\xfe" + bytes(99), "UTF-8"),
    table_case("a quote that is never closed", lambda _: _TEXT + '"s9,tumour\n', "CSV"),
    table_case("a field too many", lambda _: _TEXT + "s9,tumour,1\n", "s9", "more fields"),
    table_case("a line cut short", lambda _: _TEXT + "s9", "s9", "label"),
    table_case("a column twice", lambda _: _TEXT.replace("label", "label,label"), "twice"),
    table_case("no column of slides", without("slide_id"), "slide_id"),
    table_case("no column of labels", without("label"), "label"),
    table_case("a slide without a name", line(1, slide_id=""), "slide_id is empty"),
    table_case("a slide twice", line(1, slide_id="s0"), "slide s0", "line 2", "keep one"),
    table_case("a slide without features", line(1, slide_id="t1"), "slide t1", "feature"),
    table_case("a slide that leads out of the folder", line(1, slide_id="../s1"), "../s1"),
    table_case("a label missing", line(1, label=""), "slide s1", "label is empty"),
    table_case("one label of all", column("label", lambda _: "benign"), "benign", "two classes"),
    table_case("labels with a gap", column("label", lambda k: str(k // 2 % 2 * 2)), "label"),
    table_case("a patient without a name", line(1, patient_id=""), "slide s1", "patient_id"),
    Case("table of slides", "a patient of two labels", _two_labels, ("slides.csv", "patient p0")),
    table_case("a split that is none", column("split", lambda _: "training"), "training", "val"),
    table_case("a patient in two splits", column("split", lambda k: ("train", "test")[k % 2]),
               "patient p0", "train, test"),
    table_case("a fold below 0", column("fold", lambda k: str(k // 4 - 1)), "-1", "fold"),
    table_case("a fold as text", column("fold", lambda k: "ab"[k // 4]), "'a'", "fold"),
    table_case("a fold missing", column("fold", lambda k: "" if k == 3 else str(k // 4)), "s3"),
    table_case("folds with a gap", column("fold", lambda k: str(k // 4 * 2)), "fold"),
    table_case("one fold of all", column("fold", lambda _: "0"), "fold"),
    table_case("a patient in two folds", column("fold", lambda k: str(k % 2)), "patient p0",
               "0, 1"),
    table_case("a weight below 0", column("weight", lambda k: str(k - 1)), "slide s0", "weight"),
    table_case("a weight NaN", column("weight", lambda _: "nan"), "slide s0", "weight"),
    table_case("a weight as text", column("weight", lambda _: "high"), "slide s0", "high"),
    fit_case("a fold that is not there", ["--data.fold", 9, "--data.num_folds", 2], "0 to 1"),
    fit_case("more folds than patients", ["--data.fold", 0, "--data.num_folds", 5], "4"),
    fit_case("a sampler that is none", ["--data.sampler", "balanced"], "class_balanced"),
    fit_case("a limit of no instance", ["--data.max_instances", 0], "max_instances"),
    fit_case("a budget of no instance", ["--data.token_budget", 0], "token_budget"),
    fit_case("chunks of no instance", ["--data.chunk_instances", 0], "chunk_instances"),
    fit_case("chunks of bags that are reduced",
             ["--data.chunk_instances", 8, "--data.max_instances", 5, "--data.sampler", "shuffle"],
             "max_instances", "leave one of them out"),
    fit_case("chunks of bags drawn by class",
             ["--data.chunk_instances", 8, "--data.sampler", "class_balanced"], "chunk_instances",
             "sampler: class_balanced", "leave one of them out"),
    fit_case("weights of other classes",
             ["--data.sampler", "weighted", "--data.class_weights", "[1, 2, 3]"], "class_weights"),
    fit_case("weights that no sampler uses", ["--data.class_weights", "[1, 2]"],
             "class_weights", "sampler: weighted"),
    fit_case("balanced batches within a budget",
             ["--data.sampler", "balanced_batches", "--data.token_budget", 100,
              "--data.batch_size", 4], "token_budget", "leave one of them out"),
    fit_case("balanced batches of more bags than there are",
             ["--data.sampler", "balanced_batches", "--data.batch_size", 99], "batch size"),
    fit_case("weights that are all 0",
             ["--data.sampler", "weighted", "--data.class_weights", "[0, 0]"], "weight"),
    fit_case("names of other classes", ["--data.class_names", "[cat, dog]"], "slides.csv",
             "benign"),
    fit_case("one class by name", ["--data.class_names", "[benign]"], "class"),
    fit_case("a task that labels cannot be", ["--data.class_names", "[benign, tumour, both]",
             "--data.task", "binary"], "task binary"),
    fit_case("a bag that is none", ["--data.bag", "case"], "patient"),
]  # fmt: skip


def bytes_of(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(change(file.read_bytes()))


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def h5(**changes: Any) -> Callable[[Path], None]:
    """Write an h5 file with some arrays changed, or left out if None."""

    def change(file: Path) -> None:
        import h5py

        with h5py.File(file, "w") as stream:
            for name, values in (arrays(file.stem) | changes).items():
                if isinstance(values, dict):
                    stream.create_dataset(name, **values)
                elif values is not None:
                    stream[name] = values

    return change


def _group(file: Path) -> None:
    import h5py

    with h5py.File(file, "w") as stream:
        stream.create_group("features")["tile"] = arrays("s0")["features"]


def _outside(file: Path) -> None:
    import h5py

    with h5py.File(file, "w") as stream:
        stream["features"] = h5py.ExternalLink("nowhere.h5", "features")


def pt(content: Callable[[Path], Any], legacy: bool = False) -> Callable[[Path], None]:
    return lambda file: torch.save(content(file), file, _use_new_zipfile_serialization=not legacy)


def _code(file: Path) -> dict[str, Any]:
    return {"features": torch.zeros(5, 4), "more": Code(file.parent / MARKER)}


def npy(values: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda file: np.save(file, values(arrays(file.stem)["features"]))


def _npy_code(file: Path) -> None:
    values = np.empty(5, dtype=object)
    values[:] = [Code(file.parent / MARKER)] * 5
    np.save(file, values, allow_pickle=True)


def tensors(header: dict[str, Any] | str, body: bytes = bytes(40)) -> Callable[[Path], None]:
    """Write a safetensors file from its parts."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return lambda file: file.write_bytes(len(text).to_bytes(8, "little") + text + body)


def _entry(shape: list[int], begin: int = 0, end: int = 40, kind: str = "F16") -> dict[str, Any]:
    return {"features": {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}}


_HUGE = {"shape": (10**9, 10**4), "dtype": "f2", "chunks": (1, 4)}
_F = np.float16

H5 = [
    file_case("cut in half", "s0.h5", bytes_of(_half), "write the file again"),
    file_case("empty file", "s0.h5", bytes_of(lambda _: b"")),
    file_case("zeros from a full disk", "s0.h5", bytes_of(lambda c: bytes(len(c)))),
    file_case("first kilobyte alone", "s0.h5", bytes_of(lambda c: c[:1024])),
    file_case("text", "s0.h5", bytes_of(lambda _: b"x,y,f0,f1\n1,2,3,4\n")),
    file_case("a folder", "s0.h5", lambda f: (f.unlink(), f.mkdir())),
    file_case("a link to nowhere", "s0.h5", lambda f: (f.unlink(), f.symlink_to("gone.h5"))),
    file_case("another name of the features", "s0.h5", h5(features=None, vectors=np.zeros((5, 4))),
              "no data set 'features'", "features_key"),
    file_case("a group instead of features", "s0.h5", _group, "group"),
    file_case("features in a file that is missing", "s0.h5", _outside),
    file_case("features of one axis", "s0.h5", h5(features=np.zeros(20, _F)), "(N, D)"),
    file_case("features of two slides", "s0.h5", h5(features=np.zeros((2, 5, 4), _F)), "(N, D)"),
    file_case("a single number", "s0.h5", h5(features=np.float16(1)), "(N, D)"),
    file_case("features as whole numbers", "s0.h5", h5(features=np.zeros((5, 4), int)), "float16"),
    file_case("features as text", "s0.h5", h5(features=np.array([[b"a"] * 4] * 5)), "numbers"),
    file_case("no instance", "s0.h5", h5(features=np.zeros((0, 4), _F)), "no instances"),
    file_case("no feature", "s0.h5", h5(features=np.zeros((5, 0), _F)), "no instances"),
    file_case("features of another width", "s0.h5", h5(features=np.zeros((5, 3), _F)), "3"),
    file_case("a NaN", "s0.h5", h5(features=np.full((5, 4), np.nan, _F)), "row 0", "NaN"),
    file_case("an infinity", "s0.h5", h5(features=np.full((5, 4), np.inf, _F)), "infinite"),
    file_case("fewer places than instances", "s0.h5", h5(coords=np.zeros((4, 2), int)),
              "4 coordinates for 5"),
    file_case("places of three numbers", "s0.h5", h5(coords=np.zeros((5, 3), int)), "(N, 2)"),
    file_case("places as text", "s0.h5", h5(coords=np.array([[b"a", b"b"]] * 5)), "numbers"),
    file_case("features that were never written", "s0.h5",
              h5(features={"shape": (5, 4), "dtype": "f2", "chunks": (1, 4)}), "never written"),
    file_case("20 terabytes that were never written", "s0.h5", h5(features=_HUGE), "never written"),
]  # fmt: skip

PT = [
    file_case("cut in half", "s1.pt", bytes_of(_half)),
    file_case("empty file", "s1.pt", bytes_of(lambda _: b"")),
    file_case("last bytes lost", "s1.pt", bytes_of(lambda c: c[:-30])),
    file_case("code inside", "s1.pt", pt(_code), "refused"),
    file_case("code inside an old file", "s1.pt", pt(_code, legacy=True), "refused"),
    file_case("a bare pickle with code", "s1.pt",
              lambda f: f.write_bytes(pickle.dumps(Code(f.parent / MARKER))), "refused"),
    file_case("a list of tensors", "s1.pt", pt(lambda _: [torch.zeros(4)] * 5), "list"),
    file_case("another name of the features", "s1.pt", pt(lambda _: {"x": torch.zeros(5, 4)}),
              "no entry 'features'"),
    file_case("weights of a network", "s1.pt", pt(lambda _: torch.nn.Linear(4, 4).state_dict()),
              "no entry 'features'"),
    file_case("a numpy array", "s1.pt", pt(lambda _: np.zeros((5, 4))), "refused"),
    file_case("a sparse tensor", "s1.pt", pt(lambda _: torch.eye(5).to_sparse()), "dense"),
    file_case("complex features", "s1.pt", pt(lambda _: torch.zeros(5, 4) + 1j), "float16"),
    file_case("features of one axis", "s1.pt", pt(lambda _: torch.zeros(20)), "(N, D)"),
    file_case("a NaN", "s1.pt", pt(lambda _: torch.zeros(5, 4) / 0), "NaN"),
    file_case("features as text", "s1.pt", pt(lambda _: {"features": "none"}), "tensor"),
]  # fmt: skip

NPY = [
    file_case("cut in half", "s2.npy", bytes_of(_half)),
    file_case("last byte lost", "s2.npy", bytes_of(lambda c: c[:-1]), "truncated"),
    file_case("empty file", "s2.npy", bytes_of(lambda _: b"")),
    file_case("a version of the future", "s2.npy",
              bytes_of(lambda c: c[:6] + b"\x09\x00" + c[8:]), "version"),
    file_case("code inside", "s2.npy", _npy_code, "refused"),
    file_case("a shape of 20 terabytes", "s2.npy",
              bytes_of(lambda c: c.replace(b"(5, 4)", b"(5000000000000, 4)")), "s2"),
    file_case("a negative shape", "s2.npy", bytes_of(lambda c: c.replace(b"(5, 4)", b"(-5,4)"))),
    file_case("a header with a call", "s2.npy",
              bytes_of(lambda c: c.replace(b"(5, 4)", b"exit()"))),
    file_case("an npz under the name of npy", "s2.npy",
              lambda f: zipfile.ZipFile(f, "w").writestr("features.npy", b"x")),
    file_case("features of three axes", "s2.npy", npy(lambda v: np.stack([v, v])), "(N, D)"),
    file_case("features as bytes", "s2.npy", npy(lambda v: v.astype(np.uint8)), "float16"),
    file_case("features with names", "s2.npy", npy(lambda _: np.zeros((5, 4), "f2,f2")), "numbers"),
    file_case("features of another width", "s2.npy", npy(lambda v: v[:, :2]), "2"),
    file_case("no instance", "s2.npy", npy(lambda v: v[:0]), "no instances"),
    file_case("an infinity", "s2.npy", npy(lambda v: v + _F(np.inf)), "s2", "row"),
]  # fmt: skip

SAFETENSORS = [
    file_case("cut in half", "s3.safetensors", bytes_of(_half)),
    file_case("last byte lost", "s3.safetensors", bytes_of(lambda c: c[:-1]), "write the file"),
    file_case("empty file", "s3.safetensors", bytes_of(lambda _: b""), "header"),
    file_case("a header of 8 exabytes", "s3.safetensors",
              bytes_of(lambda c: b"\xff" * 8 + c[8:]), "header"),
    file_case("a header that is no JSON", "s3.safetensors", tensors("{features: 1}  ")),
    file_case("a header that is a list", "s3.safetensors", tensors("[1, 2, 3]")),
    file_case("a header of numbers", "s3.safetensors", tensors({"features": 3})),
    file_case("another name of the features", "s3.safetensors",
              tensors({"x": _entry([5, 4])["features"]}), "no tensor 'features'"),
    file_case("a type that is none", "s3.safetensors", tensors(_entry([5, 4], kind="F17")), "F17"),
    file_case("a shape that does not fit", "s3.safetensors", tensors(_entry([5, 5]))),
    file_case("a negative shape", "s3.safetensors", tensors(_entry([-5, -4]))),
    file_case("places outside the file", "s3.safetensors", tensors(_entry([5, 4], 40, 80))),
    file_case("places backwards", "s3.safetensors", tensors(_entry([5, 4], 40, 0))),
    file_case("no instance", "s3.safetensors", tensors(_entry([0, 4], 0, 0), b""), "no instances"),
    file_case("a NaN", "s3.safetensors", tensors(_entry([5, 4]), b"\xff\x7f" * 20), "row 0"),
]  # fmt: skip

CASES = [*TABLES, *H5, *PT, *NPY, *SAFETENSORS]
