"""The commands `segmil-train` and `segmil-evaluate` of an installation."""

import runpy
from functools import partial

from segmil.own_packages import HOME, check_packages


def run(script: str) -> None:
    """Run a script beside this package, by its path: other packages are called `evaluate` too."""
    check_packages()
    runpy.run_path(str(HOME / script), run_name="__main__")


train, evaluate = partial(run, "train.py"), partial(run, "evaluate.py")
