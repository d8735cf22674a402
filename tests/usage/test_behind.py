"""Work that nobody waited for is on the account of who caused it, by its kind, and the books close with it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from kit.virtual import virtual
from tauten.describe.stage import Context, stage
from tauten.errors import StageError
from tauten.plan.plan import CachePlan, Plan, StagePlan
from tauten.run.engine import Engine
from tauten.run.gating import gates
from tauten.run.gating.gate import Labelled, Terms
from tauten.run.request import LOWEST, Request
from tauten.run.usage.payer import Payer
from tauten.run.usage.report import report
from tauten.run.usage.row import UsageRow
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import MIRRORS, PROVIDER, Provider, asking, attempt, fresh, quiet, rows, summed

FRONT = Payer("front", "app", ("beta",))
FAILS: set[int] = set()  # calls that fail


@pytest.fixture(autouse=True)
def provider() -> Iterator[Provider]:
    FAILS.clear()
    yield from fresh()


@stage(pure=True)
async def answer(ctx: Context, words: tt.Text) -> str:
    request = ctx.request  # type: ignore[attr-defined]
    number = PROVIDER.calls + 1
    ends = "failed" if number in FAILS else "ok"
    await PROVIDER.call(request.trace, request.clock, read=5, made=2, token_s=0.5, step="answer", ends=ends)
    if ends == "failed":
        raise ValueError("the provider failed")
    return words.text


@stage(pure=True)
async def spell(ctx: Context, words: tt.Text) -> tt.Stream[str]:  # type: ignore[misc]
    request = ctx.request  # type: ignore[attr-defined]
    await PROVIDER.call(request.trace, request.clock, read=3, made=1, token_s=0.5, step="spell")
    for letter in words.text:
        yield letter


@tt.workflow
def answering(words: tt.Text) -> str:
    return answer(words)  # type: ignore[call-arg]


@tt.workflow
def spelling(words: tt.Text) -> tt.Stream[str]:
    return spell(words)  # type: ignore[call-arg]


def plan(workflow: Any = answering, step: str = "answer", **rules: Any) -> Plan:
    return Plan(graph=workflow.graph.hash, stages={step: StagePlan(cache=CachePlan(**rules))})


async def asked(engine: Engine, words: str = "a", workflow: Any = answering, tenant: str = "desk") -> Request:
    request = engine.request(tenant=tenant)
    request.payer = FRONT
    await engine.run(workflow.bind(tt.Text(words)), request=request)
    return request


def booked(folder: Path, body: Any) -> list[UsageRow]:
    """What is booked of a scene."""
    book = quiet(folder)

    async def scene(engine: Engine) -> None:
        engine.door.book = book
        await body(engine)

    virtual(scene)
    assert book.dropped == 0
    return rows(book)


@pytest.mark.parametrize(("workflow", "step"), [(answering, "answer"), (spelling, "spell")])
def test_a_result_that_was_stale_is_computed_on_the_account_of_who_was_given_it(
    tmp_path: Path, workflow: Any, step: str
) -> None:
    requests: list[Request] = []

    async def body(engine: Engine) -> None:
        await engine.open(workflow, plan(workflow, step, ttl_s=60.0, stale_s=30.0))
        for _ in range(2):
            requests.append(await asked(engine, workflow=workflow))
            await asyncio.sleep(70.0)

    lines = booked(tmp_path, body)
    assert [(line.kind, line.asked, line.provider) for line in lines] == [
        ("", 1, "house"),
        ("", 1, ""),
        ("stale", 0, "house"),
    ]
    behind = lines[-1]
    assert (behind.tenant, behind.key, behind.client, behind.tags) == ("desk", "front", "app", "beta")
    assert (behind.request, behind.workflow, behind.step) == (requests[1].id, workflow.name, step)
    assert (behind.outcome, behind.ended) == ("ok", "ok")
    assert summed(lines) == dict(PROVIDER.counted)


def test_a_result_that_is_computed_early_is_booked_as_refreshed(tmp_path: Path) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(answering, plan(ttl_s=60.0, refresh=1.0))
        await asked(engine)
        engine.deployments.caches._places["answer", "results"].draw = lambda: 1.0 - 1e-9
        await asyncio.sleep(55.0)
        await asked(engine)
        await asyncio.sleep(5.0)

    lines = booked(tmp_path, body)
    assert [line.kind for line in lines] == ["", "", "refresh"]
    assert summed(lines) == dict(PROVIDER.counted)


def test_what_fails_behind_is_booked_with_what_it_took(tmp_path: Path) -> None:
    FAILS.add(2)

    async def body(engine: Engine) -> None:
        await engine.open(answering, plan(ttl_s=60.0, stale_s=300.0))
        await asked(engine)
        await asyncio.sleep(70.0)
        await asked(engine)
        await asyncio.sleep(5.0)

    line = booked(tmp_path, body)[-1]
    assert (line.kind, line.outcome, line.ended, line.asked) == ("stale", "failed", "failed", 0)
    assert PROVIDER.calls == 2


def test_what_is_cut_off_behind_by_the_end_is_booked_as_cancelled(tmp_path: Path) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(answering, plan(ttl_s=60.0, stale_s=300.0))
        await asked(engine)
        await asyncio.sleep(70.0)
        await asked(engine)
        await asyncio.sleep(0.6)

    lines = booked(tmp_path, body)
    assert (lines[-1].kind, lines[-1].ended, lines[-1].outcome) == ("stale", "cancelled", "cancelled")
    assert summed(lines) == dict(PROVIDER.counted)


def test_a_mirrored_call_has_its_kind(tmp_path: Path) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(asking)
        await engine.run(asking.bind(tt.Json([attempt(4, 1), attempt(4, 1, mirrored=True, token_s=1.0)])))
        await asyncio.gather(*MIRRORS)

    lines = booked(tmp_path, body)
    assert [(line.why, line.kind, line.asked) for line in lines] == [("", "", 1), ("mirror", "mirror", 0)]


@stage(pure=True)
async def cheap(ctx: Context, words: tt.Text) -> str:
    request = ctx.request  # type: ignore[attr-defined]
    await PROVIDER.call(request.trace, request.clock, read=1, made=1, step="cheap")
    return words.text


@stage(pure=True)
async def dear(ctx: Context, words: tt.Text) -> str:
    request = ctx.request  # type: ignore[attr-defined]
    await PROVIDER.call(request.trace, request.clock, read=9, made=3, step="dear")
    return words.text


def sure(text: Any) -> float:
    return 0.9 if "easy" in str(text) else 0.1


def alike(one: Any, other: Any) -> bool:
    return str(one) == str(other)


@tt.workflow
def cascading(words: tt.Text) -> str:
    return tt.choose(  # type: ignore[no-any-return]
        tt.option(cheap(words), score=sure),  # type: ignore[call-arg]
        dear(words),  # type: ignore[call-arg]
        policy="cascade",
        risk_gate="priced",
        same=alike,
    )


def test_what_a_gate_has_verified_by_lot_is_a_part_of_its_request_with_a_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path / "store"))
    gate = gates.open_gate("priced", Terms(epsilon=0.05, floor=1.0))
    gate.certify([Labelled(0.9, True)] * 200, thresholds=[0.5])

    async def body(engine: Engine) -> None:
        await engine.open(cascading)
        for words in ("easy", "hard"):
            await asked(engine, words, cascading, tenant="")  # which the gate was certified for

    try:
        lines = booked(tmp_path, body)
    finally:
        for path in [each for each in gates._open if tmp_path in each.parents]:
            gates._open.pop(path).flush()
    assert [(line.step, line.kind, line.asked) for line in lines] == [
        ("cheap", "", 1),
        ("dear", "verify", 0),
        ("cheap", "", 1),
        ("dear", "", 0),
    ]
    assert summed(lines) == dict(PROVIDER.counted)


def test_a_report_says_what_is_spent_behind(tmp_path: Path) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(answering, plan(ttl_s=60.0, stale_s=30.0))
        for _ in range(3):
            await asked(engine)
            await asyncio.sleep(70.0)

    booked(tmp_path, body)
    database = Sqlite(tmp_path / "book.db")
    found = {line.by["kind"]: line for line in report(database, ["kind"]).lines}
    database.close()
    assert (found[""].requests, found[""].calls) == (3, 1)
    assert (found["stale"].requests, found["stale"].calls) == (0, 2)
    assert found["stale"].nano == 2 * found[""].nano == 2 * (5 * 1000 + 2 * 2500)


def test_work_behind_is_of_the_same_payer_and_asks_the_same_budgets() -> None:
    request = Request(tenant="desk", priority=3)
    request.payer, request.purse, request.plan = FRONT, object(), "p"  # type: ignore[assignment]
    behind = request.behind()
    assert (behind.id, behind.tenant, behind.payer, behind.purse) == (
        request.id,
        "desk",
        FRONT,
        request.purse,
    )
    assert (behind.priority, behind.plan) == (LOWEST, "p")
    assert behind.trace is not request.trace


WISH = st.tuples(
    st.sampled_from("ab"), st.sampled_from(["one", "two"]), st.sampled_from([0.0, 0.4, 3.0, 12.0, 40.0])
)


@settings(max_examples=40, deadline=None)
@given(st.lists(WISH, min_size=1, max_size=14), st.sets(st.integers(1, 12)), st.booleans())
def test_the_books_close_whatever_goes_on_behind(
    wishes: list[tuple[str, str, float]], fails: set[int], early: bool
) -> None:
    next(fresh())
    FAILS.clear()
    FAILS.update(fails)

    async def one(engine: Engine, words: str, tenant: str) -> None:
        try:
            await asked(engine, words, tenant=tenant)
        except StageError:
            return

    async def body(engine: Engine) -> None:
        rules = {"ttl_s": 10.0, "stale_s": 25.0, "refresh": 1.0 if early else 0.0}
        await engine.open(answering, plan(**rules))
        for words, tenant, after_s in wishes:
            await one(engine, words, tenant)
            await asyncio.sleep(after_s)

    with tempfile.TemporaryDirectory() as folder:
        lines = booked(Path(folder), body)
    assert summed(lines) == {name: amount for name, amount in PROVIDER.counted.items() if amount}
    assert sum(line.provider == "house" for line in lines) == PROVIDER.calls
    assert sum(line.asked for line in lines) == len(wishes)
    assert all(line.asked == 0 and line.tenant in ("one", "two") for line in lines if line.kind)
