"""The commands `segmil-train` and `segmil-evaluate` of an installation."""

import runpy
import sys
from functools import partial

from segmil.own_packages import HOME, check_packages


def run(script: str) -> None:
    """Run a script beside this package, by its path: other packages are called `evaluate` too."""
    try:
        check_packages()
    except ImportError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    runpy.run_path(str(HOME / script), run_name="__main__")


train, evaluate = partial(run, "train.py"), partial(run, "evaluate.py")
