"""The page in a real browser: errors, pictures, search, sort, hover, narrow, dark, print."""

import base64
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from compare_browser import CHROMIUM, Browser
from compare_experiment import Experiment, build_page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

VISIBLE = "[...document.querySelectorAll('#gallery-list > li')].filter(e => e.offsetHeight > 0)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser_page")
    return build_page(Experiment(root, effect=0.3, twin=True))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(shared: Browser, page: Path) -> Browser:
    shared.call("Emulation.clearDeviceMetricsOverride")
    shared.call("Emulation.setEmulatedMedia", {"media": "", "features": []})
    shared.problems.clear()
    shared.requests.clear()
    shared.open(page)
    return shared


def type_into(browser: Browser, selector: str, text: str) -> None:
    browser.run(
        f"(e => {{ e.value = '{text}'; e.dispatchEvent(new Event('input', {{bubbles: true}})) }})"
        f"(document.querySelector('{selector}'))"
    )


def test_nothing_is_wrong_and_nothing_is_fetched(browser: Browser, page: Path) -> None:
    sizes = browser.run("[...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(sizes) > 5
    assert all(done and width > 0 for done, width in sizes)
    assert browser.problems == []
    fetched = [url for url in browser.requests if not url.startswith("data:")]
    assert fetched in ([page.as_uri()], [])


def test_script_in_a_caption_is_text(browser: Browser) -> None:
    assert browser.run("document.scripts.length") == 1
    assert "<script>alert('x')</script>" in browser.run("document.body.innerText")


def test_a_foreign_script_is_refused(browser: Browser) -> None:
    browser.run(
        "(s => { s.textContent = 'window.foreign = 1'; document.body.append(s) })"
        "(document.createElement('script'))"
    )
    assert browser.run("window.foreign === undefined") is True
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_gallery_search_and_choice(browser: Browser) -> None:
    assert browser.run(f"{VISIBLE}.length") == 3
    type_into(browser, ".finder input", "OFF caption old")
    assert browser.run(f"{VISIBLE}.map(e => e.querySelector('p').textContent)") == ["00002"]
    assert browser.run("document.querySelector('.finder output').textContent") == "1 of 3 shown"
    type_into(browser, ".finder input", "")
    type_into(browser, ".finder select[name=fate]", "dropped")
    assert browser.run(f"{VISIBLE}.map(e => e.querySelector('p').textContent)") == ["00001"]
    type_into(browser, ".finder input", "nowhere to be found")
    assert browser.run(f"{VISIBLE}.length") == 0


def test_gallery_in_the_order_of_similarity(browser: Browser) -> None:
    """The records gain 0.2, 0.1 and 0.0; putting them back gives the order of the draw."""
    names = "[...document.querySelectorAll('#gallery-list > li')].map(e => e.dataset.gain)"
    assert browser.run(names) == ["0.2", "0.1", "0.0"]
    type_into(browser, ".finder select[name=order]", "-gain")
    assert browser.run(names) == ["0.0", "0.1", "0.2"]
    assert browser.run(f"{VISIBLE}.length") == 3
    type_into(browser, ".finder select[name=order]", "")
    assert browser.run(names) == ["0.2", "0.1", "0.0"]


def test_zoom_by_buttons_and_drag(browser: Browser) -> None:
    figure = "document.querySelector('figure[data-hover]')"
    box = f"{figure}.querySelector('svg').getAttribute('viewBox').split(' ').map(Number)"
    whole = browser.run(box)
    press = f"[...{figure}.querySelectorAll('.zoom button')]"
    assert browser.run(f"{press}.map(b => b.disabled)") == [False, True, True]
    browser.run(f"{press}[0].click()")
    left, top, width, height = browser.run(box)
    assert (width, height) == (whole[2] / 2, whole[3] / 2)
    assert (left, top) == (whole[0] + whole[2] / 4, whole[1] + whole[3] / 4)
    browser.run(f"{figure}.scrollIntoView({{behavior: 'instant'}})")
    x, y = browser.run(
        f"(b => [b.x + b.width / 2, b.y + b.height / 2])"
        f"({figure}.querySelector('svg').getBoundingClientRect())"
    )
    for kind, at in (("mousePressed", x), ("mouseMoved", x - 40), ("mouseReleased", x - 40)):
        event = {"type": kind, "x": at, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        browser.call("Input.dispatchMouseEvent", event)
    assert browser.run(box)[0] > left, "the figure follows the pointer to the left"
    browser.run(f"{press}[2].click()")
    assert browser.run(box) == whole


def test_sorting_a_table_by_number(browser: Browser) -> None:
    column = (
        "[...document.querySelectorAll('#table-accuracy-textvqa_ocr tbody td:nth-child(2)')]"
        ".map(c => Number(c.dataset.value))"
    )
    heading = "document.querySelectorAll('#table-accuracy-textvqa_ocr thead th')[1]"
    before = browser.run(column)
    browser.run(f"{heading}.querySelector('button').click()")
    assert browser.run(column) == sorted(before)
    assert browser.run(f"{heading}.getAttribute('aria-sort')") == "ascending"
    browser.run(f"{heading}.querySelector('button').click()")
    assert browser.run(column) == sorted(before, reverse=True)
    assert browser.run("document.querySelectorAll('#table-gates [aria-sort]').length") == 0


def test_values_by_key_and_by_pointer(browser: Browser) -> None:
    figure = "document.querySelector('figure[data-hover]')"
    readout = f"{figure}.querySelector('.readout').textContent"
    first = "JSON.parse(document.querySelector('figure[data-hover]').dataset.hover).series[0]"
    assert "arrow keys" in browser.run(readout)
    browser.run(f"{figure}.focus()")
    assert browser.run(f"document.activeElement === {figure}") is True
    for _ in range(2):
        browser.call("Input.dispatchKeyEvent", {"type": "keyDown", "key": "ArrowRight"})
    label, value = browser.run(f"[{first}.label, {first}.y[1]]")
    text = browser.run(readout)
    assert text.startswith(f"update 2 · {label}: {value}")
    browser.run(f"{figure}.scrollIntoView({{behavior: 'instant'}})")
    left, top, width, height = browser.run(
        f"(b => [b.x, b.y, b.width, b.height])"
        f"({figure}.querySelector('svg').getBoundingClientRect())"
    )
    at = {"type": "mouseMoved", "x": left + 0.98 * width, "y": top + height / 2}
    browser.call("Input.dispatchMouseEvent", at)
    assert browser.run(readout).startswith(f"update {browser.run(f'{first}.x.at(-1)')} ·")


def test_a_mark_lies_on_its_curve(browser: Browser) -> None:
    """The circle that hover draws must sit on the line that matplotlib drew."""
    distance = browser.run(
        """(() => {
          const figure = document.querySelector('figure[data-hover]');
          figure.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
          const circle = figure.querySelector('circle');
          const line = [...figure.querySelectorAll('path')].find(
            p => p.style.stroke && p.getAttribute('clip-path')
              && p.getTotalLength() > 60 && p.getAttribute('style').includes('1.6'));
          const start = line.getPointAtLength(0);
          return Math.hypot(start.x - circle.cx.baseVal.value, start.y - circle.cy.baseVal.value);
        })()"""
    )
    assert distance < 0.5


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_no_sideways_scrolling(browser: Browser, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.call("Emulation.setDeviceMetricsOverride", metrics)
    browser.run("document.querySelectorAll('p, aside, dd').forEach(e => e.append('x'.repeat(200)))")
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_dark_is_dark_and_both_have_contrast(browser: Browser) -> None:
    contrast = """(() => {
      const light = color => {
        const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = light(getComputedStyle(document.querySelector('section')).backgroundColor);
      return [paper, ...['p', '.muted', '.good', '.bad', 'a[download]'].map(selector => {
        const found = document.querySelector('main ' + selector);
        if (!found) return 21;
        const ink = light(getComputedStyle(found).color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      })];
    })()"""
    # Paper is white, whatever the screen was.
    for scheme, media, is_dark in (
        ("light", "screen", False),
        ("dark", "screen", True),
        ("dark", "print", False),
    ):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.call("Emulation.setEmulatedMedia", {"media": media, "features": features})
        paper, *ratios = browser.run(contrast)
        assert (paper < 0.2) is is_dark
        assert min(ratios) >= 4.5, (scheme, media, ratios)


def test_print_shows_all_and_hides_controls(browser: Browser) -> None:
    zoomed = "document.querySelectorAll('svg.zoomed').length"
    browser.run("document.querySelector('.zoom button').click()")
    assert browser.run(zoomed) == 1
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run(zoomed) == 0, "paper shows whole figures"
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    browser.run("window.dispatchEvent(new Event('afterprint'))")
    assert browser.run("document.querySelectorAll('details[open]').length") == 0
    browser.call("Emulation.setEmulatedMedia", {"media": "print"})
    for selector in ("nav", ".finder", ".get", ".zoom"):
        style = f"getComputedStyle(document.querySelector('{selector}')).display"
        assert browser.run(style) == "none"
    pdf = base64.b64decode(browser.call("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") >= 2


def test_names_roles_and_order_for_screen_readers(browser: Browser) -> None:
    assert browser.run("document.querySelectorAll('img:not([alt]), img[alt=\"\"]').length") == 0
    assert browser.run("document.querySelectorAll('svg:not([aria-label])').length") == 0
    assert browser.run("document.querySelectorAll('th:not([scope])').length") == 0
    assert browser.run("document.querySelectorAll('main, header, nav[aria-label]').length") == 3
    levels = browser.run("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    tree = browser.call("Accessibility.getFullAXTree")["nodes"]
    nameless = [
        node["role"]["value"]
        for node in tree
        if node.get("role", {}).get("value")
        in ("button", "link", "searchbox", "combobox", "region", "image")
        and not node.get("ignored")
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []


def test_a_download_is_the_table(browser: Browser) -> None:
    text = browser.run(
        "atob(document.querySelector('a[download=\"accuracy-textvqa_ocr.csv\"]').href.split(',')[1])"
    )
    lines = text.splitlines()
    assert lines[0].startswith("arm,accuracy,low,high,n,")
    shown = browser.run("document.querySelectorAll('#table-accuracy-textvqa_ocr tbody tr').length")
    assert len(lines) == 1 + shown
