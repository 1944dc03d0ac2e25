"""Copy of the source tree, to which tests only add new files."""

import json
import os
import re
import shutil
import subprocess
import sys

from tests.support.layers import FOLDERS, ROOT

GUIDE = ROOT / "CONTRIBUTING.md"
_PATH = re.compile(r"`((?:models|configs|tests|callbacks|datamodules|commands)/\S+\.(?:py|yaml))`")
_BLOCK = re.compile(r"```(?:python|yaml)\n(.*?)```", re.DOTALL)
_PROGRAMS = """
import contextlib, io, json, sys, traceback
done = []
for program, *words in json.loads(sys.stdin.read()):
    out, err, code = io.StringIO(), io.StringIO(), 1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = __import__(program).main(words)
        except BaseException:
            traceback.print_exc()
    done.append([int(code), out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


def walk_through():
    """Return the files of the examples in CONTRIBUTING.md, by the path that the text names."""
    text, files, end = GUIDE.read_text(), {}, 0
    for block in _BLOCK.finditer(text):
        files[_PATH.findall(text[end : block.start()])[-1]] = block.group(1)
        end = block.end()
    return files


def method_files():
    """Return the files of the example of a new model, by path."""
    return {path: text for path, text in walk_through().items() if "mean_pooling" in path}


def copy_tree(target, new_files):
    """Copy the repository with tests and documents, and add new files."""
    for folder in (*FOLDERS, "tests", "configs", "docs"):
        ignored = shutil.ignore_patterns(".*")  # what is compiled serves the copy as well
        shutil.copytree(ROOT / folder, target / folder, ignore=ignored)
    for script in [*ROOT.glob("*.py"), ROOT / "pyproject.toml", *ROOT.glob("*.md")]:
        shutil.copy(script, target)
    for path, content in new_files.items():
        assert not (target / path).exists(), f"{path} is not a new file"
        (target / path).write_text(content)


def run_python(tree, *words, given=None):
    """Run Python with arguments in a copied tree and return the completed process."""
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=tree,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


def run_programs(tree, commands):
    """Run commands (program, word, ...) one after the other in one process of a copied tree.

    Returns:
        A completed process for each. Importing what they need takes longer than most of them do.
    """
    given = json.dumps([list(map(str, words)) for words in commands])
    done = run_python(tree, "-c", _PROGRAMS, given=given)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    pairs = zip(commands, results, strict=True)
    return [subprocess.CompletedProcess(words, *found) for words, found in pairs]
