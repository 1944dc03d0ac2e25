"""Files of images on the page."""

import cv2
import numpy as np
import pytest

from evaluation.report.page.images import LARGEST, encode_image


def decoded(file):
    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_small_and_plain_images_are_lossless():
    pixels = np.zeros((8, 9, 3), np.uint8)
    pixels[2, 3] = 250, 10, 30
    file, mime = encode_image(pixels)
    assert mime == "image/png"
    assert np.array_equal(decoded(file), pixels)
    assert np.array_equal(decoded(encode_image(pixels[..., 0])[0])[..., 0], pixels[..., 0])


@pytest.mark.parametrize("shape", [(1000, 2000, 3), (2000, 500, 3)])
def test_large_photographs_are_shrunk_to_few_bytes(shape):
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    photo = cv2.resize(coarse, shape[1::-1], interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(photo + random.normal(0, 10, shape), 0, 255).astype(np.uint8)
    file, mime = encode_image(noisy)
    shown = decoded(file)
    assert mime == "image/jpeg"
    assert max(shown.shape) == 800
    assert shown.shape[0] * shape[1] == shown.shape[1] * shape[0]
    assert len(file) <= LARGEST
    wanted = cv2.resize(photo, shown.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - wanted).mean() < 6  # and channels are in their order
