"""How the features of slides were extracted, so that those of other slides can be extracted alike.

The record of a set of feature files is plain, because it travels in checkpoints:

    encoder         configuration of the encoder, see `lightning_modules.extraction`; may be missing
    weights_sha256  hash of the encoder's weights
    settings        the settings that all files share, see `formats.slide_features.SlideAttributes`
    differ          names of the settings in which files differ  # A661
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from formats.slide_features import Origin, origin_of

OUTLINED = {"outlines": True}  # the tissue of files, each with outlines of its own


class Extraction(NamedTuple):
    """How the file of one slide was extracted.

    Attributes:
        weights_sha256: hash of the encoder's weights.
        settings: attribute ``settings`` of the file, JSON.
        encoder_config: attribute of this name, JSON; empty if the file has none.
    """

    weights_sha256: str
    settings: str
    encoder_config: str


def stated(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the attributes of an h5 file say of its extraction; empty for other tools.

    Each is read once, because reading one takes a tenth of the time of opening the file.
    """
    names = set(attributes)
    needed = {name for name in Origin._fields if name not in Origin._field_defaults}
    if not {*needed, "settings"} <= names:
        return {}
    wanted = {*needed, *Extraction._fields, "slide_mpp"}
    return {name: attributes[name] for name in wanted & names}


def extraction_of(attributes: Mapping[str, Any]) -> Extraction | None:
    """Return how an h5 file was extracted; None if its attributes are not those of ours."""
    if origin_of(attributes) is None:
        return None
    values = (str(attributes.get(name, "")) for name in Extraction._fields)
    return Extraction(*map(sys.intern, values))  # thousands of files say the same


def shared_extraction(files: Iterable[Extraction | None]) -> dict[str, Any] | None:
    """Return the record of a set of feature files of one encoder.

    Args:
        files: how each was extracted.

    Returns:
        The record; None if there is no file, or one that does not say how it was made.
    """
    known = set(files)
    if not known or None in known:
        return None
    try:
        every = [_settings(text) for text in sorted({one.settings for one in known if one})]
        configs = sorted({one.encoder_config for one in known if one and one.encoder_config})
        encoders = [dict(json.loads(text)) for text in configs]
    except (TypeError, ValueError):  # the same names with another meaning
        return None
    names = sorted({name for settings in every for name in settings})
    first = every[0]
    differ = [n for n in names if any(s.get(n) != first.get(n) for s in every)]
    record: dict[str, Any] = {
        "weights_sha256": min(one.weights_sha256 for one in known if one),
        "settings": {n: first[n] for n in names if n not in differ},
        "differ": differ,
    }
    return record if not encoders else {"encoder": encoders[0], **record}


def _settings(text: str) -> dict[str, Any]:
    """Return the settings of a file; those of its own outlines are the same for every slide."""
    settings: dict[str, Any] = dict(json.loads(text))
    settings.pop("augmented", None)  # of training alone
    tissue = settings.get("tissue")
    if isinstance(tissue, dict) and set(tissue) == set(OUTLINED):
        settings["tissue"] = dict(OUTLINED)
    return settings
