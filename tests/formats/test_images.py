import numpy as np
import pytest
from PIL import Image, ImageOps

from formats import image_limits
from formats.images import ImageOptions, read_header, read_rgb

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


def test_colour_comes_as_it_is(tmp_path):
    for suffix in ("png", "bmp", "tif"):
        Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
        image = read_rgb(tmp_path / f"a.{suffix}")
        assert np.array_equal(image, RGB)
        assert image.flags.writeable  # some transforms work in place


def test_grey_is_repeated_and_transparency_dropped(tmp_path):
    grey3 = np.repeat(GREY[..., None], 3, axis=2)
    Image.fromarray(GREY).save(tmp_path / "l.png")
    assert np.array_equal(read_rgb(tmp_path / "l.png"), grey3)
    alpha = RNG.integers(0, 256, (5, 7, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "rgba.png")
    assert np.array_equal(read_rgb(tmp_path / "rgba.png"), RGB)
    Image.fromarray(np.concatenate([GREY[..., None], alpha], axis=2)).save(tmp_path / "la.png")
    assert np.array_equal(read_rgb(tmp_path / "la.png"), grey3)
    palette = Image.fromarray(GREY % 4 * 80).convert("P")
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_rgb(tmp_path / "p.png")[..., 0], GREY % 4 * 80)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight(tmp_path, suffix):
    values = np.array([[0, 128, 129, 257, 1000], [32768, 65278, 65406, 65407, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    expected = [[0, 0, 1, 1, 4], [128, 254, 254, 255, 255]]  # value / 257, rounded
    assert read_rgb(tmp_path / f"deep.{suffix}")[..., 1].tolist() == expected


def save_with_tag(path, orientation, pixels=RGB):
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=tags)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(tmp_path, orientation, suffix):
    path = save_with_tag(tmp_path / f"a.{suffix}", orientation)
    Image.fromarray(RGB).save(tmp_path / f"plain.{suffix}")
    stored = read_rgb(tmp_path / f"plain.{suffix}")  # WebP changes pixels
    plain = Image.fromarray(stored)
    plain.getexif()[0x0112] = orientation
    shown = np.asarray(ImageOps.exif_transpose(plain))
    header = read_header(path)
    assert (header.stored, header.shown) == (stored.shape[:2], shown.shape[:2])
    found = read_rgb(path, ImageOptions("apply"))
    assert np.array_equal(found, shown)
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert np.array_equal(read_rgb(path), shown)  # nothing is stated
    assert np.array_equal(read_rgb(path, ImageOptions("ignore")), stored)
    for stated, expected in (((7, 5), shown), ((5, 7), stored)):
        if orientation >= 5:
            assert np.array_equal(read_rgb(path, stated=stated), expected)
            assert header.size(None, stated) == stated
    if orientation == 1:
        assert np.array_equal(read_rgb(path, ImageOptions("error")), stored)
    else:
        with pytest.raises(ValueError, match=f"the EXIF orientation {orientation} and exif is"):
            read_rgb(path, ImageOptions("error"))


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_a_size_that_fits_both_ways_leaves_an_image_as_stored(tmp_path, caplog, orientation):
    square = RGB[:, :5]
    for name in ("a.png", "b.png"):
        path = save_with_tag(tmp_path / name, orientation, square)
        assert np.array_equal(read_rgb(path, stated=(5, 5)), square)
    assert len(caplog.messages) == 1  # once for a folder
    assert "a.png have an EXIF orientation" in caplog.text
    assert "exif: apply" in caplog.text


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_without_meaning_is_none(tmp_path, orientation):
    path = save_with_tag(tmp_path / "a.png", orientation)
    assert read_header(path).orientation == 1
    assert np.array_equal(read_rgb(path), RGB)


def test_16_bits_are_turned_too(tmp_path):
    values = (np.arange(6, dtype=np.uint16) * 257).reshape(2, 3)
    path = save_with_tag(tmp_path / "a.png", 6, values)
    assert read_rgb(path)[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]


def write_pages(path, count):
    pages = [Image.fromarray(RGB + np.uint8(n)) for n in range(count)]
    pages[0].save(path, save_all=True, append_images=pages[1:])


def test_of_several_pages_the_first_is_read_and_that_is_told_once_a_folder(tmp_path, caplog):
    for name, count in (("one.tif", 1), ("three.tif", 3), ("two.tif", 2)):
        write_pages(tmp_path / name, count)
        path = tmp_path / name
        assert np.array_equal(read_rgb(path), RGB)
        assert read_header(path).stored == (5, 7)
    (message,) = caplog.messages
    assert "three.tif have several pages: the first is read" in message
    (tmp_path / "other").mkdir()
    write_pages(tmp_path / "other" / "two.tif", 2)
    read_rgb(tmp_path / "other" / "two.tif")
    assert len(caplog.messages) == 2


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a file of a few kB with 208 megapixels of one bit."""
    path = tmp_path_factory.mktemp("large") / "large.png"
    image = Image.new("1", (16000, 13000))
    image.paste(1, (15000, 12000, 16000, 13000))
    image.save(path)
    return path


def test_a_large_image_is_accepted_where_memory_allows(large, tmp_path, monkeypatch, recwarn):
    """The library itself refuses images of more than 179 megapixels."""
    own = Image.MAX_IMAGE_PIXELS
    assert read_header(large).stored == (13000, 16000)
    assert own == Image.MAX_IMAGE_PIXELS  # other users of the library keep its limit
    for size, expected in ((12 * 3 * 207_000_000, False), (12 * 3 * 209_000_000, True)):
        monkeypatch.setattr(image_limits, "machine_memory", lambda size=size: size)
        if expected:
            assert read_header(large).stored == (13000, 16000)
            continue
        for read in (read_header, read_rgb):
            with pytest.raises(ValueError, match=r"large\.png has 208 megapixels") as error:
                read(large)
            assert "limit of 207 (7.45 GB memory)" in str(error.value)
            assert "--data.max_megapixels 209" in str(error.value)
    assert read_header(large, ImageOptions(max_megapixels=208)).stored == (13000, 16000)
    with pytest.raises(ValueError, match=r"limit of 207.9 \(max_megapixels\)"):
        read_header(large, ImageOptions(max_megapixels=207.9))
    assert not recwarn.list


@pytest.mark.slow
def test_the_pixels_of_a_large_image(large):
    pixels = read_rgb(large)
    assert pixels.shape == (13000, 16000, 3)
    assert pixels[12000:, 15000:].min() == 255
    assert pixels[:12000, ::100].max() == 0
    assert pixels[12000:, :15000:100].max() == 0


def test_strips_give_the_same_pixels(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for pixels in (1, 7, 14, 21, 28):  # rows of 7 pixels
        monkeypatch.setattr("formats.images._STRIP", pixels)
        assert np.array_equal(read_rgb(tmp_path / "a.png"), RGB)


def test_what_cannot_be_read_is_named(tmp_path):
    for read in (read_rgb, read_header):
        with pytest.raises(ValueError, match=r"nothing\.png is missing"):
            read(tmp_path / "nothing.png")
        (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
        with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
            read(tmp_path / "broken.png")
    Image.fromarray(RGB).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:90])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read"):
        read_rgb(tmp_path / "cut.png")
    # a chunk of the header that claims to be shorter than it is
    header = bytearray((tmp_path / "whole.png").read_bytes())
    header[11] = 7
    (tmp_path / "short.png").write_bytes(header)
    for read in (read_rgb, read_header):
        with pytest.raises(ValueError, match=r"short\.png cannot be read: Truncated IHDR"):
            read(tmp_path / "short.png")
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif has pixels of mode F"):
        read_rgb(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(tmp_path / "int.tif")
    with pytest.raises(ValueError, match="values from 70000"):
        read_rgb(tmp_path / "int.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_header_of_a_truncated_file_is_not_taken_for_an_image(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(np.repeat(RGB, 20, axis=0)).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole + b"more")  # some tools append bytes, and the pixels are all there
    assert read_header(file).stored == (100, 7)
    file.write_bytes(whole[:-60])
    with pytest.raises(ValueError, match=f"a.{suffix} cannot be read"):
        read_header(file)
