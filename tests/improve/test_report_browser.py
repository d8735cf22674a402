"""The pages in a real browser: nothing is fetched, nothing complained of, nothing too wide, and all of it is legible."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from explain import scenes
from improve import kit_report
from kit.browser import WHY_NOT, Browser, Seen, installed
from tauten.cli.main import run
from tauten.explain import html as explain
from tauten.explain.account import compare
from tauten.improve.report.page import to_html

pytestmark = pytest.mark.skipif(installed() is None, reason=WHY_NOT)

OPENED = """
(() => {
  document.querySelectorAll('details').forEach(each => each.open = true);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const numbers = text => text.match(/[0-9.]+/g).map(Number);
  const behind = each => {
    for (let at = each; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found.slice(0, 3);
    }
    return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
  };
  const pale = [];
  for (const each of document.querySelectorAll('main *')) {
    const own = [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || ['TITLE', 'STYLE', 'OPTION'].includes(each.tagName.toUpperCase())) continue;
    const style = getComputedStyle(each);
    const ink = light(numbers(each instanceof SVGElement ? style.fill : style.color).slice(0, 3));
    const paper = light(behind(each));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) pale.push([contrast.toFixed(2), each.className.baseVal ?? each.className, each.textContent]);
  }
  return pale;
})()
"""
"""Opens what is folded, and lists words whose contrast is below 4.5 to 1, which WCAG 2 (AA) asks of small ones."""

FLOW = """
import tauten as tt

@tt.stage(pure=True)
async def same(text: tt.Text) -> tt.Text:
    return text

@tt.workflow(slo=tt.Slo(p95_ms=500))
def flow(text: tt.Text) -> tt.Text:
    return same(text)
"""


def bench_page(folder: Path) -> str:
    flow, page = folder / "flow.py", folder / "bench.html"
    flow.write_text(FLOW)
    words = ["text=hi", "--rates", "100,200", "--requests", "40", "--html", page]
    run(["bench", str(flow), *map(str, words)])
    return page.read_text()


PAGES: dict[str, Callable[[Path], str]] = {
    "met": lambda _: to_html(kit_report.met(), kit_report.waterfalls()),
    "missed": lambda _: to_html(kit_report.missed(), kit_report.waterfalls()),
    "hostile": lambda _: to_html(kit_report.hostile(), kit_report.waterfalls()),
    "explain": lambda _: explain.to_html(compare(scenes.sequential_account(), scenes.parallel_account())),
    "bench": bench_page,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


def look(
    browser: Browser, folder: Path, name: str, width: int, *, dark: bool = False, script: str = OPENED
) -> Seen:
    page = folder / f"{name}.html"
    page.write_text(PAGES[name](folder), encoding="utf-8")
    return browser.look(page, width, dark=dark, script=script)


def blank_bands(picture: Image.Image, height: int = 300) -> list[int]:
    """Where nothing is drawn on a whole band of the page; a band is a third of a screen."""
    tops = range(0, picture.height - height, height)
    bands = ((top, picture.crop((0, top, picture.width, top + height))) for top in tops)
    return [
        top for top, band in bands if len(band.getcolors(1 << 20) or ()) < 8
    ]  # letters alone have more shades


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [
        ("met", 1280, False),
        ("met", 390, True),
        ("missed", 1280, True),
        ("hostile", 390, False),
        ("explain", 390, False),
        ("explain", 1280, True),
        ("bench", 390, True),
    ],
)
def test_a_page_is_quiet_fits_and_is_legible(
    browser: Browser, tmp_path: Path, name: str, width: int, dark: bool
) -> None:
    seen = look(browser, tmp_path, name, width, dark=dark)
    assert seen.asked == []
    assert seen.complaints == []
    assert seen.scroll_width <= width
    assert seen.answer == []
    colours = seen.picture.getcolors(1 << 24) or []
    assert len(colours) > 150
    assert max(colours)[0] < 0.97 * seen.picture.width * seen.picture.height
    assert blank_bands(seen.picture) == []


def test_a_screen_reader_finds_its_way(browser: Browser, tmp_path: Path) -> None:
    names = look(browser, tmp_path, "missed", 1280).names
    headings = [name for role, name in names if role == "heading"]
    assert headings[0] == "help_desk"
    assert {"What is missing", "The SLO", "Where the time went", "Plans to choose from", "Evidence"} <= set(
        headings
    )
    roles = {role for role, _ in names}
    assert {"main", "navigation", "table", "columnheader", "radio", "combobox", "link"} <= roles
    pictures = [name for role, name in names if role == "image"]
    assert len(pictures) >= 8
    assert all(pictures)
    named = ("radio", "combobox", "region", "link", "heading")
    assert [role for role, name in names if role in named and not name] == []


def test_the_filter_hides_rows_without_a_script(browser: Browser, tmp_path: Path) -> None:
    script = """
    ['only-taken', 'only-refused', 'only-equivalent', 'only-s3'].map(id => {
      const field = document.getElementById(id);
      if (field.type === 'radio') field.checked = true; else field.selected = true;
      const shown = kind => [...document.querySelectorAll('#decisions tbody tr.' + kind)]
        .filter(row => getComputedStyle(row).display !== 'none').length;
      const told = [shown('taken'), shown('refused')];
      document.querySelectorAll('#only-all, #only-any').forEach(each => each.checked = true);
      return told;
    })
    """
    seen = look(browser, tmp_path, "met", 1280, script=script)
    assert seen.answer == [[4, 0], [0, 4], [1, 0], [1, 1]]


def test_the_browser_would_tell(browser: Browser, tmp_path: Path) -> None:
    """The checks above can fail: a page that fetches, complains and is too wide."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><meta name="viewport" content="width=device-width"><main><p style="width:900px;color:#ccc">pale</p>'
        '<img src="https://elsewhere.example/x.png"><script>console.error("no"); missing()</script></main>'
    )
    seen = browser.look(page, 390, script=OPENED)
    assert seen.asked == ["https://elsewhere.example/x.png"]
    assert len(seen.complaints) >= 2
    assert seen.scroll_width > 390
    assert [words for _, _, words in seen.answer] == ["pale"]
    assert blank_bands(seen.picture) != []
