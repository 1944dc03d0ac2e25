"""Safety check of the zip archives that ``torch.save`` writes."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_archive(path: Path) -> None:
    """Check that a zip archive has the layout that ``torch.save`` writes.

    ``torch.save`` stores values without compression. An archive that a zip program has repacked may
    be compressed: it can grow to any size in memory, and if tensors are memory-mapped, compressed
    bytes would be read as values.

    Args:
        path: an existing file; a file that is not a zip archive is not checked.

    Raises:
        ValueError: an entry is compressed, or entries share bytes of the file.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    packed = any(
        entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size
        for entry in entries
    )
    if packed or size > path.stat().st_size:
        raise ValueError(
            f"an archive with compressed entries that grows to {size} bytes, not written by "
            "torch.save"
        )
