"""The books close: what was booked is what the provider counted, however requests, retries, hedges and mirrors end."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from kit.virtual import virtual
from tauten.errors import DeadlineExceeded, Overloaded, StageError, Unavailable
from tauten.run.engine import Engine
from tauten.run.usage.payer import Payer
from tauten.run.usage.row import UsageRow
from usage.kit_usage import MIRRORS, PROVIDER, Provider, asking, attempt, fresh, quiet, rows, summed, telling


@pytest.fixture(autouse=True)
def provider() -> Iterator[Provider]:
    yield from fresh()


ATTEMPT = st.fixed_dictionaries(
    {"read": st.integers(0, 500), "made": st.integers(0, 6), "token_s": st.sampled_from([0.0, 0.01, 0.05])},
    optional={
        "ends": st.sampled_from(["ok", "cut", "failed", "refused"]),
        "why": st.sampled_from(["", "retry", "fallback"]),
        "beside": st.booleans(),
        "mirrored": st.booleans(),
    },
)
REQUEST = st.fixed_dictionaries(
    {
        "attempts": st.lists(ATTEMPT, max_size=4),
        "starts_s": st.sampled_from([0.0, 0.02, 0.1]),
        "leaves_s": st.sampled_from([None, 0.0, 0.015, 0.12]),
        "deadline_ms": st.sampled_from([1e6, 40.0]),
    }
)


async def one(engine: Engine, wish: dict[str, Any]) -> str:
    """A request that may be cancelled, late or whole; says how it ended."""
    await asyncio.sleep(wish["starts_s"])
    request = engine.request(deadline_ms=wish["deadline_ms"], tenant="desk")
    if wish["leaves_s"] is not None:
        asyncio.get_running_loop().call_later(wish["leaves_s"], request.cancel)
    try:
        await engine.run(asking.bind(tt.Json(wish["attempts"])), request=request)
    except DeadlineExceeded:
        return "late"
    except Overloaded:  # the limit follows those that were late
        return "refused"
    except asyncio.CancelledError:
        return "cancelled"
    return "ok"


@settings(max_examples=60, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=12))
def test_the_sum_of_the_lines_is_what_the_provider_counted(wishes: list[dict[str, Any]]) -> None:
    next(fresh())
    with tempfile.TemporaryDirectory() as folder:
        book = quiet(Path(folder))

        async def body(engine: Engine) -> list[str]:
            engine.door.book = book
            await engine.open(asking)
            ended = await asyncio.gather(*(one(engine, wish) for wish in wishes))
            await asyncio.gather(*MIRRORS, return_exceptions=True)
            return ended

        ended = virtual(body)
        lines = rows(book)
    assert summed(lines) == {name: amount for name, amount in PROVIDER.counted.items() if amount}
    assert sum(line.provider == "house" for line in lines) == PROVIDER.calls
    assert sum(line.asked for line in lines) == len(wishes)
    counted = Counter({name: sum(line.asked for line in lines if line.ended == name) for name in set(ended)})
    assert counted == Counter(ended)
    assert len({line.id for line in lines}) == len(lines)
    assert book.dropped == 0


def booked(folder: Path, *attempts: Any, **about: Any) -> list[UsageRow]:
    """The lines of one request, which may raise."""
    book = quiet(folder)

    async def body(engine: Engine) -> None:
        engine.door.book = book
        await engine.open(asking)
        request = engine.request(tenant="desk", deadline_ms=about.get("deadline_ms", 1e6))
        request.payer = Payer("front", "app-1", ("beta", "eu"))
        with contextlib.suppress(DeadlineExceeded, StageError):
            await engine.run(asking.bind(tt.Json(list(attempts))), request=request)

    virtual(body)
    return rows(book)


def test_a_line_says_who_and_what_for(tmp_path: Path) -> None:
    [line] = booked(tmp_path, attempt(1000, 2, token_s=0.5))
    assert (line.tenant, line.key, line.client, line.tags) == ("desk", "front", "app-1", "beta,eu")
    assert (line.workflow, line.step, line.provider, line.model) == ("asking", "ask", "house", "small")
    assert (line.outcome, line.ended, line.counted, line.asked) == ("ok", "ok", "provider", 1)
    assert line.units == {"input_tokens": 1000, "output_tokens": 2}
    assert line.nano == 1000 * 1000 + 2 * 2500
    assert line.priced_by == "prices.toml"
    assert line.seconds == pytest.approx(1.0)
    assert line.day == datetime.fromtimestamp(line.at_ms / 1000, UTC).date().isoformat()
    assert line.plan


def test_each_attempt_has_a_line_of_its_own_and_the_request_counts_once(tmp_path: Path) -> None:
    lines = booked(
        tmp_path,
        attempt(5, 0, ends="refused"),
        attempt(5, 2, ends="cut", why="retry"),
        attempt(5, 2, why="retry"),
    )
    assert [(line.outcome, line.why, line.asked) for line in lines] == [
        ("refused", "", 1),
        ("cut", "retry", 0),
        ("ok", "retry", 0),
    ]
    assert [line.nano for line in lines] == [0, 10_000, 10_000]


def test_what_nobody_counted_is_unknown_and_not_free(tmp_path: Path) -> None:
    [line] = booked(tmp_path, attempt(5, 2, model="unheard-of"))
    assert line.nano is None
    assert line.units == {"input_tokens": 5, "output_tokens": 2}


def test_a_request_that_is_late_is_booked_with_what_it_took_until_then(tmp_path: Path) -> None:
    [line] = booked(tmp_path, attempt(7, 50, token_s=0.01), deadline_ms=105.0)
    assert (line.outcome, line.ended) == ("cancelled", "late")
    assert line.units["output_tokens"] == PROVIDER.counted["output_tokens"]
    assert 0 < line.units["output_tokens"] < 50


def test_a_request_that_is_refused_at_the_door_is_booked(tmp_path: Path) -> None:
    book = quiet(tmp_path)

    async def body(engine: Engine) -> None:
        engine.door.book = book
        await engine.open(asking)
        engine.door.draining = True
        with pytest.raises(Unavailable):
            await engine.run(asking.bind(tt.Json([])))
        with pytest.raises(Unavailable):
            await anext(engine.stream(asking.bind(tt.Json([]))))

    virtual(body)
    assert [(line.ended, line.provider, line.asked, line.nano) for line in rows(book)] == [
        ("refused", "", 1, 0)
    ] * 2


def test_a_request_whose_stage_fails_is_booked(tmp_path: Path) -> None:
    [line] = booked(tmp_path, {"nonsense": 1})
    assert (line.ended, line.outcome, line.asked) == ("failed", "failed", 1)


# -- streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("taken", "ended"), [(100, "ok"), (3, "cancelled")])
def test_a_stream_is_booked_when_its_reader_has_it_or_leaves(tmp_path: Path, taken: int, ended: str) -> None:
    book = quiet(tmp_path)

    async def body(engine: Engine) -> None:
        engine.door.book = book
        await engine.open(telling)
        source = engine.stream(telling.bind(tt.Json(6)))
        seen = 0
        async for _ in source:
            seen += 1
            if seen == taken:
                break
        await source.aclose()

    virtual(body)
    [line] = rows(book)
    assert (line.ended, line.asked) == (ended, 1)
    assert summed([line]) == dict(PROVIDER.counted)
