"""The page of an optimisation as text: whole, safe, fetching nothing, and saying what the result says."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import html.parser
import re

import msgspec
import pytest

from improve import kit_report
from tauten.explain.account import Account
from tauten.improve.optimizer.outcome import Forecast, Optimized
from tauten.improve.report.page import to_html

VOID = {"meta", "input", "br"}  # shapes close themselves, or are closed


class Page(html.parser.HTMLParser):
    """What a page is made of: its tags, attributes, words, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def hostile_accounts() -> tuple[Account, Account]:
    odd = kit_report.HOSTILE
    made = []
    for each in kit_report.waterfalls():
        rows = [msgspec.structs.replace(row, stage=odd) for row in each.stages]
        header = msgspec.structs.replace(each.header, request=odd)
        made.append(msgspec.structs.replace(each, stages=rows, header=header, path=[odd]))
    return made[0], made[1]


PAGES = {
    "met": lambda: to_html(kit_report.met(), kit_report.waterfalls()),
    "missed": lambda: to_html(kit_report.missed(), kit_report.waterfalls()),
    "bare": lambda: to_html(kit_report.met()),
    "endless": lambda: to_html(kit_report.endless()),
    "hostile": lambda: to_html(kit_report.hostile(), hostile_accounts()),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_whole_safe_and_fetches_nothing(name: str) -> None:
    text = PAGES[name]()
    page = Page(text)
    assert not page.open
    assert set(page.tags).isdisjoint(
        {"script", "link", "img", "iframe", "object", "image", "use", "foreignobject"}
    )
    keys = {key for key, _ in page.attributes}
    assert not any(key.startswith("on") or key in {"src", "style", "srcset", "action"} for key in keys)
    assert all(value.startswith("#") for key, value in page.attributes if key == "href")
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert "default-src 'none'; style-src 'sha256-" in text
    assert len(text.encode()) < 200_000
    assert not re.search(r"\b(nan|inf)\b", text)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere_and_names_are_given_once(name: str) -> None:
    page = Page(PAGES[name]())
    ids = [value for key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for key, value in page.attributes if key in ("href",)}
    assert targets <= set(ids)
    assert {value for key, value in page.attributes if key == "aria-labelledby"} <= set(ids)


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_says_what_it_is_and_is_a_table_too(name: str) -> None:
    text = PAGES[name]()
    for svg in re.findall(r"<svg[^>]*>", text):
        assert 'aria-hidden="true"' in svg or re.search(r'role="img" aria-label="[^"]{5,}"', svg), svg
    for section in re.findall(r"<section.*?</section>", text, re.S):
        assert section.count("<table>") or "<svg" not in section


def test_the_page_says_what_the_result_says() -> None:
    words = Page(PAGES["met"]()).words
    for told in (
        "The SLO holds",
        "p95 is 3.0x faster than the naive plan and 1.9x faster than the best zero-effort plan (measured at 1/s).",
        "742 ms",
        "711-779",
        "ocr and classify run beside transcribe",
        "two models of two threads on two cores slow one another",
        "held_out/036",
        "36 predictions were measured",
        "2 cores avx512 amx, 24 GiB, no gpu",
        "seed 7",
        "desk.rec",
        'precision = "bf16"',
        "320 labelled items can prove a loss below 0.9 pt at best.",
    ):
        assert told in words, told
    assert "What is missing" not in words


def test_small_predictions_and_large_losses_are_told_in_figures() -> None:
    """Not as 0 ms, and not as 1e+02 points."""
    quick = Forecast(of="cached", what="p50_ms", predicted=0.42, low=0.31, high=0.55, measured=0.4)
    unsure = msgspec.structs.replace(kit_report.unclear(), loss_low=-1.0, loss_high=1.0)
    found = msgspec.structs.replace(kit_report.met(), forecasts=[quick], verdict=unsure)
    text = to_html(found)
    assert [f">{told}</td>" in text for told in ("0.42", "0.31", "0.55", "0.4")] == [True] * 4
    assert ">100 pt</text>" in text
    assert "e+" not in text.partition("</style>")[2]


def test_a_miss_shows_the_gap_first() -> None:
    text = PAGES["missed"]()
    assert text.index("What is missing") < text.index("The SLO</")
    words = Page(text).words
    assert "transcribe alone would have to take 180 ms instead of 265 ms" in words
    assert "41 tokens, one after another, at the bandwidth of the memory" in words
    assert "There was no time to look at everything" in words


def test_without_waterfalls_there_is_no_such_part() -> None:
    assert "Where the time went" not in PAGES["bare"]()
    assert "Where the time went" in PAGES["met"]()


def test_a_result_of_nothing_is_a_page_too() -> None:
    bare = Optimized(
        workflow="w",
        recording="r",
        machine="m",
        slo=kit_report.met().slo,
        rate_per_s=1.0,
        seed=1,
        answer="cannot conclude",
    )
    page = Page(to_html(bare))
    assert not page.open
    assert "Whether the SLO holds cannot be concluded" in page.words


def test_each_decision_can_be_filtered_by_what_it_is() -> None:
    text = PAGES["met"]()
    assert text.count('<tr class="taken ') == 4
    assert text.count('<tr class="refused ') == 4
    for name in ("all", "taken", "refused", "any", "identical", "equivalent", "lossy", "s0", "s1"):
        assert f'id="only-{name}"' in text
    style = text.split("<style>")[1].split("</style>")[0]
    assert "section:has(#only-taken:checked) tr.refused" in style


def test_plans_that_differ_in_nothing_else_need_no_picture() -> None:
    found = kit_report.met()
    same = [
        msgspec.structs.replace(
            each, memory_bytes=1, quality_loss=0.0, simulated=each.simulated, measured=None
        )
        for each in found.candidates
    ]
    assert "memory over p95" not in to_html(msgspec.structs.replace(found, candidates=same))
    assert "memory over p95" in PAGES["met"]()
