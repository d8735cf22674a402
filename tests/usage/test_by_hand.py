"""Stages and workflows that are called by hand are booked, where they took anything; and only there is a book begun."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.errors import StageError
from tauten.run.ambient import Ambient
from tauten.run.engine import Engine
from tauten.run.usage.by_hand import ByHand
from tauten.run.usage.row import UsageRow
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import PROVIDER, Provider, ask, asking, attempt, fresh, quiet, rows, stored, summed, tell


@pytest.fixture(autouse=True)
def provider() -> Iterator[Provider]:
    yield from fresh()


def booked(folder: Path, body: Any) -> list[UsageRow]:
    book = quiet(folder)

    async def scene(engine: Engine) -> None:
        engine.door.book = book
        await body(engine)

    virtual(scene)
    return rows(book)


def test_a_stage_that_is_awaited_by_hand_is_booked(tmp_path: Path) -> None:
    async def body(engine: Engine) -> None:
        steps = [attempt(5, 1, ends="refused"), attempt(7, 2, why="retry")]
        assert await engine.run_stage(ask, (tt.Json(steps),), {}) == "answered"
        assert await engine.run_stage(tell, (tt.Json(3),), {}) is not None

    lines = booked(tmp_path, body)
    assert [(line.workflow, line.step, line.outcome, line.ended, line.asked) for line in lines] == [
        ("alone", "ask", "refused", "ok", 1),
        ("alone", "ask", "ok", "ok", 0),
        ("alone", "tell", "ok", "ok", 1),
    ]
    assert summed(lines) == dict(PROVIDER.counted)


def test_one_that_fails_or_is_left_is_booked_with_what_it_took(tmp_path: Path) -> None:
    async def body(engine: Engine) -> None:
        with pytest.raises(StageError):
            await engine.run_stage(ask, (tt.Json([attempt(3, 1), {"nonsense": 1}]),), {})
        left = asyncio.ensure_future(engine.run_stage(ask, (tt.Json([attempt(3, 9, token_s=1.0)]),), {}))
        await asyncio.sleep(2.5)
        left.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await left

    lines = booked(tmp_path, body)
    assert [(line.outcome, line.ended) for line in lines] == [("ok", "failed"), ("cancelled", "cancelled")]
    assert summed(lines) == dict(PROVIDER.counted) == {"input_tokens": 6, "output_tokens": 3}


# -- in a process of its own ---------------------------------------------------------------------------------


@tt.stage
def double(number: int) -> int:
    return number * 2


def lines_at(place: Path) -> list[UsageRow]:
    database = Sqlite(place)
    try:
        return stored(database)
    finally:
        database.close()


@pytest.fixture
def ambient() -> Iterator[Ambient]:
    made = Ambient()
    yield made
    made.close()
    made._by_hand.end()


def test_what_is_called_by_hand_is_in_the_book_of_the_store(
    ambient: Ambient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_USAGE", str(tmp_path / "book.db"))
    assert ambient.call_stage(ask, (tt.Json([attempt(7, 2)]),), {}, "") == "answered"
    assert ambient.call(asking, asking.bind(tt.Json([attempt(2, 1)]))) == "answered"
    ambient.close()
    ambient._by_hand.end()
    found = lines_at(tmp_path / "book.db")
    assert sorted(line.workflow for line in found) == ["alone", "asking"]
    assert summed(found) == dict(PROVIDER.counted)


def test_what_took_nothing_begins_no_book(
    ambient: Ambient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_USAGE", str(tmp_path / "book.db"))
    assert ambient.call_stage(double, (4,), {}, "") == 8
    [book] = ambient._by_hand._books.values()
    assert book._thread is None
    ambient.close()
    ambient._by_hand.end()
    assert list(tmp_path.iterdir()) == []


def test_off_is_off(ambient: Ambient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAUTEN_USAGE", "off")
    monkeypatch.chdir(tmp_path)
    assert ByHand().book() is None
    assert ambient.call_stage(ask, (tt.Json([attempt(7, 2)]),), {}, "") == "answered"
    ambient.close()
    assert list(tmp_path.iterdir()) == []


def test_engines_of_one_place_share_a_book_and_it_ends_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_USAGE", str(tmp_path / "one.db"))
    by_hand = ByHand()
    first = by_hand.book()
    assert first is not None
    assert by_hand.book() is first
    monkeypatch.setenv("TAUTEN_USAGE", str(tmp_path / "two.db"))
    assert by_hand.book() is not first
    by_hand.end()
    by_hand.end()
