"""Check that our packages, whose names are common, are the ones that Python finds."""

import sys
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
PACKAGES = (
    "structures", "optim", "formats", "models", "datamodules", "evaluation", "lightning_modules",
    "loggers", "callbacks", "engine", "commands",
)  # fmt: skip


def check_packages() -> None:
    """Raise an ImportError where another module, such as a user's ``models``, hides one of ours."""
    for name in PACKAGES:
        loaded = sys.modules.get(name)
        spec = find_spec(name) if loaded is None else getattr(loaded, "__spec__", None)
        folders = getattr(spec, "submodule_search_locations", None) or []
        files = [*folders, getattr(spec, "origin", None), getattr(loaded, "__file__", None)]
        places = [Path(file).resolve() for file in files if file]
        if not any(place.is_relative_to(HOME / name) for place in places):
            raise ImportError(
                f"segmil needs its own package {name!r} in {HOME / name}, but Python finds "
                f"{places[0] if places else 'none'}. Rename that one, or begin your program with "
                f"sys.path.insert(0, {str(HOME)!r}), so that ours comes first"
            )
