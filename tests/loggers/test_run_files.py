import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from formats.files import written_whole
from loggers.run_files import rasterise, write_picture
from structures.processes import gather_to_first


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with written_whole(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"


def test_an_error_leaves_the_earlier_file_and_no_remains(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("earlier")

    def fail():
        with written_whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_picture_round_trip(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_picture(tmp_path / "picture.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "picture.png")), picture)


def test_rasterised_figure_has_its_size_and_colour():
    pixels = rasterise(Figure(figsize=(2, 1), facecolor=(1, 0, 0)), dpi=50)
    assert pixels.shape == (50, 100, 3)
    assert np.unique(pixels.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_one_process_gathers_its_own_value():
    assert gather_to_first({"a": 1}) == [{"a": 1}]
