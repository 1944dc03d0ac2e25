"""What makes a file of ``torch.save`` safe to open: its archive holds what it seems to."""

from __future__ import annotations

import zipfile
from pathlib import Path


def check_archive(path: Path) -> None:
    """Refuse a zip archive that ``torch.save`` cannot have written as it is.

    ``torch.save`` stores values as they are. An archive that a zip program has written anew may
    have packed them: it can grow to any size in memory, and where tensors are mapped from the file
    their packed bytes would be taken for values.

    Args:
        path: an existing file; one that is no zip archive is left to its reader.

    Raises:
        ValueError: an entry is packed, or entries share bytes of the file.
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
            f"an archive with packed entries that grows to {size} bytes, not one of torch.save"
        )
