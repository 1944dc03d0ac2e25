"""Which message of a chain of exceptions reaches the user."""

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.seg.image_folder import ImageFolderDataModule
from engine.config.errors import own_error, user_message
from formats.images import read_rgb
from structures import DataProblems, Problem, settle


def raised(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def wrapped(tmp_path):
    try:
        read_rgb(tmp_path / "a.png")
    except ValueError as error:
        raise RuntimeError("many words of a library") from error


def test_our_message_is_found_below_that_of_a_library(tmp_path):
    error = raised(lambda: wrapped(tmp_path))
    assert user_message(error) == f"image file {tmp_path / 'a.png'} is missing"
    assert isinstance(own_error(error), ValueError)
    assert own_error(RuntimeError("x")) is None
    assert user_message(RuntimeError("x")) == "x"


def test_problems_keep_their_type():
    problem = Problem("a.json", 1, None, "is odd", "make it even")
    error = raised(lambda: settle([problem], "error"))
    assert isinstance(own_error(error), DataProblems)
    assert own_error(error).problems == (problem,)


def test_where_we_raise_one_from_another_the_outer_one_says_more(tmp_path):
    from datamodules.seg.dataset import AnnotatedImage, SegDataset
    from datamodules.transforms.augment import Augmentation
    from datamodules.transforms.label_maps import LabelMaps

    class Source:
        def read(self, index):
            nothing = np.zeros(0, dtype=np.int64)
            maps = LabelMaps(np.zeros((0, 5, 5), np.uint8), nothing, nothing)
            image = np.zeros((5, 5, 3), np.uint8)
            return AnnotatedImage(image, maps, nothing, nothing.astype(bool), 7, "image 7")

    crop = Augmentation([{"name": "RandomCrop", "height": 9, "width": 9}])
    from datamodules.sampling.keys import SampleKey

    error = raised(lambda: SegDataset(Source(), augmentation=crop)[SampleKey(0)])
    assert user_message(error).startswith("image 7, 5 px high and 5 px wide: ")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_process_comes_without_its_traceback(tmp_path, workers):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / f"{name}.png")
    maps = {"ids": [1], "names": ["x"]}
    data = ImageFolderDataModule(tmp_path, maps, num_workers=workers)
    file = tmp_path / "b.png"
    file.write_bytes(file.read_bytes()[:60])
    error = raised(lambda: list(data.predict_dataloader()))
    assert isinstance(data.predict_dataloader(), DataLoader)
    shown = user_message(error)
    assert shown.startswith(f"image file {file} cannot be read: ")
    assert shown.endswith("; replace it")
    assert "\n" not in shown
