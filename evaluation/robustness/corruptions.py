"""The 19 corruptions of ImageNet-C at five severities, for images of any size.

Hendrycks and Dietterich ("Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019) defined them; Michaelis et al. ("Benchmarking Robustness in Object
Detection", 2019) made them work at any size, in the library `imagecorruptions`. The first 15 are
the benchmark, whose mean is reported; the other four were meant for validation.

`corrupt` has two paths. With ``exact``, every byte is that of `imagecorruptions-imaug`, the
maintained version of the library. Otherwise the slowest corruptions are computed by
`evaluation.robustness.fast_corruptions`, from the same random numbers and to within one grey level
of the library, and the library makes the rest (A783). Further assumptions: A776 to A784.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from evaluation.robustness.fast_corruptions import FAST
from evaluation.robustness.names import BENCHMARK, EXTRA, LIBRARY, SEVERITIES
from structures.own_functions import changed_by, imported

__all__ = ["BENCHMARK", "EXTRA", "SEVERITIES", "corrupt"]

Image = NDArray[np.uint8]

SMALLEST_SIDE = 32  # pixels

_GROUPS = {"benchmark": BENCHMARK, "extra": EXTRA, "all": BENCHMARK + EXTRA}
_SINCE = (1, 1, 4)  # six photographs of frost (A778, A784)
_INSTALL = (
    "in the clone, run `python -m pip install -e '.[robustness]'` and then `python -m pip install "
    f"--no-deps '{LIBRARY}>=1.1.4'` (without --no-deps, it brings a second OpenCV, which replaces "
    "the one that is installed)"
)
_SEEDED = ("impulse_noise", "glass_blur")  # they ignore the state of numpy
_LOCK = threading.Lock()  # the state of numpy belongs to all threads


def corrupt(image: Image, name: str, severity: int, seed: int, exact: bool = False) -> Image:
    """Return a corrupted copy of an image.

    The same arguments give the same bytes in every process. The global random states of numpy and
    numba stay as they were.

    Args:
        image: (H, W, 3) uint8, RGB, each side at least 32 pixels. Blurs, snow, fog and spatter have
            a fixed size in pixels, so an image is corrupted before it is resized.
        name: a name of `BENCHMARK` or `EXTRA`, or the dotted name of a function of one's own,
            ``function(image, severity, rng)``, which returns an image of the same shape and type.
        severity: 1 to 5.
        seed: 0 to 2**32 - 1; see `image_seed`.
        exact: compute all of them by the library, of which these are the bytes after
            ``numpy.random.seed(seed)``. One's own function is not affected.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ValueError: an argument is wrong, or the library is needed and missing.
    """
    _check_image(image)
    check_severity(severity)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed lies between 0 and 2**32 - 1, got {seed}")
    image, severity, seed = np.ascontiguousarray(image), int(severity), int(seed)
    if "." in name:
        return changed_by(name, image, severity, seed)
    _check_known(name)
    if name in FAST and not exact:
        return FAST[name](image, severity, seed)
    return _by_library(image, name, severity, seed)


def image_seed(seed: int, image_id: int | str, name: str, severity: int) -> int:
    """Return the seed of one image in one cell of the benchmark (A777).

    It depends on nothing else, so the number of workers, the order of images and the batch size do
    not change a corrupted image.

    Returns:
        0 to 2**32 - 1.
    """
    text = "\n".join(map(str, (int(seed), image_id, name, int(severity))))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")


def chosen_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the corruptions that a user names, each once, with groups in their place.

    Args:
        names: names of corruptions, dotted names, or ``benchmark``, ``extra`` and ``all``.

    Raises:
        ValueError: a name is unknown.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in _GROUPS and "." not in name:
            _check_known(name)
        found.update(dict.fromkeys(_GROUPS.get(name, (name,))))
    return tuple(found)


def check_corruptions(names: Sequence[str], exact: bool = False) -> None:
    """Check before any work that every corruption can be computed.

    Raises:
        ValueError: a name is unknown, cannot be imported, or needs the library, which is missing.
    """
    for name in names:
        if "." in name:
            imported(name)
            continue
        _check_known(name)
        if exact or name not in FAST:
            _library()


def need_library(names: Sequence[str], exact: bool = False) -> bool:
    """Return whether the library makes one of some corruptions, so that its version counts."""
    return any("." not in name and (exact or name not in FAST) for name in names)


def check_severity(severity: int) -> None:
    """Check a severity.

    Raises:
        ValueError: it is not a whole number from 1 to 5.
    """
    whole = isinstance(severity, int | np.integer) and not isinstance(severity, bool)
    if not whole or severity not in SEVERITIES:
        raise ValueError(f"severity is a whole number from 1 to 5, got {severity!r}")


def _check_known(name: str) -> None:
    known = BENCHMARK + EXTRA
    if name not in known:
        (near,) = get_close_matches(name, known, n=1, cutoff=0)
        raise ValueError(
            f"there is no corruption {name!r}; did you mean {near}? There are {', '.join(known)}; "
            "a corruption of your own has a dotted name, such as my_module.my_fog"
        )


def _check_image(image: Image) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise ValueError(f"image is a uint8 array with values from 0 to 255, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image has shape (H, W, 3), got {tuple(image.shape)}")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"the corruptions need at least {SMALLEST_SIDE} pixels on each side; the image has "
            f"{width} x {height}"
        )


@functools.cache
def _library() -> Callable[..., Image]:
    """Import the function of the library.

    The original package has the same import name, but three of its functions fail with numpy 2.
    """
    try:
        version = metadata.version(LIBRARY)
        from imagecorruptions import corrupt as library
    except metadata.PackageNotFoundError:
        first = ""
        if importlib.util.find_spec("imagecorruptions"):
            first = "remove the other package first (`python -m pip uninstall imagecorruptions`); "
        raise ValueError(f"these corruptions need {LIBRARY}: {first}{_INSTALL}") from None
    except ImportError as error:  # such as numba's, of a numpy that is too new for it
        raise ValueError(f"these corruptions need {LIBRARY} ({error}): {_INSTALL}") from None
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < _SINCE:
        raise ValueError(f"{LIBRARY} {version} is too old: {_INSTALL}")
    return library  # type: ignore[no-any-return]


def _by_library(image: Image, name: str, severity: int, seed: int) -> Image:
    """Return the image as the library makes it after ``numpy.random.seed(seed)`` (A776, A781)."""
    call = functools.partial(_library(), image, severity, name)
    if name == "glass_blur":  # numba's random state belongs to a thread
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(call, seed=seed).result()
    with _seeded(seed):
        return call(seed=seed) if name in _SEEDED else call()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global state of numpy, and put it back at the end."""
    with _LOCK:
        before = np.random.get_state()
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
