"""Where the predictions of a report are kept: ``RUN/report/HASH``, by checkpoint and data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.fingerprint import fingerprint
from formats.files import file_hash
from lightning_modules.rebuilding import class_of


def data_digest(section: Mapping[str, Any]) -> str:
    """Return a hash of the samples of a data section, see `datamodules.fingerprint`."""
    named = class_of(section)
    assert named is not None
    return fingerprint(named, section.get("init_args", {}))


def cache_folder(
    run: Path, checkpoint: Path, section: Mapping[str, Any], split: str, bad_data: str
) -> Path:
    """Return the folder of the predictions of a checkpoint for a split of data.

    Args:
        run: run folder.
        checkpoint: file whose content counts.
        section: ``class_path`` and ``init_args`` of the data, whose files count by
            `datamodules.fingerprint`.
        split: name of the split.
        bad_data: how faulty records are handled, which decides what is predicted.
    """
    # A834
    words = [file_hash(checkpoint), data_digest(section), split, bad_data]
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
    return run / "report" / digest
