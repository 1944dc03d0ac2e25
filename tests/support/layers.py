"""Folders of the source tree and their layers; see docs/ARCHITECTURE.md."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# A folder imports itself and the folders of earlier layers.
LAYERS = (
    ("structures", "optim"),
    ("formats", "models"),
    ("datamodules", "evaluation"),
    ("lightning_modules", "loggers"),
    ("callbacks",),
    ("engine",),
    ("commands", "segmil"),
)
FOLDERS = tuple(folder for layer in LAYERS for folder in layer)
SCRIPTS = ("train.py", "evaluate.py", "quickstart.py")


def earlier(folder):
    """Return the folders that a folder may import in addition to itself."""
    number = next(n for n, layer in enumerate(LAYERS) if folder in layer)
    return {name for layer in LAYERS[:number] for name in layer}
