"""The pages in a real browser: nothing is asked for, nothing complains, everything is reached by keyboard."""

import json
import os
import re
import urllib.parse
from pathlib import Path

import chromium
import pages
import pytest

from vgg_flax.report import comparison, page

pytestmark = pytest.mark.skipif(
    not chromium.PROGRAM and "VGG_FLAX_TEST_BROWSER" not in os.environ, reason="no Chromium here"
)
AXE = Path(os.environ.get("VGG_FLAX_TEST_AXE", "nowhere"))  # axe.min.js of the package axe-core
WIDTHS = (320, 1280)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Four pages: with pictures in them, with sheets beside it, a comparison, and the doctor's."""
    folder, table = tmp_path_factory.mktemp("pages"), pages.predictions(90)
    photos = pages.photos_of(table)
    few = pages.write(folder / "few", table, photos)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "IN_PAGE", 10)
        many = pages.write(folder / "many", pages.predictions(400, 30, splits=("test",)), _photos(400, 30))
    other = pages.predictions(90, seed=0)
    other.logits[::9] *= -1
    tests = [pages.report_of(one)["test"] for one in (table, other)]
    names = [pages.ATTACK, "runs/b"]
    sides = [one.select("test") for one in (table, other)]
    comparison.write(folder / "comparison.html", names, tests, [{"head": "a"}, {"head": None}], sides, photos)
    found = pages.write_doctor(folder / "doctor", table)
    return {"few": few, "many": many, "comparison": folder / "comparison.html", "doctor": found}


def _photos(count, classes):
    return pages.photos_of(pages.predictions(count, classes, splits=("test",)))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(autouse=True)
def quiet(browser):
    """No test leaves a complaint, a dialog or a request behind."""
    del browser.events[:]
    yield
    assert browser.complaints() == []
    assert not [event for event in browser.events if event["method"] == "Page.javascriptDialogOpening"]
    assert all(url.startswith("file:") for url in browser.requests())


@pytest.mark.parametrize("name", ["few", "many", "comparison", "doctor"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_fits_its_window_and_asks_for_no_other_file(written, browser, name, width):
    for dark in (False, True):
        browser.open(written[name], width, dark=dark)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("document.images.length") == browser.evaluate(
            "[...document.images].filter(one => one.complete && one.naturalWidth).length"
        )
    assert set(browser.requests()) == {written[name].as_uri()}


def test_the_accuracy_and_its_interval_are_on_the_first_screen(written, browser):
    for width, height in ((320, 568), (1280, 720)):
        browser.open(written["few"], width, height=height)
        bottom = browser.evaluate("document.querySelector('.lead').getBoundingClientRect().bottom")
        assert 0 < bottom < height


@pytest.mark.parametrize("name", ["few", "many"])
def test_a_cell_opens_its_photos_by_keyboard_and_gives_the_focus_back(written, browser, name):
    browser.open(written[name])
    cell = "document.querySelector('.bad button, .confused button')"
    for _ in range(200):
        browser.press("Tab", 9)
        if browser.evaluate(f"document.activeElement === {cell}"):
            break
    count = browser.evaluate(f"Number({cell}.textContent)")
    assert count and browser.evaluate(f"document.activeElement === {cell}"), "Tab reaches it"
    browser.press("Enter", 13, "\r")
    assert browser.evaluate("document.getElementById('opened').open")
    assert browser.evaluate("document.querySelectorAll('#opened-photos li').length") == min(60, count)
    loaded = (
        "Promise.all([...document.querySelectorAll('#opened img')].map(one => one.decode())).then(all => all.length)"
    )
    assert browser.evaluate(loaded) == min(60, count)
    assert browser.evaluate("document.querySelector('#opened').contains(document.activeElement)")
    browser.press("Escape", 27)
    assert not browser.evaluate("document.getElementById('opened').open")
    assert browser.evaluate(f"document.activeElement === {cell}")
    if name == "many":
        sheets = [url for url in browser.requests() if "/report_files/sheet_" in url]
        assert 0 < len(set(sheets)) <= 2, "a cell's photos lie side by side"


def test_more_than_a_screenful_comes_on_request(written, browser):
    browser.open(written["many"])
    browser.evaluate("data.photos.forEach(photo => { photo[1] = photo[2] = 0; })")
    browser.evaluate("open(0, 0)")
    assert browser.evaluate("document.querySelectorAll('#opened-photos li').length") == 60
    browser.evaluate("document.getElementById('more').focus()")
    browser.press("Enter", 13, "\r")
    assert browser.evaluate("document.querySelectorAll('#opened-photos li').length") == 120
    assert browser.evaluate("document.activeElement === document.querySelectorAll('#opened-photos li')[60]")


def test_the_doctors_list_leads_to_each_finding_by_keyboard(written, browser):
    browser.open(written["doctor"])
    for kind in ("leaks", "across_splits"):
        browser.press("Tab", 9)
        assert browser.evaluate("document.activeElement.hash") == f"#{kind}"
    browser.press("Enter", 13, "\r")
    there = "document.getElementById('across_splits').getBoundingClientRect().top"
    assert browser.evaluate(f"Math.abs({there}) < 5 || scrollY + innerHeight >= document.body.scrollHeight - 5")
    links = browser.evaluate("[...document.querySelectorAll('a:not([href^=\"#\"])')].map(one => one.href)")
    assert len(links) == 12 and all(
        Path(urllib.parse.unquote(urllib.parse.urlsplit(one).path)).is_file() for one in links
    )


@pytest.mark.parametrize("name", ["few", "many", "comparison", "doctor"])
def test_photos_keep_their_shape(written, browser, name):
    """As wide and high as they are, or in the middle of a frame that is larger."""
    for width in WIDTHS:
        browser.open(written[name], width)
        squashed = """[...document.images].filter(one => getComputedStyle(one).objectFit !== 'contain' &&
            Math.abs(one.clientWidth / one.clientHeight - one.naturalWidth / one.naturalHeight) > 0.05).length"""
        assert browser.evaluate("document.images.length") and browser.evaluate(squashed) == 0
        if name in ("few", "many"):
            browser.evaluate("document.querySelector('button[data-truth]').click()")
            frames = "[...document.querySelectorAll('#opened .thumb')].map(one => [one.clientWidth, one.clientHeight])"
            found = {tuple(one) for one in browser.evaluate(frames)}
            assert found == {(48, 96), (96, 96)}


def contrast(first, second):
    """WCAG 2's contrast of two colours `rgb(r, g, b)`."""

    def luminance(colour):
        parts = [float(one) / 255 for one in re.findall(r"[\d.]+", colour)[:3]]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_and_the_scheme_of_the_person_is_kept(written, browser, dark):
    browser.open(written["few"], dark=dark)
    paper = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (contrast(paper, "rgb(0, 0, 0)") < 2) == dark
    for selector, ground in ((".lead", paper), (".said .right", None), (".said .wrong", None), (".note", None)):
        colour = browser.evaluate(f"getComputedStyle(document.querySelector('{selector}')).color")
        behind = ground or browser.evaluate(
            f"getComputedStyle(document.querySelector('{selector}').closest('li, .note')).backgroundColor"
        )
        assert contrast(colour, behind) >= 4.5, selector


@pytest.mark.parametrize("name", ["few", "comparison", "doctor"])
def test_a_page_prints_on_a4(written, browser, name, tmp_path):
    browser.open(written[name])
    browser.print(tmp_path / "page.pdf")
    data = (tmp_path / "page.pdf").read_bytes()
    boxes = {tuple(round(float(one)) for one in box.split()) for box in re.findall(rb"/MediaBox \[([^\]]*)\]", data)}
    assert data[:5] == b"%PDF-" and boxes == {(0, 0, 595, 842)}


@pytest.mark.skipif(not AXE.is_file(), reason="VGG_FLAX_TEST_AXE names no axe.min.js")
@pytest.mark.parametrize("name", ["few", "many", "comparison", "doctor"])
def test_axe_finds_nothing_serious(written, browser, name):
    for width in WIDTHS:
        for dark in (False, True):
            browser.open(written[name], width, dark=dark)
            browser.evaluate(f"{AXE.read_text(encoding='utf-8')};0")
            for opened in (False, name in ("few", "many")):
                if opened:
                    browser.evaluate("document.querySelector('button[data-truth]').click()")
                found = json.loads(browser.evaluate("axe.run().then(all => JSON.stringify(all.violations))"))
                assert [(one["id"], one["impact"]) for one in found if one["impact"] in ("serious", "critical")] == []
