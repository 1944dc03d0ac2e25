"""Facts of the data that a model is built with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.checkpoints.data import takes
from engine.config.sections import plain
from lightning_modules.rebuilding import LINKS


def links_of(model: Mapping[str, Any], data: Any) -> dict[str, Any]:
    """Return the facts from which a checkpoint builds the model again.

    Args:
        model: ``model`` section of the resolved configuration.
        data: the datamodule.

    Raises:
        ValueError: images have four channels, and the network has no argument for their number.
    """
    found = {fact: plain(getattr(data, fact)) for fact in LINKS if hasattr(data, fact)}
    network = model.get("init_args", {}).get("model") or {}
    if "in_channels" in found and not takes(network, "in_channels"):
        channels = found.pop("in_channels")
        if channels != 3:
            name = str(network.get("class_path")).rpartition(".")[2]
            raise ValueError(
                f"data.low_light.input raw4 gives images of {channels} channels, but {name} has no "
                "argument in_channels and takes three; choose raw3 or srgb"
            )
    return found
