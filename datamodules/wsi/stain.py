"""Stain normalisation: the colours of a slide become those of a reference.

Both methods are fitted once a slide, on a sample of its tissue (`datamodules.wsi.stain_sample`),
and all patches of the slide are changed by the same values. They are never fitted to a patch: a
patch of stroma alone has no haematoxylin that could be fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from datamodules.transforms.stain import DensityMap, Image, densities, mean_density
from datamodules.wsi.stain_sample import StainSample, read_reference

Values = dict[str, Any]
ImageTransform = Callable[[Image], Image]
Array = npt.NDArray[np.float64]

_DIGITS = 5  # of the values, so that those in the file are those that are used
_LEAST_PIXELS = 1000  # of tissue, for a fit  # A687
_LEAST_ANGLE = 5.0  # degrees between the stains
_LEAST_SHARE = 0.01  # of a patch's pixels that are tissue, for it to be changed  # A683

# The vectors and amounts that M. Veta's implementation of Macenko's method and torchstain use, in
# front of white glass
_MACENKO: Final[Values] = {
    "glass": [255.0, 255.0, 255.0],
    "hematoxylin": [0.5626, 0.7201, 0.4062],
    "eosin": [0.2159, 0.8012, 0.5581],
    "amounts": [1.9705, 1.0308],
}
# Of the tissue of drawn slides that were normalised to the reference above  # A682
_REINHARD: Final[Values] = {
    "glass": [255.0, 255.0, 255.0],
    "mean": [8.713, -0.06, 0.045],
    "deviation": [0.388, 0.072, 0.014],
}


class Stain(Protocol):
    """A method of stain normalisation; a recipe names its class."""

    def fit(self, sample: StainSample) -> Values:
        """Return what is known of a slide, plain numbers and lists, which its file records.

        Raises:
            ValueError: the sample does not suffice; the message is ``REASON; REMEDY``.
        """
        ...

    def transform(self, values: Mapping[str, Any]) -> ImageTransform:
        """Return the change of a patch (H, W, 3) uint8 RGB of the slide with these values."""
        ...

    def section(self) -> dict[str, Any]:
        """Return ``class_path`` and ``init_args`` of this object, without names of files."""
        ...


class Macenko:
    """Stain vectors and amounts of haematoxylin and eosin.

    Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI
    2009. The optical densities of the tissue's pixels lie near the plane of the two stains, which
    is that of the first two singular vectors; the stains are the directions at low and high
    percentiles of the angles in it. Amounts follow by least squares, and their 99th percentiles
    become those of the reference.

    Two things differ from a plain implementation, because that misses eosin (docs/slides.md, A680,
    A681): densities are relative to the glass of the slide rather than to 255, and a pixel counts
    as tissue by the mean density of its channels, not by the least.

    Args:
        reference: an image, a JSON file of fitted values, a feature file whose slide was fitted, or
            the values; null for those built in.
        beta: least mean optical density (natural logarithm) of a pixel of tissue.
        percentile: of the angles, in (0, 50); the other one is 100 less this.

    Raises:
        ValueError: an argument is out of range, or the reference cannot be used.
    """

    def __init__(
        self,
        reference: dict[str, Any] | str | None = None,
        *,
        beta: float = 0.15,
        percentile: float = 1.0,
    ) -> None:
        _check_beta(beta)
        if not 0 < percentile < 50:
            raise ValueError(f"percentile must be between 0 and 50, got {percentile}")
        self.beta, self.percentile = beta, percentile
        self.reference = read_reference(reference, _MACENKO, self.fit)

    def section(self) -> dict[str, Any]:
        """Return class and arguments; the reference by its values."""
        named = {"beta": self.beta, "percentile": self.percentile}
        return _section(self, self.reference, named)

    def fit(self, sample: StainSample) -> Values:
        """Return the glass, the unit vectors of both stains and the 99th percentiles of amounts."""
        tissue = densities(_tissue_of(sample, self.beta), sample.glass)
        # No matrix product of BLAS over pixels: its rounding depends on the number of threads.
        second = np.einsum("ni,nj->ij", tissue, tissue)
        plane = np.linalg.eigh(second)[1][:, :0:-1]  # (3, 2), through the origin  # A684
        plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
        along, across = (np.einsum("ni,i->n", tissue, axis) for axis in plane.T)
        angles = np.percentile(np.arctan2(across, along), [self.percentile, 100 - self.percentile])
        ends = np.stack([np.cos(angles), np.sin(angles)]).T @ plane.T  # (2, 3)
        stains = ends[np.argsort(-ends[:, 0])]  # haematoxylin absorbs more red
        apart = float(np.degrees(angles[1] - angles[0]))
        if apart < _LEAST_ANGLE:
            raise ValueError(
                f"its tissue has one colour, so that its stains cannot be told apart (they are "
                f"{apart:.1f} degrees apart); {_REMEDY}"
            )
        amounts = np.einsum("ni,ij->nj", tissue, np.linalg.pinv(stains))
        found = {
            "glass": sample.glass,
            "hematoxylin": stains[0],
            "eosin": stains[1],
            "amounts": np.percentile(amounts, 99, axis=0),
        }
        return _plain(found)

    def transform(self, values: Mapping[str, Any]) -> ImageTransform:
        """Return the change of a patch; one without tissue stays as it is, bit for bit."""
        own, wanted = _stains(values), _stains(self.reference)
        factors = np.divide(self.reference["amounts"], np.maximum(values["amounts"], 1e-3))
        matrix = np.linalg.pinv(own) @ np.diag(factors) @ wanted
        glass = values["glass"]
        change = DensityMap(matrix, np.zeros(3), glass, self.reference["glass"])

        def apply(image: Image) -> Image:
            dense = mean_density(image, glass) > self.beta
            return change(image) if dense.mean() >= _LEAST_SHARE else image

        return apply


class Reinhard:
    """Means and deviations of the colours in the space l-alpha-beta.

    Reinhard et al., "Color transfer between images", IEEE Computer Graphics and Applications 21,
    2001, in the space of Ruderman et al. (1998): logarithms of the responses L, M, S of the cones,
    rotated. Means and deviations are those of tissue alone. Pixels between glass and tissue are
    mixed of the old and the new colour in proportion to their density, so that glass keeps its
    colour (A685).

    Args:
        reference: as in `Macenko`.
        beta: least mean optical density (natural logarithm) of a pixel of tissue.

    Raises:
        ValueError: an argument is out of range, or the reference cannot be used.
    """

    def __init__(
        self, reference: dict[str, Any] | str | None = None, *, beta: float = 0.15
    ) -> None:
        _check_beta(beta)
        self.beta = beta
        self.reference = read_reference(reference, _REINHARD, self.fit)

    def section(self) -> dict[str, Any]:
        """Return class and arguments; the reference by its values."""
        return _section(self, self.reference, {"beta": self.beta})

    def fit(self, sample: StainSample) -> Values:
        """Return the glass, and means and deviations of l, alpha and beta."""
        tissue = l_alpha_beta(_tissue_of(sample, self.beta))
        found = {
            "glass": sample.glass,
            "mean": tissue.mean(axis=0),
            "deviation": tissue.std(axis=0),
        }
        if min(found["deviation"]) < 10.0**-_DIGITS:
            raise ValueError(f"its tissue has one colour, so that nothing can be fitted; {_REMEDY}")
        return _plain(found)

    def transform(self, values: Mapping[str, Any]) -> ImageTransform:
        """Return the change of a patch; one without tissue stays as it is, bit for bit."""
        glass = values["glass"]
        factors = np.divide(self.reference["deviation"], values["deviation"])
        # log LMS' = log LMS @ matrix + shift, which is the transfer in l-alpha-beta
        matrix = _ROTATION @ np.diag(factors) @ np.linalg.inv(_ROTATION)
        mean = np.asarray(self.reference["mean"]) - np.asarray(values["mean"]) * factors
        shift = mean @ np.linalg.inv(_ROTATION)
        whole, half = matrix.astype(np.float32), shift.astype(np.float32)

        def apply(image: Image) -> Image:
            density = mean_density(image, glass)
            if (density > self.beta).mean() < _LEAST_SHARE:
                return image
            planes = np.maximum(np.moveaxis(image, -1, 0), 1).astype(np.float32)
            cones = np.log(_combined(planes, _TO_CONES))
            cones = np.exp(_combined(cones, whole) + half[:, None, None])
            share = np.clip(density / np.float32(self.beta), 0, 1)
            mixed = planes + share * (_combined(cones, _TO_RGB) - planes)
            found: Image = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
            return np.where(share[..., None] > 0, np.moveaxis(found, 0, -1), image)

        return apply


_REMEDY = "look at its preview, and leave the slide out or extract it without stain"
# From RGB to the cones' responses, and from their logarithms to l, alpha, beta, as row vectors:
# equations 4 to 6 of Reinhard et al.
_CONES: Final = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
).T
_ROTATION: Final = (
    np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
).T
_TO_CONES: Final = _CONES.astype(np.float32)
_TO_RGB: Final = np.linalg.inv(_CONES).astype(np.float32)


def l_alpha_beta(pixels: Image) -> Array:
    """Return (..., 3) l, alpha and beta of RGB pixels, natural logarithms of bytes, 0 as 1."""
    light = np.maximum(np.asarray(pixels, np.float64), 1)
    cones = np.einsum("...i,ij->...j", light, _CONES)
    return np.asarray(np.einsum("...i,ij->...j", np.log(cones), _ROTATION))


def _combined(planes: Any, matrix: Any) -> Any:
    """Return planes (3, H, W) of which each is a sum of those given, weighted by a column (3, 3).

    A matrix product of BLAS would be rounded as its number of threads has it.
    """
    first, second, third = planes
    return np.stack([a * first + b * second + c * third for a, b, c in matrix.T])


def _tissue_of(sample: StainSample, beta: float) -> Image:
    """Return the pixels (n, 3) of a sample that are dense enough.

    Raises:
        ValueError: there are too few.
    """
    dense = mean_density(sample.pixels, sample.glass) > beta
    if dense.sum() < _LEAST_PIXELS:
        raise ValueError(
            f"{int(dense.sum())} of {len(dense)} sampled pixels of its tissue are denser than "
            f"beta {beta:g}, too few to fit its stain (at least {_LEAST_PIXELS}); {_REMEDY}"
        )
    return np.asarray(sample.pixels[dense])


def _stains(values: Mapping[str, Any]) -> Array:
    return np.array([values["hematoxylin"], values["eosin"]], float)


def _plain(values: Mapping[str, Any]) -> Values:
    return {name: np.round(value, _DIGITS).tolist() for name, value in values.items()}


def _check_beta(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")


def _section(stain: object, reference: Values, named: Mapping[str, Any]) -> dict[str, Any]:
    # The reference by its values: neither a moved file nor a changed one matters later  # A691
    kind = type(stain)
    path = f"{kind.__module__}.{kind.__qualname__}"
    return {"class_path": path, "init_args": {"reference": reference, **named}}
