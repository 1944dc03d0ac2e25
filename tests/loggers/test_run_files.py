import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from loggers.run_files import rasterise, write_png


def test_image_round_trip(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_png(tmp_path / "picture.png", image, text={"downsample": "2.5"})
    assert Image.open(tmp_path / "picture.png").text == {"downsample": "2.5"}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "picture.png")), image)


def test_rasterised_figure_has_its_size_and_colour():
    pixels = rasterise(Figure(figsize=(2, 1), facecolor=(1, 0, 0)), dpi=50)
    assert pixels.shape == (50, 100, 3)
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]
