"""`python -m tests.faults [WORD ...]`: run the corpus, count cases by kind and list failures.

Words select the cases whose name contains one of them; then no case runs in a separate process.
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.case import ROOT, Case, judge, run_apart, run_here, words_of
from tests.faults.corpus import APART, CASES

LIMIT = 20.0  # seconds after which a case counts as a hang
LIMIT_APART = 90.0  # same in a separate process, with the start of Python and all imports


def run_case(case: Case, apart: bool = False) -> tuple[list[str], str]:
    """Run one case in a temporary folder and return its failures and its stderr."""
    with TemporaryDirectory(prefix="segmil-fault-") as name:
        folder = Path(name)
        words = words_of(case, folder)
        outcome = run_apart(words, LIMIT_APART) if apart else run_here(words, LIMIT)
        return judge(case, outcome, folder), outcome.err


def run_all(jobs: Iterable[tuple[str, Case, bool]]) -> int:
    """Run cases, count them by title and return the number of failures."""
    seen, failed = Counter[str](), Counter[str]()
    start = time.perf_counter()
    for title, case, apart in jobs:
        faults, message = run_case(case, apart)
        seen[title] += 1
        if faults:
            failed[title] += 1
            sys.stdout.write(f"{case}: {'; '.join(faults)}\n    {message[:600]!r}\n")
    for title, count in seen.items():
        sys.stdout.write(f"{title:<28}{count - failed[title]:4} of {count:4} rejected correctly\n")
    total, bad, seconds = seen.total(), failed.total(), time.perf_counter() - start
    sys.stdout.write(f"{'in all':<28}{total - bad:4} of {total:4} in {seconds:.0f} s\n")
    return bad if total else 1


def main(chosen: list[str]) -> int:
    """Return the exit code: 0 if every case was rejected correctly."""
    os.chdir(ROOT)
    cases = [c for c in CASES if not chosen or any(word in str(c) for word in chosen)]
    jobs = [(case.kind, case, False) for case in cases]
    jobs += [] if chosen else [("in a separate process", case, True) for case in APART]
    return min(run_all(jobs), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
