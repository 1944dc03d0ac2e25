"""`train.py predict` with a recipe for slides, as a user types it."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import evaluate
import train
from formats.slide_features import read_attributes
from tests.support.extraction import RECIPE, content, rows
from tests.support.small_slides import BORDER, slide_pixels, write_broken_slide, write_slide
from tests.support.tiny_encoder import TinyEncoder

SIDE = 64


@pytest.fixture
def slides(tmp_path):
    """Three slides, one of them in a subfolder."""
    folder = tmp_path / "slides"
    for number, name in enumerate(("a", "b", "more/c")):
        write_slide(folder / f"{name}.tiff", number)
    return folder


@pytest.fixture
def extract(tmp_path, slides, capfd, caplog):
    """Return a function that runs the command and returns its exit code and its output."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))

    def run(*words, out="out"):
        command = ["predict", "--config", str(recipe), "--data.slides", str(slides)]
        command += ["--data.features", str(tmp_path / out), "--runs_dir", str(tmp_path / "runs")]
        capfd.readouterr()
        caplog.clear()
        code = train.main([*command, *map(str, words)])
        said = capfd.readouterr()
        return code, said.out + said.err + caplog.text

    return run


def test_features_of_every_patch(extract, slides, tmp_path):
    code, said = extract()
    out = tmp_path / "out"
    assert code == 0, said
    assert re.search(r"^b \(2 of 3\): \d+ patches, [\d.]+ mm2 of tissue, [\d.]+ s", said, re.M)
    assert f"written to {out}" in said
    with h5py.File(out / "b.h5") as file:
        features, coords = file["features"][:], file["coords"][:]
        attributes = dict(file.attrs)
        assert file["coords"].attrs["patch_size_level0"] == SIDE
    assert features.dtype == np.float16
    assert coords.dtype == np.int64
    assert coords.tolist() == sorted(coords.tolist(), key=lambda place: place[::-1])
    image = slide_pixels(1)
    for (x, y), found in zip(coords.tolist(), features, strict=True):
        patch = torch.from_numpy(image[y : y + SIDE, x : x + SIDE]).permute(2, 0, 1)[None] / 255
        expected = TinyEncoder()(patch)[0].detach().half().numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
    tissue = np.zeros(image.shape[:2], bool)
    for x, y in coords.tolist():
        tissue[y : y + SIDE, x : x + SIDE] = True
    assert tissue[BORDER:-BORDER, BORDER:-BORDER].mean() > 0.99
    assert attributes["complete"]
    assert (attributes["mpp"], attributes["slide_mpp"], attributes["patch_px"]) == (0.5, 0.5, SIDE)
    assert json.loads(attributes["settings"])["min_tissue"] == 0.25
    assert re.fullmatch("[0-9a-f]{64}", attributes["weights_sha256"])
    row = rows(out)["b"]
    assert (row["status"], row["reason"], row["mpp_source"]) == ("done", "", "file")
    assert int(row["patches"]) == len(features)
    assert float(row["tissue_mm2"]) == pytest.approx(512 * 384 * 0.25e-6, rel=0.2)
    assert Image.open(out / "previews" / "b.png").size == (640, 512)
    assert sorted(rows(out)) == ["a", "b", "c"]


@pytest.mark.slow
def test_finished_files_are_skipped_and_a_slide_depends_on_itself_alone(extract, slides, tmp_path):
    assert extract(out="whole")[0] == 0
    (slides / "a.tiff").rename(tmp_path / "a.tiff")
    assert extract("--data.num_workers", 2, out="parts")[0] == 0
    first = content(tmp_path / "parts")
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "parts").glob("*.h5")}
    (tmp_path / "a.tiff").rename(slides / "a.tiff")
    (tmp_path / "parts" / ".a.h5.1").write_bytes(b"cut off by a kill")
    (tmp_path / "parts" / "previews" / ".a.png.1").write_bytes(b"cut off by a kill")
    (tmp_path / "parts" / "extraction.csv").unlink()  # as if killed before the rows were written
    code, said = extract(out="parts")
    assert code == 0
    assert "3 slides, 2 of them finished" in said
    assert content(tmp_path / "parts") == content(tmp_path / "whole") != first
    assert {n: (tmp_path / "parts" / n).stat().st_mtime_ns for n in times} == times
    found, expected = rows(tmp_path / "parts"), rows(tmp_path / "whole")
    for name, row in found.items():
        assert row | {"seconds": ""} == expected[name] | {"seconds": ""}


def test_slides_that_fail_later_do_not_stop_the_others(extract, slides, tmp_path):
    write_broken_slide(slides / "a.tiff")
    write_slide(slides / "b.tiff", empty=True)
    code, said = extract()
    assert code == 2
    assert re.search(r"^error: .*a\.tiff, slide a: .* cannot be read", said, re.M)
    assert "slide b: no tissue was found; look at its preview" in said
    out = tmp_path / "out"
    assert sorted(p.name for p in out.glob("*.h5")) == ["c.h5"]
    assert sorted(p.name for p in (out / "previews").iterdir()) == ["b.png", "c.png"]
    assert not list(out.rglob(".*"))
    table = rows(out)
    assert [table[name]["status"] for name in "abc"] == ["failed", "failed", "done"]
    assert "cannot be read" in table["a"]["reason"]
    code, said = extract("--data.bad_data", "skip")
    assert code == 0, said
    assert "1 of 3 slides have their features" in said
    write_slide(slides / "a.tiff", 0)
    write_slide(slides / "b.tiff", 1)
    code, said = extract()
    assert (code, [row["status"] for row in rows(out).values()]) == (0, ["done"] * 3)


@pytest.mark.parametrize(
    ("factor", "reason"),
    [("1e39", "inf, not finite"), ("1e6", "beyond 65504, the largest number of half precision")],
)
def test_features_that_a_file_cannot_hold_are_never_written(extract, tmp_path, factor, reason):
    code, said = extract("--model.encoder.factor", factor)
    assert code == 2
    assert reason in said
    assert not list((tmp_path / "out").glob("*.h5"))
    assert {row["status"] for row in rows(tmp_path / "out").values()} == {"failed"}


def changed_slide(slides):
    write_slide(slides / "b.tiff", 7)


def slide_of_the_table(slides):
    (slides / "slides.csv").write_text("slide_id,mpp\na,\nb.tiff,0.45\n")


@pytest.mark.parametrize(
    ("words", "change", "reason"),
    [
        (["--data.mpp", "0.6"], None, "mpp 0.5 in the file and 0.6 now"),
        (["--data.min_tissue", ".5"], None, "min_tissue 0.25 in the file and 0.5 now"),
        (["--model.encoder.seed", "3"], None, r"weights_sha256 \w{12}... in the file and \w{12}"),
        (["--model.encoder.width", "4"], None, r"encoder .*width=8.* and .*width=4"),
        ([], changed_slide, r"another version of .*b.tiff: fingerprint \w{16} in the file and"),
    ],
)
def test_files_made_otherwise_are_refused(extract, slides, tmp_path, words, change, reason):
    assert extract()[0] == 0
    before = content(tmp_path / "out")
    if change is not None:
        change(slides)
    write_slide(slides / "new.tiff", 9)
    code, said = extract(*words)
    assert code == 2
    assert re.search(reason, said)
    assert content(tmp_path / "out") == before


def test_batch_size_is_not_compared(extract, slides):
    assert extract()[0] == 0
    write_slide(slides / "new.tiff", 9)
    code, said = extract("--data.batch_size", "5")
    assert (code, "4 slides, 3 of them finished" in said) == (0, True)


def test_headers_are_checked_before_anything_is_written(extract, slides, tmp_path, capfd):
    write_slide(slides / "b.tiff", mpp=None)
    write_slide(slides / "more" / "c.tiff", mpp=2.0)
    code, said = extract()
    assert code == 2
    assert "slide b: the file does not tell its micrometres per pixel" in said
    assert "slide c: the slide has 2 micrometres per pixel, which is too coarse" in said
    assert not (tmp_path / "out").exists()
    words = ["--config", str(tmp_path / "tiny.yaml"), "--data.slides", str(slides)]
    words += ["--data.features", str(tmp_path / "out")]
    assert evaluate.main(["check-data", *words]) == 2
    assert "2 problem(s)" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    assert extract("--data.bad_data", "skip")[0] == 0
    assert [row["status"] for row in rows(tmp_path / "out").values()] == [
        "done",
        "failed",
        "failed",
    ]


def test_a_table_chooses_slides_and_states_their_resolution(extract, slides, tmp_path):
    write_slide(slides / "b.tiff", 1, mpp=None)
    table = tmp_path / "slides.csv"
    table.write_text("slide_id,label,mpp\nb.tiff,x,0.5\nc,y,\n")
    code, said = extract("--data.table", table)
    assert code == 0, said
    found = rows(tmp_path / "out")
    assert {name: row["mpp_source"] for name, row in found.items()} == {
        "b.tiff": "table",
        "c": "file",
    }
    assert read_attributes(tmp_path / "out" / "b.tiff.h5")[1].slide_mpp == 0.5
    table.write_text("slide_id,mpp\nb.tiff,0.45\nb,0.5\nz,\n../a,\nc,coarse\nc,\n")
    code, said = extract("--data.table", table)
    assert code == 2
    for reason in (
        "slide b, line 3: slide b.tiff has the same file", "slide z, line 4: no slide of this name",
        "'../a' cannot be the name of a file", "mpp is 'coarse'", "the slide is also in line 6",
    ):  # fmt: skip
        assert reason in said
    table.write_text("slide_id,mpp\nb.tiff,0.45\n")
    code, said = extract("--data.table", table)
    assert (code, "slide_mpp 0.5 in the file and 0.45 now" in said) == (2, True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--data.slides", "nowhere"], "nowhere: there is no such folder of slides"),
        (["--data.batch_size", "0"], "batch_size must be at least 1"),
        (["--data.mpp", "30"], "mpp must be micrometres per pixel from 0.05 to 20"),
        (["--data.min_tissue", "2"], r"min_tissue must be in \[0, 1\]"),
        (["--data.patch_px", "96"], None),
        (["--model.encoder", "torch.nn.Identity"], "Identity.input_size is None"),
        (["--model.encoder.input_size", "0"], "TinyEncoder.input_size is 0"),
        (["--trainer.precision", "16-true"], "trainer.precision 16-true"),
    ],
)
def test_wrong_input(extract, tmp_path, words, reason):
    code, said = extract(*words)
    assert (code, list((tmp_path / "out").glob("*.h5"))) == (2, []) if reason else code == 0
    assert reason is None or re.search(reason, said)


def test_other_commands_refuse_the_recipe(tmp_path, slides, extract, capfd):
    words = ["--config", str(tmp_path / "tiny.yaml"), "--data.slides", str(slides)]
    assert train.main(["fit", *words, "--data.features", str(tmp_path / "out")]) == 2
    assert "trains nothing; use `python train.py predict`" in capfd.readouterr().err


def test_files_of_other_programs_are_not_overwritten(extract, tmp_path):
    (tmp_path / "out").mkdir()
    with h5py.File(tmp_path / "out" / "a.h5", "w") as file:
        file["features"] = np.zeros((3, 8), np.float16)
    (tmp_path / "out" / "b.h5").write_bytes(b"no h5 file")
    code, said = extract()
    assert code == 2
    assert "has no attribute slide_mpp, so another program has written it" in said
    assert "b.h5, slide b: cannot be read as h5" in said
    assert len(content(tmp_path / "out")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["--data.mpp", "0.6"],
        pytest.param(["--model.encoder.seed", "3"], marks=pytest.mark.slow),
    ],
)
def test_training_refuses_files_of_different_origin(extract, slides, tmp_path, words, capfd):
    table = tmp_path / "slides.csv"
    table.write_text("slide_id,label\na,0\nb,1\nc,1\n")
    assert extract()[0] == 0
    assert extract(*words, out="other")[0] == 0
    shutil.copy(tmp_path / "other" / "b.h5", tmp_path / "out" / "b.h5")
    given = ["--config", "configs/mil/abmil_features.yaml", "--data.table", str(table)]
    given += ["--data.features", str(tmp_path / "out")]
    assert train.main(["fit", *given, "--runs_dir", str(tmp_path / "runs")]) == 2
    said = capfd.readouterr().err
    assert re.search(
        r"b\.h5, slide b: (mpp|weights_sha256) \S+ instead of \S+, as 2 of 3 slides have", said
    )
    assert "for example a" in said
    assert evaluate.main(["check-data", *given]) == 2
    assert evaluate.main(["check-data", *given, "--data.bad_data", "skip"]) == 0
