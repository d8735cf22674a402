"""What a server books of who asked, shares and refuses; what metrics and clients are told of it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as families

import tauten as tt
from serve.kit_asgi import ask, site
from tauten.errors import InputError
from tauten.run.usage.budgets import Exhausted
from tauten.run.usage.payer import Payer, tags_of
from tauten.serve.door import refusal_headers
from tauten.serve.observe.exposition import Exposition
from tauten.serve.observe.usage_series import of_the_book
from tauten.serve.openai.errors import body_of
from tauten.serve.server import Settings, book_of
from tauten.serve.service import Service
from tauten.serve.wishes import payer_of
from usage.kit_usage import Provider, asking, attempt, fresh, quiet, rows
from usage.test_budgets import FIFTY


@pytest.fixture(autouse=True)
def provider() -> Iterator[Provider]:
    yield from fresh()


@tt.stage(pure=True)
async def slow(text: str) -> str:
    await asyncio.sleep(0.02)
    return text


@tt.workflow
def flow(text: str) -> str:
    return slow(text)


PATH = "/v1/workflows/flow"


def served(
    tmp_path: Path, *asked: tuple[str, Any, dict[str, str]], draining: bool = False
) -> tuple[list[Any], Any]:
    """The answers to requests that come at once, and the book."""
    book = quiet(tmp_path)

    async def main() -> list[Any]:
        services = [Service(flow), Service(asking)]
        for service in services:
            service.engine.door.book = book
        async with site(*services, apis=["native"]) as app:
            services[0].engine.door.draining = draining
            return await asyncio.gather(*(ask(app, "POST", *each) for each in asked))

    return asyncio.run(main()), book


def test_a_header_says_under_which_tags_a_request_is_booked(tmp_path: Path) -> None:
    headers = {"x-tauten-tag": "eu, beta,eu", "x-tauten-client": "app-7", "x-request-id": "r-1"}
    [answer], book = served(tmp_path, (PATH, {"inputs": {"text": "a"}}, headers))
    assert answer.status == 200
    [line] = rows(book)
    assert (line.tags, line.client, line.request, line.workflow) == ("beta,eu", "app-7", "r-1", "flow")


def test_a_tag_that_is_no_name_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    [answer], book = served(tmp_path, (PATH, {"inputs": {"text": "a"}}, {"x-tauten-tag": "a b"}))
    assert answer.status == 400
    assert answer.json["error"]["code"] == "E291"
    assert rows(book) == []


def test_of_requests_that_share_a_computation_each_is_booked_and_one_took_it(tmp_path: Path) -> None:
    _, book = served(tmp_path, *((PATH, {"inputs": {"text": "same"}}, {}) for _ in range(3)))
    lines = rows(book)
    assert sum(line.asked for line in lines) == 3
    assert sorted(line.why for line in lines) == ["", "shared", "shared"]
    assert {line.ended for line in lines} == {"ok"}


def test_refusals_are_lines_of_their_own(tmp_path: Path) -> None:
    answers, book = served(
        tmp_path, (PATH, {"inputs": {"text": "a"}}, {"x-tauten-tag": "late"}), draining=True
    )
    assert answers[0].status == 503
    [line] = rows(book)
    assert (line.ended, line.tags, line.asked, line.nano) == ("refused", "late", 1, 0)


def test_metrics_count_lines_units_and_money(tmp_path: Path) -> None:
    steps = [attempt(100, 2), attempt(5, 1, model="unheard-of", why="fallback")]
    _, book = served(tmp_path, ("/v1/workflows/asking", {"inputs": {"attempts": steps}}, {}))
    rows(book)
    text = "".join(of_the_book(book, Exposition(openmetrics=False)))
    found = {
        (each.name, *sorted(each.labels.values())): each.value
        for family in families(text)
        for each in family.samples
    }
    assert found["tauten_usage_lines_total", "asking", "house", "ok", "small"] == 1
    assert found["tauten_usage_units_total", "asking", "house", "input_tokens", "small"] == 100
    assert found["tauten_usage_dollars_total", "asking", "house", "small"] == pytest.approx(0.000105)
    assert found["tauten_usage_unpriced_total", "asking", "house", "unheard-of"] == 1
    assert found["tauten_usage_written_total",] == 2
    assert found["tauten_usage_dropped_total",] == found["tauten_usage_waiting",] == 0


def test_without_a_book_metrics_say_nothing_of_it() -> None:
    assert list(of_the_book(None, Exposition(openmetrics=True))) == []


def test_a_client_of_openai_is_told_that_its_quota_is_used_up() -> None:
    error = Exhausted("budget 'desk' is used up", help="it renews on 2026-04-01", retry_after_s=3600.0)
    said = body_of(error)["error"]
    assert (error.http_status, said["type"], said["code"]) == (
        429,
        "insufficient_quota",
        "insufficient_quota",
    )
    assert "renews" in said["message"]
    assert ("x-should-retry", "false") in refusal_headers(error)
    assert ("retry-after", "3600") in refusal_headers(error)


def test_tags_are_names_each_once_and_few() -> None:
    assert tags_of(" b, a ,b,") == ("a", "b")
    assert payer_of({}, "front") == Payer("front")
    for wrong in ("a,b,c,d,e", "-a", "a\nb", "x" * 65):
        with pytest.raises(InputError) as raised:
            tags_of(wrong)
        assert raised.value.code == "E291"


def test_settings_make_a_book_with_prices_and_budgets(tmp_path: Path) -> None:
    (tmp_path / "budgets.toml").write_text(FIFTY)
    place = str(tmp_path / "book.db")
    book = book_of(Settings(usage=place, budgets=tmp_path / "budgets.toml"), lambda _: None)
    assert book is not None
    assert book.budgets is not None
    assert list(book.budgets.limits) == ["desk"]
    book.budgets.close()
    assert book_of(Settings(), lambda _: None) is None
    with pytest.raises(InputError, match="without a book"):
        book_of(Settings(budgets=tmp_path / "budgets.toml"), lambda _: None)
