"""Lines about the data that `fit` prints before training."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

SPLITS = ("train", "val", "test")


@rank_zero_only  # type: ignore[misc]
def print_data_facts(data: Any) -> None:
    """Print a line for each split: images or bags, and the count of each class.

    Args:
        data: a datamodule; without a method ``describe`` nothing is printed.
    """
    if not hasattr(data, "describe"):
        return
    for split in SPLITS:
        text = data.describe(split)
        if text:
            rank_zero_info(f"{split}: {text}")
