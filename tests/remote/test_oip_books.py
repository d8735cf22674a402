"""Calls of tensor models elsewhere are booked: each once, with its bytes and its time, whoever shared it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tauten as tt
from remote.kit_provider import providers_toml
from remote.kit_tensors import CARRIED, tensors
from tauten.describe.stage import Context, Role
from tauten.errors import BackendError
from tauten.plan.plan import Batch, Plan, StagePlan
from tauten.run.attribution import attribute
from tauten.run.engine import Engine
from tauten.run.oip.traffic import Traffic
from tauten.run.opened import Answer
from tauten.run.remote.providers import Provider
from tauten.run.usage.call import divided
from tauten.run.usage.report import report
from tauten.run.usage.row import UsageRow
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import quiet, rows

ROLES = {"model": Role("tiny", ("oip_remote",), options={"provider": "ours"})}


@tt.stage(pure=True, roles=ROLES)
async def rate(ctx: Context, numbers: tt.Json) -> float:
    answer = await ctx.infer("model", {"x": np.array(numbers.value, np.float32)})
    return float(answer["total"])


@tt.workflow
def rating(numbers: tt.Json) -> float:
    return rate(numbers)  # type: ignore[call-arg,arg-type]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "providers.toml"
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


def plan(most: int) -> Plan:
    assert rating.graph is not None
    return Plan(graph=rating.graph.hash, stages={"rate": StagePlan(batch=Batch(max=most))})


def served(file: Path, tmp_path: Path, items: list[Any], most: int = 8) -> tuple[list[Any], list[UsageRow]]:
    """What requests that come at once give, and what is booked."""
    book = quiet(tmp_path)

    async def main() -> list[Any]:
        async with Engine(book=book) as engine:
            await engine.open(rating, plan(most))
            asked = (engine.run(rating.bind(tt.Json(each)), tenant=f"t{at}") for at, each in enumerate(items))
            return list(await asyncio.gather(*asked, return_exceptions=True))

    with tensors() as url:
        file.write_text(providers_toml({"ours": url}, ['region = "hall"']))
        return asyncio.run(main()), rows(book)


@pytest.mark.parametrize("most", [1, 8])
def test_bytes_and_calls_of_the_books_are_those_of_the_server(file: Path, tmp_path: Path, most: int) -> None:
    answers, lines = served(file, tmp_path, [[0.0, 1.0, 2.0, float(n)] for n in range(9)], most)
    assert all(isinstance(each, Answer) for each in answers)
    sums = {
        unit: sum(line.units[unit] for line in lines) for unit in ("requests", "sent_bytes", "received_bytes")
    }
    assert sums["requests"] == len(CARRIED)
    assert (sums["sent_bytes"], sums["received_bytes"]) == tuple(map(sum, zip(*CARRIED, strict=True)))
    assert len(CARRIED) <= 9
    assert {line.tenant for line in lines} == {f"t{n}" for n in range(9)}
    assert {(line.provider, line.model, line.region, line.step) for line in lines} == {
        ("ours", "tiny", "hall", "rate")
    }
    assert {(line.outcome, line.counted, line.nano) for line in lines} == {("ok", "measured", None)}
    database = Sqlite(tmp_path / "book.db")
    assert report(database, ["provider"]).total.calls == len(CARRIED)
    database.close()


def test_its_time_is_remote_in_the_trace(file: Path, tmp_path: Path) -> None:
    [answer], [line] = served(file, tmp_path, [[1.0, 1.0, 1.0, 1.0]])
    causes = {cause for step, cause in attribute(answer.trace).exclusive() if step == "rate"}
    assert "remote" in causes
    assert "compute" not in causes
    assert line.seconds > 0.0


def test_a_call_that_its_server_refuses_is_booked_and_so_is_its_request(file: Path, tmp_path: Path) -> None:
    [answer], [line] = served(file, tmp_path, [[1.0, 2.0]])
    assert not isinstance(answer, Answer)
    assert (line.outcome, line.ended, line.asked) == ("failed", "failed", 1)
    assert line.units["requests"] == 1


def test_a_server_that_is_away_is_no_book_entry_before_anything_is_sent(file: Path, tmp_path: Path) -> None:
    book = quiet(tmp_path)

    async def main() -> None:
        async with Engine(book=book) as engine:
            with pytest.raises(BackendError, match="E460"):
                await engine.open(rating, plan(1))

    file.write_text(providers_toml({"ours": "http://127.0.0.1:9"}))
    asyncio.run(main())
    assert rows(book) == []


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=20),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.floats(0.0, 100.0),
)
def test_the_parts_of_a_call_are_the_call(
    weights: list[int], sent: int, received: int, took_s: float
) -> None:
    traffic = Traffic()
    traffic.sent_bytes, traffic.received_bytes = sent, received
    call = traffic.call(Provider(url="http://x", name="p"), "m", 5.0, 5.0 + took_s, "ok")
    parts = divided(call, weights)
    assert len(parts) == len(weights)
    for unit, amount in call.units.items():
        assert sum(part.units[unit] for part in parts) == amount
        assert all(part.units[unit] >= 0 and part.units[unit].is_integer() for part in parts)
    assert sorted(part.units["requests"] for part in parts) == [0.0] * (len(weights) - 1) + [1.0]
    assert sum(part.ended - part.started for part in parts) == pytest.approx(took_s, abs=1e-9)
