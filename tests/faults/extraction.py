"""Broken slides, tables, encoders and folders from which features are to be extracted."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from formats.slide_features import SlideAttributes, SlideFeatureWriter
from formats.slides.qupath import SlideObject, write_objects
from tests.faults.case import Case
from tests.support.small_slides import write_broken_slide, write_slide

TINY = "tests.support.tiny_encoder.TinyEncoder"
MODEL = f"""model:
  class_path: lightning_modules.extraction.ExtractionModule
  init_args:
    encoder: {{class_path: {TINY}}}
data:
  class_path: datamodules.wsi.base.SlideDataModule
  init_args: {{batch_size: 16}}
trainer: {{accelerator: cpu, devices: 1}}
"""
QUICK = {"a suffix alone", "no line of its own", "NaN", "in another shape", "of other settings"}


def sound(folder: Path) -> list[object]:
    """Write two slides; return the words that extract their features."""
    for number, name in enumerate("ab"):
        write_slide(folder / "slides" / f"{name}.tiff", number)
    (folder / "recipe.yaml").write_text(MODEL)
    return [
        "train", "predict", "--config", folder / "recipe.yaml",
        "--data.slides", folder / "slides", "--data.features", folder / "out",
    ]  # fmt: skip


def case(
    name: str, change: Callable[[Path], object], *expected: str, words: tuple[object, ...] = ()
) -> Case:
    """Change the folder and extract; further words come last."""

    def build(folder: Path) -> list[object]:
        given = sound(folder)
        change(folder)
        return [*given, *words]

    return Case("extraction", name, build, expected, long=name not in QUICK)


def table(text: str) -> Callable[[Path], object]:
    """Write a table and name it in the recipe."""

    def change(folder: Path) -> None:
        (folder / "slides.csv").write_text(text)
        named = MODEL.replace("batch_size: 16", f"batch_size: 16, table: {folder / 'slides.csv'}")
        (folder / "recipe.yaml").write_text(named)

    return change


def slide(**options: object) -> Callable[[Path], object]:
    """Write slide b otherwise."""
    return lambda folder: write_slide(folder / "slides" / "b.tiff", **options)


def as_bytes(content: bytes) -> Callable[[Path], object]:
    """Write other content into the file of slide b."""
    return lambda folder: (folder / "slides" / "b.tiff").write_bytes(content)


def outlines(of_b: str | None = None) -> Callable[[Path], object]:
    """Write outlines of slide a and perhaps of b, and name their folder in the recipe."""

    def change(folder: Path) -> None:
        square = np.array([[64.0, 64], [400, 64], [400, 400], [64, 400]])
        write_objects(folder / "own" / "a.geojson", [SlideObject("annotation", [[square]])])
        if of_b is not None:
            (folder / "own" / "b.geojson").write_text(of_b)
        wanted = f"batch_size: 16, tissue_outlines: {folder / 'own'}"
        (folder / "recipe.yaml").write_text(MODEL.replace("batch_size: 16", wanted))

    return change


def _cut(folder: Path) -> None:
    path = folder / "slides" / "b.tiff"
    path.write_bytes(path.read_bytes()[:-5000])


def _photograph(folder: Path) -> None:
    Image.new("RGB", (64, 64)).save(folder / "slides" / "b.tiff", format="PNG")


def _two_of_one_name(folder: Path) -> None:
    write_slide(folder / "slides" / "more" / "a.tiff", 3)


def _no_slides(folder: Path) -> None:
    for path in (folder / "slides").iterdir():
        path.unlink()


def _out_is_a_file(folder: Path) -> None:
    (folder / "out").write_text("notes")


def _other_features(folder: Path) -> None:
    (folder / "out").mkdir()
    with h5py.File(folder / "out" / "a.h5", "w") as file:
        file["features"] = np.zeros((3, 8), np.float16)


def _of_other_settings(folder: Path) -> None:
    made = SlideAttributes(0.5, 1.0, 64, 128, TINY, "0" * 64, {"mpp": 1.0}, "0", 0.1, "file")
    writer = SlideFeatureWriter(folder / "out" / "a.h5", 1, 8, made)
    writer.add(np.zeros((1, 8), np.float16), np.zeros((1, 2), np.int64))
    writer.finish()


def _not_finished(folder: Path) -> None:
    _of_other_settings(folder)
    with h5py.File(folder / "out" / "a.h5", "r+") as file:
        file.attrs["complete"] = False


def _nothing(folder: Path) -> None:
    del folder


def encoder(name: str) -> tuple[object, ...]:
    """Return the words that choose an encoder, ``CLASS`` or ``CLASS(FAULT)``."""
    kind, _, fault = name.rstrip(")").partition("(")
    flag = "--model.init_args.encoder"
    return flag, kind, *((f"{flag}.init_args.fault", fault) if fault else ())


WRONG = "tests.support.tiny_encoder.WrongEncoder"
CASES = [
    case("no folder of slides", _nothing, "no such folder", words=("--data.slides", "nowhere")),
    case("a folder without slides", _no_slides, "slides", "there is no slide"),
    case("two slides of one name", _two_of_one_name, "a.tiff", "rename"),
    case("an empty slide file", as_bytes(b""), "slide b", "b.tiff", "copy"),
    case("notes as a slide", as_bytes(b"notes" * 99), "slide b", "copy the file again"),
    case("a slide that is cut off", _cut, "slide b", "cut off", "copy the file again"),
    case("a slide without resolution", slide(mpp=None), "slide b", "column mpp"),
    case("a slide of 72 dpi", slide(mpp=352.8), "slide b", "72 dpi", "column mpp"),
    case("unequal pixels", slide(mpp=(0.5, 0.25)), "slide b", "differ", "column mpp"),
    case("a slide that is too coarse", slide(mpp=2.0), "slide b", "too coarse", "leave"),
    case("a slide without tissue", slide(empty=True), "slide b", "no tissue", "preview"),
    case(
        "a broken tile",
        lambda folder: write_broken_slide(folder / "slides" / "b.tiff"),
        "slide b",
        "cannot be read",
        "copy the file again",
    ),
    case("no outlines of a slide", outlines(), "slide b", "no b.geojson", "outline its tissue"),
    case("outlines that are cut off", outlines("{"), "slide b", "not GeoJSON", "export"),
    case("a suffix alone", table("slide_id\n.tiff\n"), "slides.csv", "line 2", "name"),
    case("no line of its own", table("slide_id\na\nc\n"), "slide c", "line 3", "no slide of this"),
    case("a slide twice", table("slide_id\na\na\n"), "slide a", "line 3", "keep one line"),
    case("a slide by two names", table("slide_id\na\na.tiff\n"), "line 3", "keep one"),
    case("a path as name", table("slide_id\nslides/a\n"), "line 2", "without its folder"),
    case("no column slide_id", table("slide\na\n"), "slides.csv", "rename column slide"),
    case("an empty table", table("slide_id,mpp\n"), "slides.csv", "one line per slide"),
    case("words as mpp", table("slide_id,mpp\na,20x\n"), "slide a", "mpp is '20x'", "0.25"),
    case("mpp of 0", table("slide_id,mpp\na,0\n"), "slide a", "mpp is '0'", "0.25"),
    case("mpp of 40", table("slide_id,mpp\na,40\n"), "slide a", "mpp 40", "column mpp"),
    case("no table", _nothing, "nowhere.csv", words=("--data.table", "nowhere.csv")),
    case("an unknown encoder", _nothing, "no module no", "class_path", words=encoder("no.Encoder")),
    case("no encoder", _nothing, "Identity", "input_size", words=encoder("torch.nn.Identity")),
    case("in another shape", _nothing, "WrongEncoder", "(2, 8)", words=encoder(f"{WRONG}(map)")),
    case("that fails", _nothing, "WrongEncoder", "patch_px", words=encoder(f"{WRONG}(fails)")),
    case("NaN", _nothing, "slide a", "not finite", words=encoder(f"{WRONG}(nan)")),
    case("a file for the features", _out_is_a_file, "out", "is a file", "features"),
    case("of another program", _other_features, "a.h5", "another program", "features"),
    case("of other settings", _of_other_settings, "a.h5", "mpp 1 in the file", "0.5 now"),
    case("not finished", _not_finished, "a.h5", "not complete", "delete"),
    case("a share of 2", _nothing, "min_tissue", "[0, 1]", words=("--data.min_tissue", 2)),
    case("patches of 0 pixels", _nothing, "patch_px", "1", words=("--data.patch_px", 0)),
    case("half precision", _nothing, "16-true", words=("--trainer.precision", "16-true")),
    case("a photograph as a slide", _photograph, "slide b", "no reader of slides", "convert it"),
    case("NaN as mpp", table("slide_id,mpp\na,nan\n"), "slide a", "mpp is 'nan'", "0.25"),
    case("patches finer than light", _nothing, "mpp", "0.05", words=("--data.mpp", 0.01)),
    case("fewer than no workers", _nothing, "num_workers", words=("--data.num_workers", -1)),
    case("no patch in a batch", _nothing, "batch_size", words=("--data.batch_size", 0)),
    case("no such tissue", _nothing, "tissue", words=("--data.tissue", "no.Tissue")),
]
