"""One browser for all tests of the page, and one file for each kind of page."""

import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from evaluation.report.html import render_page
from tests.support.report_pages import mil_page, seg_page


@pytest.fixture(scope="session")
def browser():
    """Chromium of the system; nothing is downloaded."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install -e '.[browser]'"
    )
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on the path")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page_file(tmp_path_factory):
    """Return a function that returns the file of a kind of page."""
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    pages = {"seg": lambda: seg_page(3, 8), "mil": lambda: mil_page(2, 4)}
    folder, files = tmp_path_factory.mktemp("page"), {}

    def file(kind):
        if kind not in files:
            files[kind] = folder / f"{kind}.html"
            files[kind].write_text(render_page(pages[kind]()), encoding="utf-8")
        return files[kind]

    return file


@pytest.fixture(scope="session")
def opened(browser, page_file):
    """Return a context that opens a page and says what went wrong in it."""

    @contextmanager
    def open_page(kind, address="", **options):
        options = {"viewport": {"width": 1280, "height": 900}} | options
        context = browser.new_context(offline=True, **options)
        tab = context.new_page()
        said = SimpleNamespace(tab=tab, console=[], requests=[], dialogs=[], url="")
        tab.on("console", lambda m: said.console.append(m.text))
        tab.on("pageerror", lambda e: said.console.append(str(e)))
        tab.on("request", lambda r: said.requests.append(r.url))
        tab.on("dialog", lambda d: (said.dialogs.append(d.message), d.dismiss()))
        said.url = page_file(kind).as_uri()
        tab.goto(said.url + address)
        tab.wait_for_selector("body[data-ready=true]", timeout=60_000)
        yield said
        context.close()

    return open_page


@pytest.fixture(scope="session")
def seg(opened):
    """An open page of segmentation that tests share; none relies on its state."""
    with opened("seg") as said:
        yield said


@pytest.fixture(scope="session")
def mil(opened):
    """An open page of bags that tests share."""
    with opened("mil") as said:
        yield said
