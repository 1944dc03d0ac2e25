"""Keys, filters and sorting act on what is seen, and the address holds their state."""

import pytest

from tests.support.report_pages import seg_page

VISIBLE = """(selector) => [...document.querySelectorAll(selector)]
    .filter((p) => p.getClientRects().length).length"""


@pytest.fixture
def tab(seg):
    """The shared page in its first state."""
    seg.tab.goto(f"{seg.url}#summary")
    seg.tab.evaluate("document.querySelectorAll('dialog[open]').forEach((d) => d.close())")
    seg.tab.evaluate("document.activeElement?.blur()")
    return seg.tab


def shown(tab, what):
    return tab.evaluate(VISIBLE, f"#gallery g.{what} path")


def expected(score=0.5, run=0, kinds=None, name=None):
    page = seg_page(3, 8)
    return sum(
        o.score >= score
        and (kinds is None or o.kind in kinds)
        and (name is None or page.classes[o.label] == name)
        for image in page.gallery
        for o in image.predictions[run]
    )


def test_keys_show_and_hide(tab):
    truth, prediction = shown(tab, "truth"), shown(tab, "prediction")
    assert truth == sum(len(image.truth) for image in seg_page(3, 8).gallery)
    assert prediction == expected()
    tab.keyboard.press("t")
    assert (shown(tab, "truth"), shown(tab, "prediction")) == (0, prediction)
    assert tab.get_attribute("#gallery", "data-truth") == "off"
    tab.keyboard.press("p")
    assert shown(tab, "prediction") == 0
    assert tab.get_attribute("#gallery", "data-prediction") == "off"
    tab.keyboard.press("t")
    tab.keyboard.press("p")
    assert (shown(tab, "truth"), shown(tab, "prediction")) == (truth, prediction)
    opacity = "getComputedStyle(document.querySelector('#gallery g.prediction path')).fill"
    assert tab.evaluate(opacity) == "none"
    tab.keyboard.press("o")
    assert tab.evaluate(opacity) != "none"
    tab.keyboard.press("?")
    assert tab.is_visible("#help")
    tab.keyboard.press("?")
    assert not tab.is_visible("#help")


def test_objects_are_found_or_missed_by_the_run_that_is_shown(tab):
    missed = "#gallery g.truth path[data-error=miss]"
    first = len(tab.query_selector_all(missed))
    assert first > 0
    tab.keyboard.press("r")
    assert len(tab.query_selector_all(missed)) == 0
    for _ in range(2):
        tab.keyboard.press("r")  # the third run, then all side by side
    assert len(tab.query_selector_all(missed)) == first
    tab.keyboard.press("r")
    assert len(tab.query_selector_all(missed)) == first


def test_filters_act_on_all_images_at_once(tab):
    tab.fill("#score", "0.8")
    assert shown(tab, "prediction") == expected(0.8)
    tab.fill("#score", "0")
    assert shown(tab, "prediction") == expected(0)
    tab.uncheck("input[data-filter=error][value=bkg]")
    kinds = {"correct", "cls", "loc", "both", "dupe"}
    assert shown(tab, "prediction") == expected(0, kinds=kinds)
    tab.click("#reset")
    tab.evaluate("document.querySelector('.class-choice').open = true")
    tab.click("[data-classes=none]")
    assert shown(tab, "prediction") == shown(tab, "truth") == 0
    tab.check("input[data-filter=class][value='<img src=x onerror=alert(1)>']")
    assert shown(tab, "prediction") == expected(name="<img src=x onerror=alert(1)>")


def test_runs_are_chosen_or_stand_side_by_side(tab):
    tab.check("#gallery input[data-run-choice][value='1']")
    assert shown(tab, "prediction") == expected(run=1)
    tab.check("#gallery input[data-run-choice][value=all]")
    assert shown(tab, "prediction") == sum(expected(run=r) for r in range(3))
    assert tab.evaluate(VISIBLE, "#gallery figure img") == 24
    tab.keyboard.press("r")
    assert tab.evaluate(VISIBLE, "#gallery figure img") == 8


def test_keys_walk_through_images(tab):
    current = "document.querySelector('figure[aria-current]')?.dataset.image"
    tab.evaluate("document.querySelector('figure[aria-current]')?.removeAttribute('aria-current')")
    for key, image in zip(("j", "ArrowRight", "k", "ArrowLeft"), (0, 1, 0, 0), strict=True):
        tab.keyboard.press(key)
        assert tab.evaluate(current) == f"image_{image}"
    tab.keyboard.press("Enter")
    assert tab.is_visible("#large")
    tab.keyboard.press("j")
    name = "orchard_2024_row01"
    assert name in tab.inner_text("#large-name")
    truth = len(seg_page(3, 8).gallery[1].truth)
    assert tab.evaluate(VISIBLE, "#large-list tbody tr") >= truth
    tab.keyboard.press("t")
    assert tab.evaluate(VISIBLE, "#large g.truth path") == 0
    tab.keyboard.press("Escape")
    assert not tab.is_visible("#large")
    tab.wait_for_function("document.activeElement.dataset.image === 'image_1'")  # a little later


def test_a_row_of_mistakes_leads_to_its_image_and_a_click_opens_it(tab):
    tab.click("#mistakes tbody tr:nth-child(3) a")
    assert "row02" in tab.inner_text("#large-name")
    kinds = tab.locator("#large-list td:nth-child(3)").all_inner_texts()
    words = tab.locator("#gallery .kinds-choice label").all_inner_texts()
    assert kinds
    assert set(kinds) <= {word.strip() for word in words}
    tab.click("#close")
    tab.click("#image-image_4 .views")
    assert "row04" in tab.inner_text("#large-name")
    tab.click("#next")
    assert "row05" in tab.inner_text("#large-name")
    tab.go_back()
    assert not tab.is_visible("#large")


def test_the_address_holds_the_state(tab, opened):
    tab.fill("#score", "0.3")
    tab.keyboard.press("t")
    tab.uncheck("input[data-filter=error][value=loc]")
    tab.check("#gallery input[data-run-choice][value='2']")
    tab.click("#classes th:nth-child(3) button")
    tab.wait_for_timeout(200)  # the address follows a little later
    address = tab.evaluate("location.hash")
    with opened("seg", address) as said:
        assert shown(said.tab, "truth") == 0
        kinds = {"correct", "cls", "both", "dupe", "bkg"}
        assert shown(said.tab, "prediction") == expected(0.3, run=2, kinds=kinds)
        assert said.tab.input_value("#score") == "0.3"
        heading = said.tab.locator("#classes th").nth(2)
        assert heading.get_attribute("aria-sort") == "descending"
        said.tab.goto(f"{said.url}#gallery&image=image_6&score=nonsense&kinds=%zz&no=thing")
        said.tab.wait_for_selector("#large[open]")
        assert "row06" in said.tab.inner_text("#large-name")
        assert said.console == []
        said.tab.goto(f"{said.url}#gallery&run=9")  # which the page does not have
        assert shown(said.tab, "prediction") == expected()
        assert said.tab.is_checked("#gallery input[data-run-choice][value='0']")


def test_tables_are_sorted_from_the_keyboard(tab):
    column = """[...document.querySelectorAll('#classes tbody tr')]
        .map((row) => Number(row.cells[1].dataset.value))"""
    first = tab.evaluate(column)
    tab.focus("#classes th:nth-child(2) button")
    for order, aria in (
        (sorted(first, reverse=True), "descending"),
        (sorted(first), "ascending"),
        (first, "none"),
    ):
        tab.keyboard.press("Enter")
        assert tab.evaluate(column) == order
        assert tab.get_attribute("#classes th:nth-child(2)", "aria-sort") == aria


def test_bags_that_are_right_can_be_hidden(mil):
    figures = mil.tab.evaluate(VISIBLE, "#attention figure")
    mil.tab.check("[data-toggle=wrong]")
    assert 0 < mil.tab.evaluate(VISIBLE, "#attention figure") < figures
    for key, what in (("t", "truth"), ("p", "prediction")):
        assert mil.tab.evaluate(VISIBLE, f"#attention .{what}") > 0
        mil.tab.keyboard.press(key)
        assert mil.tab.evaluate(VISIBLE, f"#attention .{what}") == 0
        mil.tab.keyboard.press(key)
    mil.tab.uncheck("[data-toggle=wrong]")
