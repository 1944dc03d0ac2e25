"""Slide files of each kind, and broken ones."""

import shutil
import sys

import numpy as np
import pytest

from formats.slides.pyramid import (
    UnreadableRegion,
    find_slides,
    open_slide,
    slide_fingerprint,
)
from tests.support.slides import (
    clouds,
    noise,
    overwrite,
    reduced,
    tile_places,
    write_dicom,
    write_tiff,
)

pytest.importorskip("openslide")
pytest.importorskip("tiffslide")
pytest_plugins = ("tests.support.data_folders",)


def near(found, expected):
    """Mean difference of two images."""
    return np.abs(found.astype(int) - expected).mean()


KINDS = {
    "tiff": ({"codec": None}, "openslide", 0),
    "tiff in JPEG": ({"codec": "jpeg"}, "openslide", 2),
    "Aperio in JPEG": ({"codec": "jpeg", "aperio": True}, "openslide", 2),
    "Aperio in JPEG 2000": ({"codec": "jpeg2000", "aperio": True}, "openslide", 0.5),
    "JPEG 2000 of others": ({"codec": "jpeg2000 of others"}, "tiffslide", 0.5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tiff_files(tmp_path, kind):
    options, reader, loss = KINDS[kind]
    image = clouds(900, 700)
    levels = [image, reduced(image, 4)]
    path = write_tiff(tmp_path / "a.svs", levels, **options)
    with open_slide(path) as slide:
        assert (slide.reader, slide.size, slide.mpp) == (reader, (900, 700), (0.25, 0.25))
        assert [level.size for level in slide.levels] == [(900, 700), (225, 175)]
        assert [level.downsample for level in slide.levels] == [1, 4]
        assert slide.bounds == (0, 0, 900, 700)
        assert near(slide.read(0, 333, 222, 300, 200), image[222:422, 333:633]) <= loss
        assert near(slide.read(1, 33, 22, 101, 90), levels[1][22:112, 33:134]) <= 2 * loss


def test_dicom(tmp_path):
    image = clouds(900, 700)
    levels = [image, reduced(image, 4)]
    write_dicom(tmp_path / "case" / "slide7", levels, mpp=0.5)
    found = find_slides(tmp_path)
    assert found == {"slide7": tmp_path / "case" / "slide7" / "level0.dcm"}
    with open_slide(found["slide7"]) as slide:
        assert (slide.reader, slide.size, slide.mpp) == ("openslide", (900, 700), (0.5, 0.5))
        assert near(slide.read(0, 333, 222, 300, 200), image[222:422, 333:633]) <= 2
        assert near(slide.read(1, 33, 22, 101, 90), levels[1][22:112, 33:134]) <= 4


def test_a_real_slide(shared_data):
    with open_slide(shared_data("wsi_small") / "cmu_small_region.svs") as slide:
        assert (slide.reader, slide.size, slide.mpp) == ("openslide", (2220, 2967), (0.499, 0.499))
        assert len(slide.levels) == 1


@pytest.mark.parametrize("reader", ["openslide", "tiffslide"])
def test_outside_the_slide_is_background(tmp_path, reader):
    image = noise(300, 280)
    path = tmp_path / "a.tiff"
    if reader == "openslide":
        write_tiff(path, [image], None)
    else:
        import tifffile

        tifffile.imwrite(path, image, photometric="rgb", metadata=None)  # strips, not tiles
    with open_slide(path) as slide:
        assert slide.reader == reader
        assert slide.mpp == ((0.25, 0.25) if reader == "openslide" else None)
        found = slide.read(0, -10, 270, 30, 20)
        assert (found[:, :10] == 255).all() and (found[10:] == 255).all()
        np.testing.assert_array_equal(found[:10, 10:], image[270:, :20])
        assert (slide.read(0, 5000, -70, 8, 9) == 255).all()


def test_transparent_pixels_lie_on_the_background(tmp_path):
    import tifffile

    image = np.dstack([noise(256, 256), np.full((256, 256), 255, np.uint8)])
    image[:50, :, 3], image[50:99, :, 3] = 0, 128
    path = tmp_path / "a.tiff"
    tifffile.imwrite(
        path, image, tile=(256, 256), photometric="rgb", extrasamples=["unassalpha"], metadata=None
    )
    with open_slide(path) as slide:
        found = slide.read(0, 0, 0, 256, 256)
        assert (found[:50] == 255).all()
        mixed = image[50:99, :, :3] * (128 / 255) + 127
        assert np.abs(found[50:99] - mixed).max() < 3
        np.testing.assert_array_equal(found[99:], image[99:, :, :3])
        slide.background = (10, 20, 30)  # as MIRAX slides tell theirs
        assert (slide.read(0, 3, 3, 9, 9) == slide.background).all()


def test_a_tile_that_is_left_out_is_background(tmp_path):
    import tifffile

    path = tmp_path / "a.tiff"
    full = np.full((256, 256, 3), 90, np.uint8)
    parts = iter([full, None, full, full])
    tifffile.imwrite(
        path, parts, shape=(512, 512, 3), dtype="uint8", tile=(256, 256), photometric="rgb",
        metadata=None,
    )  # fmt: skip
    with open_slide(path) as slide:
        assert (slide.read(0, 256, 0, 256, 256) == 255).all()
        assert (slide.read(0, 0, 0, 256, 256) == 90).all()


@pytest.mark.parametrize("factor", [3, 4])
def test_factors_of_levels_are_whole_where_sizes_are_rounded(tmp_path, factor):
    image = clouds(factor * factor * 150 + 11, factor * 100 + 2)
    first = reduced(image, factor)
    path = write_tiff(tmp_path / "a.tiff", [image, first, reduced(first, factor)], None)
    with open_slide(path) as slide:
        assert [level.downsample for level in slide.levels] == [1, factor, factor**2]


def test_a_label_among_the_levels_is_no_level(tmp_path):
    image = clouds(1200, 800)
    path = write_tiff(tmp_path / "a.tiff", [image, clouds(100, 200), reduced(image, 8)], None)
    with open_slide(path) as slide:
        assert [level.size for level in slide.levels] == [(1200, 800), (150, 100)]
        assert near(slide.read(1, 40, 30, 50, 40), reduced(image, 8)[30:70, 40:90]) == 0


def test_bounds_of_the_file(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", [clouds(600, 500)], None)
    with open_slide(path) as slide:
        reader = slide._reader
        names = ("x", "y", "width", "height")
        for given, expected in {
            (100, 50, 300, 200): (100, 50, 300, 200),
            (100, 50, 900, 900): (100, 50, 500, 450),
            (-7, 0, 300, 200): (0, 0, 293, 200),
            (700, 0, 300, 200): (0, 0, 600, 500),
        }.items():
            said = {f"openslide.bounds-{n}": str(v) for n, v in zip(names, given, strict=True)}
            reader.properties = {**reader.properties, **said}
            assert type(slide)(path, reader).bounds == expected


def test_a_broken_tile_is_an_error_and_others_can_be_read(tmp_path):
    image = clouds(900, 700)
    path = write_tiff(tmp_path / "a.svs", [image], aperio=True)
    start, size = tile_places(path)[5]
    overwrite(path, start + size // 2, bytes(size - size // 2))
    with open_slide(path) as slide:
        with pytest.raises(UnreadableRegion, match=r"a\.svs: the 256 x 256 pixels at \(256, 256\)"):
            slide.read(0, 256, 256, 256, 256)
        assert near(slide.read(0, 0, 0, 256, 256), image[:256, :256]) < 2
        with pytest.raises(UnreadableRegion, match="copy the file again, or leave the slide out"):
            slide.read(0, 400, 400, 256, 256)


def test_a_broken_tile_is_an_error_for_tiffslide(tmp_path):
    path = write_tiff(tmp_path / "a.tiff", [clouds(900, 700)], "jpeg2000 of others")
    start, size = tile_places(path)[5]
    overwrite(path, start, b"U" * (size - 2))
    with open_slide(path) as slide:
        assert slide.reader == "tiffslide"
        slide.read(0, 0, 0, 256, 256)
        with pytest.raises(UnreadableRegion, match="a.tiff"):
            slide.read(0, 300, 300, 256, 256)
    overwrite(path, start, bytes(size))  # its end mark is missing, which decoders pass over
    with pytest.raises(ValueError, match=f"the compressed data at byte {start} are cut off"):
        open_slide(path)


@pytest.mark.parametrize("kept", [0.2, 0.8, 0.999])
@pytest.mark.parametrize("codec", [None, "jpeg", "jpeg2000 of others"])
def test_a_file_that_is_cut_off_is_refused(tmp_path, kept, codec):
    image = clouds(900, 700)
    path = write_tiff(tmp_path / "a.tiff", [image, reduced(image, 4)], codec)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(ValueError, match=r"a\.tiff: the file is cut off.*copy the file again"):
        open_slide(path)


def test_files_that_are_no_slides(tmp_path):
    import tifffile

    with pytest.raises(FileNotFoundError, match="there is no such slide file"):
        open_slide(tmp_path / "none.svs")
    (tmp_path / "text.svs").write_text("not a slide")
    with pytest.raises(ValueError, match=r"text\.svs: no reader .* \(openslide: .*; tiffslide: "):
        open_slide(tmp_path / "text.svs")
    (tmp_path / "empty.svs").touch()
    with pytest.raises(ValueError, match=r"empty\.svs: no reader"):
        open_slide(tmp_path / "empty.svs")
    tifffile.imwrite(tmp_path / "deep.tiff", noise(99, 99).astype(np.uint16), photometric="rgb")
    with pytest.raises(ValueError, match="it has 3 channels of uint16 instead of 8-bit RGB"):
        open_slide(tmp_path / "deep.tiff")


def test_slides_of_a_folder(tmp_path):
    for name in ("b.svs", "deep/er/a.TIFF", "deep/.hidden.svs", ".cache/c.svs", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "loop").symlink_to(tmp_path)
    found = {"a": tmp_path / "deep/er/a.TIFF", "b": tmp_path / "b.svs"}
    assert find_slides(tmp_path) == found and list(find_slides(tmp_path)) == ["a", "b"]
    (tmp_path / "deep" / "b.tif").touch()
    with pytest.raises(ValueError, match=r"b\.svs and .*b\.tif: two slides have the id b; rename"):
        find_slides(tmp_path)


def test_folders_without_slides(tmp_path):
    with pytest.raises(ValueError, match="there is no slide in it; files that end in .svs"):
        find_slides(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder of slides"):
        find_slides(tmp_path / "none")


def test_dicom_series_that_share_a_folder(tmp_path):
    image = clouds(300, 280)
    for name in ("x", "y"):
        for file in write_dicom(tmp_path / name, [image, reduced(image, 2)], tile=128):
            shutil.move(file, tmp_path / f"{name}_{file.name}")
        (tmp_path / name).rmdir()
    assert list(find_slides(tmp_path)) == ["x_level0", "y_level0"]
    before = slide_fingerprint(tmp_path / "x_level0.dcm")
    other = slide_fingerprint(tmp_path / "y_level0.dcm")
    overwrite(tmp_path / "x_level1.dcm", 2000, b"changed")
    assert slide_fingerprint(tmp_path / "x_level0.dcm") != before
    assert slide_fingerprint(tmp_path / "y_level0.dcm") == other


def test_fingerprints(tmp_path, monkeypatch):
    monkeypatch.setattr("formats.slides.pyramid._WHOLE", 1 << 16)
    path = tmp_path / "a.svs"
    path.write_bytes(bytes(50_000))
    whole = slide_fingerprint(path)
    overwrite(path, 33_333, b"x")
    assert slide_fingerprint(path) != whole
    path.write_bytes(bytes(500_000))
    large = slide_fingerprint(path)
    assert large == slide_fingerprint(shutil.copy(path, tmp_path / "b.svs"))
    path.write_bytes(bytes(500_001))
    assert slide_fingerprint(path) != large
    path.write_bytes(bytes(499_999) + b"x")
    assert slide_fingerprint(path) != large


@pytest.mark.parametrize("missing", ["openslide", "tifffile"])
def test_libraries_that_are_missing(tmp_path, monkeypatch, missing):
    path = write_tiff(tmp_path / "a.tiff", [clouds(300, 200)])
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=r"a\.tiff: .* is missing; install .*\.\[slides\]"):
        open_slide(path)
