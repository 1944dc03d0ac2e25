"""Comparison of a feature file that is there with the file that would be written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from formats.slide_features import SlideAttributes, read_attributes, short

REMEDY = "use these settings again, name another folder by features, or delete the file"


def finished_file(
    path: Path, slide: Path, wanted: SlideAttributes, remedy: str = REMEDY
) -> tuple[int, SlideAttributes]:
    """Return the number of patches and the attributes of a file.

    Args:
        path: the feature file.
        slide: the file of the slide.
        wanted: attributes that it would have if it were written now; the tissue is not compared.
        remedy: what to do about a file that was made with other settings.

    Raises:
        ValueError: the file cannot be read, is of another program, was made with other settings,
            or from another version of the slide.
    """
    try:
        patches, found = read_attributes(path)
    except ValueError as error:
        raise ValueError(f"{error}; name another folder by features, or delete the file") from None
    differences = [
        f"{name} {short(theirs)} in the file and {short(ours)} now"
        for name, theirs, ours in _differing(found, wanted)
    ]
    if differences:
        raise ValueError(f"{path}: was made with {', '.join(differences)}; {remedy}")
    if found.slide_fingerprint != wanted.slide_fingerprint:
        raise ValueError(
            f"{path}: was made from another version of {slide}: fingerprint "
            f"{found.slide_fingerprint} in the file and {wanted.slide_fingerprint} now; delete the "
            "file, or put the slide back that it was made from"
        )
    return patches, found


def _differing(found: SlideAttributes, wanted: SlideAttributes) -> Iterator[tuple[str, Any, Any]]:
    have = _compared(found)
    if "augmented" not in wanted.settings:  # what is asked for is there all the same
        have.pop("augmented", None)
    yield from differing_settings(have, _compared(wanted))


def _compared(made: SlideAttributes) -> dict[str, Any]:
    further = {"weights_sha256": made.weights_sha256, "slide_mpp": made.slide_mpp}
    return {**made.settings, **further}


def differing_settings(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and both values of each setting that differs, such as ``tissue.floor``."""
    one, other = _flat("", dict(first)), _flat("", dict(second))
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            yield name, one.get(name), other.get(name)


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings with one key each, such as ``tissue.floor``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(prefix if name == "init_args" else f"{prefix}{name}.", value)
        else:
            flat[f"{prefix}{name}"] = value
    return flat
