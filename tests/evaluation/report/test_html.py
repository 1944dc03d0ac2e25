"""The file of the report: one file, escaped, without sections that have no data."""

import dataclasses
import importlib.util
import re
from html.parser import HTMLParser

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

from evaluation.report.html import render_page
from evaluation.report.page.content import (
    Chart,
    Headline,
    Line,
    Link,
    Page,
    RunFacts,
    Table,
    Value,
)
from evaluation.report.page.numbers import cell_view
from tests.support.report_pages import mil_page, seg_page

NASTY = "</script><!--<b>\"'&"


class Reader(HTMLParser):
    """Ids of sections, tags, and the texts of cells of tables."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.tags, self.cells, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self.sections.append(dict(attrs)["id"])
        if tag == "td":
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "td"

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def small(**changes):
    run = RunFacts("run", "runs/run", "Model", None, "Data", "test", 3)
    return dataclasses.replace(Page("Title", "seg", (run,), ("a",), ()), **changes)


def test_a_page_without_data_has_its_summary_alone():
    assert Reader(render_page(small())).sections == ["summary"]


def test_text_of_data_stays_text_everywhere():
    table = Table(NASTY, (NASTY,), ((NASTY,), (Link(NASTY, "nowhere"),)), NASTY)
    line = Line(NASTY, (0.0, 1.0), (float("nan"), 2.0))
    page = small(
        title=NASTY, notes=(NASTY,), class_tables=(table,), classes=(NASTY,),
        training=(Chart("loss", NASTY, NASTY, NASTY, (line,)),),
        headlines=(Headline(NASTY, NASTY, (Value(0.5),)),),
    )  # fmt: skip
    text = render_page(page)
    read = Reader(text)
    assert read.sections == ["summary", "training", "classes"]
    assert [tag for tag, _ in read.tags].count("script") == 3
    assert "b" not in [tag for tag, _ in read.tags]
    assert read.cells[-2:] == [NASTY, NASTY]
    data = re.search(r'id="page-data">(.*?)</script>', text).group(1)
    assert "<" not in data
    assert "NaN" not in data


def test_images_are_embedded_once():
    text = render_page(mil_page(2, 3))
    sources = re.findall(r'<img id="[^"]+" src="(data:[^"]+)"', text)
    assert len(sources) == len(set(sources)) == 20  # every third bag has none
    assert text.count("data-copy=") == 20


def test_bags_without_a_decision_cannot_be_wrong():
    page = mil_page(1, 3)
    assert "wrong bags only" in render_page(page)
    bags = tuple(dataclasses.replace(bag, wrong=(False,)) for bag in page.attention)
    assert "wrong bags only" not in render_page(dataclasses.replace(page, attention=bags))


def test_numbers_are_shown_with_three_digits_and_kept_whole():
    value = cell_view(Value(0.123456, 0.1, 0.2))
    assert (value.text, value.value, value.interval) == ("0.123", "0.123456", "0.100 to 0.200")
    assert cell_view(Value(None)).text == cell_view(float("nan")).text == cell_view(None).text
    assert cell_view(Link("a", "b"), {"c"}).target == ""
    assert cell_view(-0.0001).text == ">-0.001"


@pytest.mark.parametrize("missing", ["jinja2", "plotly"])
def test_a_missing_library_is_named_with_the_remedy(missing, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(ValueError, match=rf"{missing}.*pip install -e '\.\[report\]'"):
        render_page(small())


def test_pages_of_three_runs_stay_small():
    assert len(render_page(seg_page(3)).encode()) < 8e6
