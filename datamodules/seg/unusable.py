"""The error of image data that cannot be used at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from structures import DataProblems, Problem

if TYPE_CHECKING:
    from datamodules.seg.base import SegDataModule


class UnusableData(DataProblems):
    """Error of a datamodule's constructor if its files cannot be used at all.

    Args:
        problems: problems found by the constructor.
        datamodule: the datamodule; it cannot train, but its ``check`` and ``summary`` work.
    """

    def __init__(self, problems: Sequence[Problem], datamodule: SegDataModule) -> None:
        super().__init__(problems)
        self.datamodule = datamodule
