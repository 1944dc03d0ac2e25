"""`python -m tests.support.methods_table [--write]`: the table of models in docs/METHODS.md.

There is one row per model: title and paper from the docstring of its file, and its recipes with the
numbers of parameters in tests/configs/recipes.yaml (512 features, binary). The status of a model in
the document is kept; a new model gets a default status, to be edited by hand.
"""

import ast
import importlib
import re
import sys

import yaml

from tests.support.mil_recipes import ALL_NAMES, ROOT, settings

DOCUMENT = ROOT / "docs/METHODS.md"
COUNTS = ROOT / "tests/configs/recipes.yaml"
HEADER = "| model | paper | file | recipes and parameters (512 features, binary) | status |"
NEW = "values computed by hand; learns digit bags"


def resolved(class_path):
    module, _, attribute = class_path.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def class_of(name):
    """Return the class of the model that a recipe trains."""
    return resolved(settings(name)["model"]["init_args"]["model"]["class_path"])


def file_of(name):
    return class_of(name).__module__.replace(".", "/") + ".py"


def recipe_of(name):
    """Return a recipe with its number of parameters and the inner model, if there is one."""
    inner = settings(name)["model"]["init_args"]["model"].get("init_args", {}).get("learner")
    around = f" (around `{resolved(inner['class_path']).__name__}`)" if inner else ""
    return f"`configs/mil/{name}.yaml` {count_of(name)}{around}"


def count_of(name):
    """Return the number of parameters in the format of the table, or None if it is unknown."""
    known = yaml.safe_load(COUNTS.read_text()).get(f"configs/mil/{name}.yaml")
    return None if known is None else f"{known['parameters']:,}".replace(",", " ")


def title_and_papers(file):
    """Return the title in a file's docstring, and its arXiv numbers or else its first citation."""
    text = ast.get_docstring(ast.parse((ROOT / file).read_text())) or ""
    papers = dict.fromkeys(re.findall(r"(?:arXiv )(\d{4}\.\d{4,5})", text))
    named = re.search(r"([A-Z][\w'-]+(?:,| and| et al\.| &)[^.]*?\b(?:19|20)\d\d)", text)
    shown = [f"arXiv {p}" for p in papers] or ([named.group(1)] if named else [])
    title = text.splitlines()[0].rstrip(".").partition(": ")
    return title[2] or title[0], " ".join(", ".join(shown).split())


def rows():
    """Yield the rows, sorted by file and class of the model."""
    of_class = {}
    for name in ALL_NAMES:
        of_class.setdefault((file_of(name), class_of(name).__name__), []).append(name)
    known = statuses()
    for (file, learner), names in sorted(of_class.items()):
        title, papers = title_and_papers(file)
        recipes = ", ".join(map(recipe_of, names))
        status = known.get((file, learner), NEW)
        yield f"| `{learner}`, {title} | {papers} | `{file}` | {recipes} | {status} |"


def table_of(text):
    """Return the lines of the table in a document, without its two header lines."""
    found = text.partition(HEADER)[2].lstrip("\n").splitlines()[1:]
    end = next((k for k, line in enumerate(found) if not line.startswith("|")), len(found))
    return found[:end]


def statuses():
    """Return the status of each model in the document, by file and class."""
    table = table_of(DOCUMENT.read_text())
    cells = [[c.strip() for c in row.strip("| ").split(" | ")] for row in table]
    return {(c[2].strip("`"), c[0].split("`")[1]): c[-1] for c in cells}


def main(arguments):
    """Print the table, or replace the table in the document."""
    table = "\n".join([HEADER, "|---|---|---|---|---|", *rows()])
    if "--write" not in arguments:
        sys.stdout.write(f"{table}\n")
        return 0
    text = DOCUMENT.read_text()
    if HEADER in text:
        before, _, rest = text.partition(HEADER)
        old = "\n".join(["", "|---|---|---|---|---|", *table_of(text)])
        text = before + table + rest.removeprefix(old)
    else:
        section = f"## Multiple-instance models\n\n{table}\n\n## Metrics"
        text = text.replace("## Metrics", section, 1)
    DOCUMENT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
