"""A recipe that extracts features of slides, and what it has written."""

import csv

RECIPE = {
    "model": {
        "class_path": "lightning_modules.extraction.ExtractionModule",
        "init_args": {"encoder": {"class_path": "tests.support.tiny_encoder.TinyEncoder"}},
    },
    "data": {"class_path": "datamodules.wsi.base.SlideDataModule", "init_args": {"batch_size": 7}},
    "trainer": {"accelerator": "cpu", "devices": 1},
}


def rows(folder):
    with (folder / "extraction.csv").open(newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def content(folder):
    """The bytes of all files but the table, of which the seconds differ."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".csv")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
