"""Pyramids of JPEG tiles, as OpenSlide reads them."""

import numpy as np
import pytest

from formats.slides.pyramid_writer import write_pyramid

WIDTH, HEIGHT = 2600, 620  # more than a block wide and high; no multiple of a tile
openslide = pytest.importorskip("openslide", reason="extra `slides` missing")
pytest.importorskip("tifffile", reason="extra `slides` missing")


@pytest.fixture(scope="module")
def image():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    smooth = np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, 128 + 0 * x], axis=-1)
    smooth[:530, :2100] = (240, 241, 242)  # the first block and parts of others are empty
    return smooth.astype(np.uint8)


def reader(image, asked):
    def draw(x, y, width, height):
        asked.append((x, y, width, height))
        block = image[y : y + height, x : x + width]
        return None if (block == (240, 241, 242)).all() else block

    return draw


@pytest.mark.parametrize("factors", [(4, 4), (2, 8), ()])
def test_all_levels_have_the_pixels(tmp_path, image, factors):
    file, asked = tmp_path / "slide.tiff", []
    draw = reader(image, asked)
    options = {"factors": factors, "background": (240, 241, 242), "quality": 97}
    write_pyramid(file, (WIDTH, HEIGHT), 0.363, draw, **options)
    assert sum(w * h for _, _, w, h in asked) == WIDTH * HEIGHT  # every pixel once
    assert max(h for *_, h in asked) == 512  # memory: never the whole slide
    with openslide.OpenSlide(file) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.363, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.363, rel=1e-6)
        assert slide.level_count == 1 + len(factors)
        width, height, factor = WIDTH, HEIGHT, 1
        for level, step in enumerate((1, *factors)):
            width, height, factor = -(-width // step), -(-height // step), factor * step
            assert slide.level_dimensions[level] == (width, height)
            found = slide.read_region((0, 0), level, (width, height)).convert("RGB")
            rows, columns = HEIGHT // factor, WIDTH // factor  # cells that lie in the slide
            cells = image[: rows * factor, : columns * factor].astype(float)
            means = cells.reshape(rows, factor, columns, factor, 3).mean(axis=(1, 3))
            difference = np.abs(np.asarray(found)[:rows, :columns] - means)
            # JPEG blurs colours at the edges; one pixel of a low level is 1.6 of red, 6.6 of green
            drawn = difference[:, 2150 // factor :]
            assert np.median(drawn, axis=(0, 1)).max() <= 1.0
            assert difference[: 500 // factor, : 2000 // factor].mean() < 1.0


def test_equal_slides_are_equal_files_and_nothing_stays_after_an_error(tmp_path, image):
    files = [tmp_path / "a.tiff", tmp_path / "b.tiff"]
    for file in files:
        write_pyramid(file, (WIDTH, HEIGHT), 0.5, reader(image, []))
    assert files[0].read_bytes() == files[1].read_bytes()

    def broken(x, y, width, height):
        raise OSError("no pixels")

    with pytest.raises(OSError, match="no pixels"):
        write_pyramid(tmp_path / "c.tiff", (WIDTH, HEIGHT), 0.5, broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tiff", "b.tiff"]


@pytest.mark.parametrize(
    ("size", "mpp", "factors"), [((0, 5), 0.5, ()), ((5, 5), 0.0, ()), ((5, 5), 0.5, (3,))]
)
def test_what_is_refused(tmp_path, size, mpp, factors):
    with pytest.raises(ValueError, match="sizes must be positive, factors among"):
        write_pyramid(tmp_path / "a.tiff", size, mpp, lambda *_: None, factors=factors)
