"""The report in a real browser, at the widths of a phone, a tablet and a screen, and on paper."""

import base64
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome

from orchestrator.cli import main
from tests.recorded import BROAD, finished, space

WIDTHS = (360, 768, 1280)

# Of every piece of text: its colour, and that of the nearest thing painted behind it. In a figure that is
# what lies under its middle; elsewhere, the nearest ancestor with a background.
CONTRAST = """
const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const parse = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = (rgb) => {
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const part = rgb.slice(0, 3).map(v => linear(v / 255));
  return .2126 * part[0] + .7152 * part[1] + .0722 * part[2];
};
const behind = (element) => {
  if (element.closest('svg')) {
    const box = element.getBoundingClientRect();
    const stack = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    for (const other of stack.slice(stack.indexOf(element) + 1)) {
      const fill = parse(getComputedStyle(other).fill);
      if (['path', 'rect', 'polygon'].includes(other.tagName) && fill[3] > 200) return fill;
      if (other.tagName === 'svg') break;
    }
  }
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255, 255];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
  if (!text || !element.getClientRects().length || element.closest('style, defs')) continue;
  const style = getComputedStyle(element);
  const front = parse(element.closest('svg') ? style.fill : style.color), back = behind(element);
  const [dim, bright] = [luminance(front), luminance(back)].sort((a, b) => a - b);
  found.push([text.slice(0, 40), (bright + .05) / (dim + .05), front.join(), back.join()]);
}
return found;
"""
# The page may not scroll sideways; a wide table or listing may, within itself.
OVERFLOW = """
const width = document.documentElement.clientWidth;
const out = [...document.body.querySelectorAll('*')].filter(e => !e.closest('svg *') &&
  !(e.parentElement && e.parentElement.closest('.wide')) && e.getBoundingClientRect().right > width + 0.5);
const words = out.map(e => e.tagName + ' ' + e.textContent.slice(0, 30));
return [document.scrollingElement.scrollWidth - width, words];
"""
# An image that did not load, a figure without size or words, letters that reach out of their figure.
BROKEN = """
const images = [...document.images].filter(e => !e.complete || !e.naturalWidth || !e.alt);
const figures = [...document.querySelectorAll('figure')].filter(e => {
  const svg = e.querySelector('svg');
  return !svg || svg.getBoundingClientRect().height < 50 || !svg.getAttribute('aria-label');
});
const letters = [...document.querySelectorAll('figure svg text')].filter(e => {
  const box = e.getBoundingClientRect(), figure = e.closest('figure').getBoundingClientRect();
  return box.left < figure.left - 1 || box.right > figure.right + 1;
});
return [...images, ...figures, ...letters].map(e => e.outerHTML.slice(0, 200));
"""
EMULATE = "Emulation.setEmulatedMedia"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    made = finished(folder / "results", space(folder, BROAD))
    assert main(["report", "broad", "--results", str(made.parent)]) == 0
    return made / "report/index.html"


def sized(browser: Chrome, width: int) -> None:
    """As tall as the page, since only what is in sight can be hit."""
    settings: dict[str, Any] = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
    height = browser.execute_script("return document.documentElement.scrollHeight")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**settings, "height": int(height)})


def test_the_page_fits_and_can_be_read_at_three_widths_in_light_and_dark(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    for width in WIDTHS:
        sized(browser, width)
        assert browser.execute_script(OVERFLOW) == [0, []], width
        assert browser.execute_script(BROKEN) == [], width
        for scheme in ("light", "dark"):
            feature = {"name": "prefers-color-scheme", "value": scheme}
            browser.execute_cdp_cmd(EMULATE, {"features": [feature]})
            found = browser.execute_script(CONTRAST)
            assert len(found) > 150
            assert [text for text in found if text[1] < 4.5] == [], (width, scheme)
            browser.save_screenshot(str(page.parent / f"{width}-{scheme}.png"))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_checks_see_what_is_wrong(browser: Chrome, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<meta name="viewport" content="width=device-width"><p style="color: #999; background: #fff">pale</p>'
        '<div style="width: 900px">wide</div><img src="nowhere.png" alt="x">'
    )
    browser.get(bad.as_uri())
    sized(browser, 360)
    assert [text for text, ratio, *_ in browser.execute_script(CONTRAST) if ratio < 4.5] == ["pale"]
    assert browser.execute_script(OVERFLOW)[0] > 0
    assert len(browser.execute_script(BROKEN)) == 1


def test_the_page_prints(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    browser.execute_cdp_cmd(
        EMULATE, {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    sized(browser, 680)  # A4 between margins of 15 mm, at 96 pixels an inch
    assert browser.execute_script(OVERFLOW) == [0, []]
    assert [text for text in browser.execute_script(CONTRAST) if text[1] < 4.5] == []
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    content = base64.b64decode(printed["data"])
    (page.parent / "page.pdf").write_bytes(content)
    assert content.startswith(b"%PDF-")
    assert 2 <= content.count(b"/Type /Page\n") <= 12
