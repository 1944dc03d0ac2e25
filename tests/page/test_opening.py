"""The page opens from disk, offline, without an error, a request or a violation of its policy."""

import pytest

SECTIONS = {
    "seg": "summary training classes curves confusion errors calibration mistakes gallery "
    "robustness compare recipe",
    "mil": "summary curves confusion calibration mistakes attention recipe",
}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.mark.parametrize("kind", ["seg", "mil"])
def test_it_opens_offline_without_an_error_and_draws_everything(kind, request):
    said = request.getfixturevalue(kind)
    tab = said.tab
    assert said.console == []
    assert {r.split("#")[0] for r in said.requests if not r.startswith("data:")} == {said.url}
    assert said.dialogs == []
    found = tab.evaluate("[...document.querySelectorAll('main section')].map(s => s.id)")
    assert found == SECTIONS[kind].split()
    charts = "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg'))"
    assert tab.evaluate(charts)
    loaded = "[...document.images].every(i => i.complete && i.naturalWidth && i.alt)"
    assert tab.evaluate(loaded)
    for width in (390, 1280):
        tab.set_viewport_size({"width": width, "height": 844})
        tab.wait_for_timeout(100)
        assert tab.evaluate(OVERFLOW) <= 0


def test_charts_take_the_colours_of_a_dark_screen(mil):
    background = "getComputedStyle(document.querySelector('.main-svg')).backgroundColor"
    assert mil.tab.evaluate(background) == "rgb(255, 255, 255)"
    mil.tab.emulate_media(color_scheme="dark")
    mil.tab.wait_for_timeout(100)
    assert mil.tab.evaluate(background) == "rgb(28, 32, 36)"
    mil.tab.emulate_media(color_scheme="light")


def test_the_policy_stops_scripts_and_addresses_from_elsewhere(seg):
    seg.tab.evaluate("""() => {
        window.violations = [];
        addEventListener("securitypolicyviolation", (e) => violations.push(e.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "window.intruder = true";
        document.body.append(script);
        const image = new Image();
        image.src = "https://example.org/x.png";
        fetch("https://example.org/").catch(() => undefined);
    }""")
    seg.tab.wait_for_timeout(300)
    assert seg.tab.evaluate("violations.sort()") == ["connect-src", "img-src", "script-src-elem"]
    assert seg.tab.evaluate("window.intruder") is None
    seg.console.clear()


def test_names_stay_text(seg, mil):
    text = "<img src=x onerror=alert(1)>"
    assert text in seg.tab.inner_text("#classes")
    assert seg.tab.evaluate("document.querySelectorAll('img[src=x]').length") == 0
    assert seg.dialogs == []
    assert mil.tab.inner_text("#attention figcaption .name >> nth=0") == "</script>"
    assert mil.tab.inner_text("#mistakes tbody a >> nth=0") == "</script>"
    assert mil.dialogs == []


def test_paper_shows_sections_without_controls(seg):
    seg.tab.emulate_media(media="print")
    shown = "getComputedStyle(document.querySelector(%r)).display"
    assert seg.tab.evaluate(shown % "form.filters") == "none"
    assert seg.tab.evaluate(shown % "nav.contents") == "none"
    assert seg.tab.evaluate(shown % "#gallery img") != "none"
    seg.tab.emulate_media(media="screen")


def test_everything_that_acts_has_a_name_and_can_be_reached(seg):
    nameless = seg.tab.evaluate("""() => [...document.querySelectorAll(
        "button, input, summary, a[href], figure[data-image], .scroll[tabindex], [role=img]")]
        .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
        .map((e) => e.outerHTML.slice(0, 80))""")
    assert nameless == []
    ids = seg.tab.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
