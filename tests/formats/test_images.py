import numpy as np
import pytest
from PIL import Image

from formats.images import header_size, read_rgb

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


def test_exif_orientation_is_ignored_but_told(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_rgb(tmp_path / "turned.png"), RGB)
    assert header_size(tmp_path / "turned.png") == ((5, 7), (7, 5))
    Image.fromarray(RGB).save(tmp_path / "upright.png")
    assert header_size(tmp_path / "upright.png") == ((5, 7), (5, 7))


def test_what_cannot_be_read_is_named(tmp_path):
    for read in (read_rgb, header_size):
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
    for read in (read_rgb, header_size):
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
    assert header_size(file)[0] == (100, 7)
    file.write_bytes(whole[:-60])
    with pytest.raises(ValueError, match=f"a.{suffix} cannot be read"):
        header_size(file)
