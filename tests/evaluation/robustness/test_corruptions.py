"""Corruptions beside the library, their random numbers, and what is refused."""

import importlib.util
import os
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.robustness import corruptions
from evaluation.robustness.corruptions import (
    BENCHMARK,
    EXTRA,
    check_corruptions,
    chosen_names,
    corrupt,
    image_seed,
)
from evaluation.robustness.fast_corruptions import FAST
from tests.support.layers import ROOT

ALL = BENCHMARK + EXTRA
LIBRARY = "imagecorruptions-imaug"
SLOW = [pytest.param("glass_blur", marks=pytest.mark.slow)]  # numba compiles it in each process
NAMES = [name for name in ALL if name != "glass_blur"]
EITHER_WAY = ("snow", "saturate")  # damage does not grow with severity


def peer():
    """Return the library's function, or skip."""
    return pytest.importorskip(
        "imagecorruptions", reason="`make setup` installs imagecorruptions-imaug"
    ).corrupt


def of_library(image, name, severity, seed):
    np.random.seed(seed)
    options = {"seed": seed} if name in {"impulse_noise", "glass_blur"} else {}
    return peer()(image, severity, name, **options)


def photograph(width=640, height=427):
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image("china.jpg"))
    return np.array(image.resize((width, height), Image.Resampling.BOX))


def differences(image, name, severity, seed=5):
    """Return the largest difference from the library, and the fraction of values that differ."""
    ours = corrupt(image, name, severity, seed).astype(int)
    away = np.abs(ours - of_library(image, name, severity, seed))
    return away.max(), np.mean(away > 0)


def assert_close(image, name, severity):
    largest, fraction = differences(image, name, severity)
    assert largest <= 1, (name, severity)
    assert fraction <= (0.25 if name == "saturate" else 0.05), (name, severity)


def psnr(image, corrupted):
    return -10 * np.log10(np.mean((image / 255.0 - corrupted / 255.0) ** 2))


def test_names_are_those_of_the_library_in_its_order():
    peer()
    names = importlib.import_module("imagecorruptions").get_corruption_names
    assert list(BENCHMARK) == names("common")
    assert list(EXTRA) == names("validation")


@pytest.mark.parametrize("name", [*NAMES, *SLOW])
def test_exact_is_the_library_and_leaves_every_random_state(name):
    for size in ((53, 37), (40, 64)):
        image = photograph(*size)
        image.flags.writeable = False
        for severity in range(1, 6):
            expected = of_library(image, name, severity, 11)
            np.random.seed(1)
            before = np.random.get_state()[1].copy(), np.random.get_state()[2:]
            found = corrupt(image, name, severity, 11, exact=True)
            assert found.dtype == np.uint8
            assert np.array_equal(found, expected), (name, severity, size)
            assert np.array_equal(np.random.get_state()[1], before[0])
            assert np.random.get_state()[2:] == before[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["glass_blur", "frost", "fog"])
def test_exact_on_a_large_photograph(name):
    image = photograph(2000, 1333)
    expected = of_library(image, name, 5, 3)
    assert np.array_equal(corrupt(image, name, 5, 3, exact=True), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zoom_blur", "snow"])
def test_own_implementations_on_a_large_photograph(name):
    assert_close(photograph(2000, 1333), name, 5)


@pytest.mark.parametrize("name", [name for name in FAST if name != "zoom_blur"])
def test_own_implementations_are_within_one_grey_level_of_a_photograph(name):
    for severity in (1, 5):
        assert_close(photograph(320, 240), name, severity)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_own_implementations_on_photographs_of_any_kind(name, shared_data):
    for path in sorted(shared_data("coco_small").rglob("*.jpg"))[:2]:
        image = np.array(Image.open(path).convert("RGB"))
        for severity in (1, 3, 5):
            assert_close(image, name, severity)


def test_flat_areas_lose_the_level_that_they_lose_in_the_library():
    """A mean of equal values in floating point may lie just below them, and is cut."""
    grey = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(256, 1, 1, 3)
    lost = 0
    for severity in (1, 3, 5):
        for name in ("motion_blur", "zoom_blur", "elastic_transform"):
            for level in range(severity, 256, 31):
                image = np.broadcast_to(grey[level], (32, 48, 3))
                expected = of_library(image, name, severity, 2)
                assert np.array_equal(corrupt(image, name, severity, 2), expected), (name, level)
                lost += (expected < level).any()
    assert lost  # the case occurs


@pytest.mark.parametrize(
    ("height", "width"), [(41, 36), (36, 164), (136, 111), (122, 36), (33, 257)]
)
def test_zooms_of_odd_sizes(height, width):
    """For some sizes, a rounding takes the last row of a zoom from outside the image."""
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    for severity in range(1, 6):
        for name in ("zoom_blur", "snow", "motion_blur"):
            assert_close(image, name, severity)


@pytest.mark.parametrize("name", [*NAMES, *SLOW])
def test_damage_grows_with_severity(name):
    peer()
    image = photograph(160, 107)
    weak, strong = (psnr(image, corrupt(image, name, severity, 0)) for severity in (1, 5))
    assert strong < weak - 1 or name in EITHER_WAY


@pytest.mark.slow
def test_another_process_with_more_threads_gives_the_same_bytes():
    peer()
    code = (
        "import hashlib, numpy as np\n"
        "from evaluation.robustness.corruptions import corrupt, image_seed\n"
        "image = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)\n"
        "for name in {names}:\n"
        "    found = corrupt(image, name, 3, image_seed(0, 17, name, 3))\n"
        "    print(name, hashlib.sha256(found.tobytes()).hexdigest())\n"
    )
    there = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code.format(names=NAMES[::-1])],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "3"},
    ).stdout  # fmt: skip
    lines = []
    exec(code.format(names=NAMES), {"print": lambda *words: lines.append(words)})
    assert sorted(there.splitlines()) == sorted(map(" ".join, lines))
    assert len(lines) == 18


@pytest.mark.slow
def test_glass_blur_leaves_the_random_state_of_numba():
    peer()
    numba = importlib.import_module("numba")

    @numba.njit
    def seeded(seed):
        np.random.seed(seed)

    @numba.njit
    def drawn():
        return np.random.random()

    seeded(3)
    expected = drawn(), drawn()
    seeded(3)
    first = drawn()
    corrupt(photograph(40, 40), "glass_blur", 1, 9, exact=True)
    assert (first, drawn()) == expected


def test_seeds_of_images_differ_in_every_part_and_are_fixed():
    cells = [
        (0, 1, "fog", 1),
        (1, 1, "fog", 1),
        (0, 2, "fog", 1),
        (0, 1, "snow", 1),
        (0, 1, "fog", 2),
    ]
    seeds = [image_seed(*cell) for cell in cells]
    assert len(set(seeds)) == len(cells)
    assert seeds[0] == image_seed(np.int64(0), np.int64(1), "fog", np.int64(1)) == FIRST_SEED
    assert all(0 <= seed < 2**32 for seed in seeds)


FIRST_SEED = 3071341173  # a change would make finished grids impossible to continue


def test_own_corruption_by_dotted_name(tmp_path, monkeypatch):
    (tmp_path / "own_weather.py").write_text(
        "import numpy as np\n"
        "def haze(image, severity, rng):\n"
        "    image[:] = np.minimum(image + rng.integers(0, 10 * severity, image.shape), 255)\n"
        "    return image\n"
        "def grey(image, severity, rng):\n"
        "    return image.mean(axis=2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    image = photograph(40, 32)
    before = image.copy()
    found = corrupt(image, "own_weather.haze", 2, 4)
    noise = np.random.default_rng(4).integers(0, 20, image.shape)
    assert np.array_equal(found, np.minimum(before + noise, 255))
    assert np.array_equal(image, before)
    with pytest.raises(ValueError, match=r"own_weather.grey returned float64 \(32, 40\); expected"):
        corrupt(image, "own_weather.grey", 2, 4)
    with pytest.raises(ValueError, match="own_weather has no function 'hase'"):
        check_corruptions(["own_weather.hase"])
    with pytest.raises(ValueError, match="importing no_such_weather raised ModuleNotFoundError"):
        check_corruptions(["no_such_weather.fog"])


def test_zooms_do_not_depend_on_the_number_of_threads_and_leave_it():
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found[threads] = [corrupt(image, "zoom_blur", severity, 0) for severity in (1, 3)]
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found[1], found[3])


def test_names_and_groups_are_chosen_once_each():
    assert chosen_names(["benchmark"]) == BENCHMARK
    assert chosen_names(["fog", "extra", "my.own", "fog"]) == ("fog", *EXTRA, "my.own")
    assert chosen_names(["snow", "all"])[0] == "snow"
    assert set(chosen_names(["snow", "all"])) == set(ALL)
    with pytest.raises(ValueError, match="no corruption 'motion'; did you mean motion_blur"):
        chosen_names(["fog", "motion"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "gausian_noise"}, "did you mean gaussian_noise"),
        ({"name": "xyz"}, "there is no corruption 'xyz'; did you mean"),
        ({"severity": 0}, "from 1 to 5, got 0"),
        ({"severity": 6}, "from 1 to 5, got 6"),
        ({"severity": True}, "from 1 to 5, got True"),
        ({"severity": 2.0}, "from 1 to 5, got 2.0"),
        ({"seed": -1}, "seed lies between"),
        ({"seed": 2**32}, "seed lies between"),
        ({"image": np.zeros((31, 64, 3), np.uint8)}, "at least 32 .* has 64 x 31"),
        ({"image": np.zeros((64, 64), np.uint8)}, r"shape \(H, W, 3\), got \(64, 64\)"),
        ({"image": np.zeros((64, 64, 4), np.uint8)}, r"got \(64, 64, 4\)"),
        ({"image": np.zeros((64, 64, 3))}, "uint8 array .* got float64"),
        ({"image": Image.new("RGB", (64, 64))}, "uint8 array .* got Image"),
    ],
)
def test_bad_arguments_are_named(change, message):
    given = {
        "image": np.zeros((64, 64, 3), np.uint8),
        "name": "brightness",
        "severity": 1,
        "seed": 0,
    }
    with pytest.raises(ValueError, match=message):
        corrupt(**given | change)


@pytest.fixture
def fresh():
    """Look the library up again, before and after a test that hides it."""
    corruptions._library.cache_clear()
    yield
    corruptions._library.cache_clear()


def test_without_the_library_the_message_has_both_commands(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    monkeypatch.setattr(metadata, "version", lambda name: "1.1.5")
    with pytest.raises(ValueError, match="needs? imagecorruptions-imaug") as caught:
        check_corruptions(["fog"])
    assert "pip install -e '.[robustness]'" in str(caught.value)
    assert "pip install --no-deps 'imagecorruptions-imaug>=1.1.4'" in str(caught.value)
    check_corruptions(["brightness"])  # it does not need the library
    with pytest.raises(ValueError, match="--no-deps"):
        check_corruptions(["brightness"], exact=True)


def test_the_original_package_and_old_versions_are_refused(monkeypatch, fresh):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="need imagecorruptions-imaug: in the clone, .* --no-deps"):
        check_corruptions(["fog"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="pip uninstall imagecorruptions`.*, .* --no-deps"):
        check_corruptions(["fog"])
    monkeypatch.setitem(sys.modules, "imagecorruptions", type("Fake", (), {"corrupt": print}))
    monkeypatch.setattr(metadata, "version", lambda name: "1.1.3")
    with pytest.raises(ValueError, match=r"1\.1\.3 is too old"):
        check_corruptions(["fog"])
    corruptions._library.cache_clear()
    monkeypatch.setattr(metadata, "version", lambda name: "1.10")
    check_corruptions(["fog"])


def test_one_opencv_is_installed():
    """A second distribution would replace the files of the first, and needs libGL."""
    import cv2

    found = {dist.metadata["Name"].lower() for dist in metadata.distributions()}
    assert {name for name in found if name and name.startswith("opencv")} == {
        "opencv-python-headless"
    }
    assert cv2.__version__
