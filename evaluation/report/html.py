"""The HTML report: one file that opens from disk, without a server and without a network.

Templates, styles and scripts are the files of `evaluation/report/page`. Everything that comes from
data is escaped by jinja2 or by `safe_json`; a Content-Security-Policy admits the scripts by their
hash and nothing from outside.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.report.page import numbers, views
from evaluation.report.page.content import Page
from evaluation.report.page.data import chart_text, page_data, reliability_text, safe_json
from evaluation.report.page.shapes import svg_path

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

FOLDER = Path(__file__).with_name("page")
STYLES = ("base.css", "tables.css", "gallery.css", "print.css")
SCRIPTS = ("state.js", "charts.js", "tables.js", "gallery.js", "large.js", "keys.js", "start.js")


def check_installed() -> None:
    """Raise ValueError with a remedy where the extra `report` is not installed."""
    missing = [name for name in ("jinja2", "plotly") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"the report needs {' and '.join(missing)}: in the clone, run "
            "`python -m pip install -e '.[report]'`"
        )


def render_page(page: Page) -> str:
    """Write the report as one HTML file.

    Args:
        page: what the report holds; sections without data are left out.

    Returns:
        Text of the file, to be written as UTF-8.

    Raises:
        ValueError: jinja2 or plotly is not installed.
    """
    check_installed()
    from markupsafe import Markup

    plotly, script = _plotly(), _script()
    # plotly.js writes styles into elements, which needs unsafe-inline; scripts have hashes (A841)
    policy = (
        f"default-src 'none'; script-src {_hash(plotly)} {_hash(script)}; "
        "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    template = _environment().get_template("page.html")
    return template.render(
        page=page,
        view=views.PageView(page),
        policy=policy,
        style=Markup("\n".join(_read(name) for name in STYLES)),
        plotly=Markup(plotly),
        script=Markup(script),
        data=Markup(safe_json(page_data(page))),
    )


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions: dict[str, Any] = {
        "number": numbers.number_text,
        "interval": numbers.interval_text,
        "chart_text": chart_text,
        "reliability_text": reliability_text,
        "breaks": _breaks,
        "data_url": _data_url,
        "path": svg_path,
    }
    environment.filters.update(functions)
    return environment


def _breaks(text: str) -> Markup:
    """Text with places to break it: names of runs and paths are long."""
    from markupsafe import Markup, escape

    parts = (escape(part) for part in re.split(r"(?<=[_/.\-])(?=\w)", text))
    return Markup("<wbr>").join(parts)


def _data_url(file: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(file).decode()}"


@functools.cache
def _plotly() -> str:
    """The script of plotly.js, read from the package without importing it."""
    spec = importlib.util.find_spec("plotly")
    folders = spec.submodule_search_locations if spec else None
    assert folders  # see `check_installed`
    file = Path(folders[0]) / "package_data" / "plotly.min.js"
    if not file.is_file():
        raise ValueError(f"{file} is missing: install plotly again, `pip install -e '.[report]'`")
    return file.read_text(encoding="utf-8")


@functools.cache
def _script() -> str:
    parts = "\n".join(_read(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
