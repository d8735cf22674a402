"""Gateways, faults and budgets of make bench-shortcuts: their arithmetic, verdicts that can be lost, small runs for real."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from bench.kit_shortcuts import form, measured, rounds, rows, section, verdicts
from tauten.run.usage.budgets import State
from tauten.run.usage.limits import Limit
from tauten.run.usage.row import UsageRow

asker, debian, load, servers = (
    importlib.import_module(f"bench.shortcuts.gateway.{name}")
    for name in ("asker", "debian", "load", "servers")
)
causes, faults, names, seen, wall = (
    importlib.import_module(f"bench.shortcuts.faults.{name}")
    for name in ("causes", "faults", "names", "seen", "wall")
)
books, running = (
    importlib.import_module(f"bench.shortcuts.{name}") for name in ("books", "provider.running")
)
environments = importlib.import_module("bench.ground.environments")
gateway_overhead, fault_wall, budgets = (
    section(name) for name in ("gateway_overhead", "fault_wall", "budgets")
)

Count = running.Count


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No measurement is taken again for other programs' sake: no figure is asserted here."""

    async def measured_once(measure: Any) -> Any:
        return await measure()

    monkeypatch.setattr(rounds.quiet, "quietest_async", measured_once)


def line(**fields: Any) -> UsageRow:
    return UsageRow(id=str(id(fields)), at_ms=0, day="", **fields)


# -- books ---------------------------------------------------------------------------------------------------


def test_a_book_that_differs_from_the_providers_count_is_found() -> None:
    lines = [
        line(provider="first", units={"input_tokens": 8, "output_tokens": 4}, asked=1),
        line(provider="first", why="retry", outcome="cut", units={"input_tokens": 8, "output_tokens": 2}),
        line(provider="elsewhere", units={"input_tokens": 99}, asked=1),
    ]
    assert books.billed(lines, ["first"]) == (2, 16, 6)
    assert books.gap(lines, ["first"], [Count(2, 16, 6)]) == 0
    assert books.gap(lines, ["first"], [Count(2, 16, 7)]) == 1
    assert (
        books.gap(lines, ["first"], [Count(1, 8, 7), Count(1, 9, 0)]) == 2
    )  # what is equal in sum is not equal
    assert books.extra(lines, ["first"]) == {"retry": 1}
    assert books.ended(lines, ["first"]) == {"ok": 1, "cut": 1}


def test_money_that_nobody_knows_is_no_sum() -> None:
    assert books.dollars([line(nano=5), line(nano=7)]) == 12e-9
    assert books.dollars([line(nano=5), line(nano=None)]) is None


# -- gateways ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_every_conversation_is_another_one_of_the_same_length(stream: bool) -> None:
    before, after = asker.request(80, "words", "tt_key", stream)
    whole = before + b"%0*d" % (asker.DIGITS, 42) + after
    head, _, body = whole.partition(b"\r\n\r\n")
    document = json.loads(body)
    assert f"content-length: {len(body)}".encode() in head
    assert b"authorization: Bearer tt_key" in head
    assert document["stream"] is stream
    assert document["messages"][0]["content"] == f"{asker.PROMPT}# 000000000042"


class Asked:
    stream = True

    def __init__(self) -> None:
        self.firsts: list[tuple[float, float]] = []


def fed(*pieces: bytes) -> Any:
    """A connection that got these bytes, without a socket."""
    connection = asker.Timed.__new__(asker.Timed)
    connection.load, connection.buffer, connection.wanted, connection.status = Asked(), b"", 0, 0
    connection.due = 1.0
    connection.begin()
    for piece in pieces:
        connection.feed(piece)
    return connection


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_a_stream_without_its_last_event_is_no_answer() -> None:
    whole = fed(HEAD, b'data: {"content":"Th', b'e "}\n\n', b"data: [DO", b"NE]\n\n0\r\n\r\n")
    assert whole.status == 200
    assert len(whole.load.firsts) == 1
    cut = fed(HEAD, b'data: {"content":"The "}\n\n', b"0\r\n\r\n")
    assert cut.status == 0


def test_a_program_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TAUTEN_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(debian.shutil, "which", lambda name: None)
    with pytest.raises(environments.CannotInstall, match="no apt-get"):
        debian.program("nginx", "usr/sbin/nginx")


OURS = {
    "added_p50_ms": 0.4,
    "added_p99_ms": 1.5,
    "added_first_ms": 0.2,
    "rps": 3000.0,
}


def gateway_rows(**more: float) -> Any:
    found = rows(**{"tauten": {**OURS, **more}, "tauten, long run": {"slope_low": -0.1}})
    found["tauten"].rounds = [
        {"gap_tokens": 0, "errors": 0, "full_errors": 0},
        {"gap_tokens": 0, "errors": 0},
    ]
    found["tauten, long run"].rounds = [{"errors": 0}]
    return found


def test_the_verdict_on_the_gateway_can_be_lost() -> None:
    assert set(verdicts(gateway_overhead.judge(gateway_rows())).values()) == {True}
    slow = verdicts(gateway_overhead.judge(gateway_rows(added_p50_ms=0.6, rps=2000.0)))
    assert [name for name, met in slow.items() if not met] == [
        "added p50, 1 client",
        "requests a second on one core",
    ]
    open_books = gateway_rows()
    open_books["tauten"].rounds[1]["gap_tokens"] = 1  # one round of two, which no median shows
    open_books["tauten, long run"].rounds = [{"errors": 2}]
    lost = verdicts(gateway_overhead.judge(open_books))
    assert not lost["tokens that book and provider differ by"]
    assert not lost["requests of ours without a good answer"]
    assert gateway_overhead.judge(form.Rows())[0].met is None


def test_what_takes_long_is_measured_once() -> None:
    calls = []

    async def measure(number: int) -> dict[str, float]:
        calls.append(number)
        return {"ms": 1.0}

    again = gateway_overhead.once(measure)
    assert [asyncio.run(again(number)) for number in (0, 1)] == [{"ms": 1.0}] * 2
    assert calls == [0]


TINY = {"alone_s": 0.3, "full_s": 0.3, "full_clients": 4, "long_s": 0.5, "long_clients": 1}


def test_a_small_run_of_gateways() -> None:
    """No figure is asserted: that all of them answer, that the books close, that who is not there says so."""

    async def main() -> Any:
        settings = form.Settings(quick=True, rounds=1)
        absent = {"nginx": "not asked for here", "LiteLLM": "not asked for here"}
        async with gateway_overhead.opened(settings, load.Sizes(**TINY), lambda: absent) as found:
            return await rounds.measured(found, settings)

    found = asyncio.run(main())
    by_name = {row.name: row for row in found.rows}
    assert by_name["nginx"].reason == by_name["LiteLLM"].reason == "not asked for here"
    for name in ("tauten", "thin proxy"):
        row = by_name[name]
        assert row.reason == "", row.reason
        assert row.get("errors") == 0
        assert (row.get("rps") or 0) > 0
        assert row.get("added_p50_ms") is not None
        assert row.get("added_first_ms") is not None
    assert by_name["tauten"].get("gap_tokens") == 0
    assert by_name["tauten, long run"].get("errors") == 0
    assert verdicts(found.checks)["tokens that book and provider differ by"]


# -- faults --------------------------------------------------------------------------------------------------


def question(kind: int) -> bytes:
    name = b"\x05first\x04slow\x04test\x00"
    return b"\x12\x34" + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + name + struct.pack("!HH", kind, 1)


@pytest.mark.parametrize(("kind", "found"), [(1, 1), (28, 0)])
def test_every_name_is_this_machine(kind: int, found: int) -> None:
    said = names.answer(question(kind))
    assert said[:2] == b"\x12\x34"
    assert struct.unpack_from("!HHH", said, 2) == (0x8180, 1, found)
    assert said.endswith(bytes((127, 0, 0, 1))) is bool(found)


def told(status: int = 200, code: str = "", **more: Any) -> Any:
    return seen.Seen(True, 600.0, status, code, **more)


def test_what_a_client_saw_is_right_or_not() -> None:
    good = told(whole=True, words=8)
    assert wall.whole(good)
    assert good.said() == "whole"
    cut = told(code="E461", words=2)
    assert wall.told("E461")(cut)
    assert cut.said() == "error event E461 after 2 words"
    assert not wall.whole(told(words=2))
    assert told(words=2).said() == "cut, and nobody said so, after 2 words"
    assert not wall.told("E461")(told(code="E461", whole=True))  # an error that looks like a success
    limit = told(429, "E462")
    assert not wall.told_when("E462")(limit)
    limit.retry_after = True
    assert wall.told_when("E462")(limit)
    assert seen.grouped([good, limit, limit]) == "1 × whole, 2 × 429 E462"


def fault_rows(**worst: float) -> Any:
    row = {"wrong": 0, "of_budget": 1.0, "gap_tokens": 0, "lines_missing": 0, "running": 0, "exit": 0}
    found = form.Rows(
        {name: form.Row(name, rounds=[dict(row), {**row, **worst}]) for name in ("hangs", "cuts")}
    )
    found["no disk"] = form.Row(
        "no disk", reason="CannotCause: no small disk", rounds=[{"error": "CannotCause"}]
    )
    return found


@pytest.mark.parametrize(
    ("worst", "lost"),
    [
        ({}, None),
        ({"wrong": 1}, "clients that saw something else than they should"),
        ({"of_budget": 1.2}, "the latest answer, as a share of its budget"),
        ({"gap_tokens": 1}, "tokens that the books differ by"),
        ({"lines_missing": 1}, "requests without a line in the book"),
        ({"running": 1}, "requests that ran on after their client had its answer"),
        ({"exit": -9}, "servers that did not end well"),
    ],
)
def test_the_wall_can_be_lost_by_one_round_of_one_fault(worst: dict[str, float], lost: str | None) -> None:
    found = verdicts(fault_wall.judge(fault_rows(**worst)))
    assert [name for name, met in found.items() if not met] == ([] if lost is None else [lost])


def test_a_fault_that_breaks_the_bench_is_not_one_that_cannot_be_caused() -> None:
    broken = fault_rows()
    broken["no disk"].reason = "KeyError: 'x'"
    assert not verdicts(fault_wall.judge(broken))["faults that could be caused here"]


def test_every_fault_says_what_it_is() -> None:
    assert all(fault_wall.doc(each).endswith(".") for each in faults.FAULTS.values())
    assert all(fault_wall.doc(each).endswith(".") for each in fault_wall.MACHINE.values())
    assert len(faults.FAULTS) + len(fault_wall.MACHINE) == 21


SMALL_WALL = ("refuses connections", "cuts in the middle", "429 without Retry-After", "the wall clock jumps")


def test_a_small_wall_stands() -> None:
    """The faults of a moment, for real, against a served workflow."""
    found = measured("fault_wall", SMALL_WALL)
    assert {row.name: (row.reason, row.figures.get("why")) for row in found.rows} == dict.fromkeys(
        SMALL_WALL, ("", "")
    )
    lost = {each.name: each.seen for each in found.missed}
    lost.pop(
        "the latest answer, as a share of its budget", None
    )  # a figure of the machine's, not of the code's
    assert lost == {}
    assert all(row.get("tokens") > 0 for row in found.rows)


# -- budgets -------------------------------------------------------------------------------------------------


def state(spent: int, held: int = 0) -> State:
    return State("all", "", "ever", Limit(tokens=100), spent, held, None)


def crowd(*codes: str) -> list[tuple[Any, Any]]:
    return [
        (budgets.KINDS[0], told(429 if code else 200, code, whole=not code, words=0 if code else 8))
        for code in codes
    ]


def test_what_a_crowd_took_is_held_against_budget_and_provider() -> None:
    found = crowd("", "", budgets.USED_UP)
    even = budgets.figures("tokens", 40, found, Count(2, 16, 16), state(32), 0)
    assert (even["over"], even["gap_budget"], even["refused"], even["unmade"], even["wrong"]) == (
        0,
        0,
        1,
        0,
        0,
    )
    assert even["of_budget"] == 0.8
    over = budgets.figures("tokens", 30, crowd("", "E460"), Count(3, 24, 16), state(32, 5), 7)
    assert (over["over"], over["gap_budget"], over["unmade"], over["held"]) == (2, 8, 1, 5)
    assert over["wrong"] == 1
    money = budgets.figures("usd", 10_000, found, Count(2, 16, 16), state(16 * 150 + 16 * 600), 0)
    assert (money["gap_budget"], money["over"]) == (0, 2000)


@pytest.mark.parametrize("key", ["over", "gap_budget", "gap_tokens", "held", "unmade", "wrong"])
def test_the_verdict_on_budgets_can_be_lost(key: str) -> None:
    good = {"over": 0, "gap_budget": 0, "gap_tokens": 0, "held": 0, "unmade": 0, "wrong": 0, "refused": 5}
    found = form.Rows({"a": form.Row("a", rounds=[dict(good), dict(good)])})
    assert set(verdicts(budgets.judge(found)).values()) == {True}
    found["a"].rounds[1][key] = 1
    assert list(verdicts(budgets.judge(found)).values()).count(False) == 1


def test_of_ten_calls_each_kind_has_its_share() -> None:
    counts = [sum(budgets.kind(number) is each for number in range(200)) for each in budgets.KINDS]
    assert counts == [20 * each.share for each in budgets.KINDS]
    assert budgets.limit("tokens", 50) == 50 * (4 + -(-len(budgets.prompt(budgets.KINDS[0].act, 0)) // 4) + 8)
    assert budgets.written("usd", 1_500) == '"0.000001500"'


def test_a_crowd_keeps_to_a_budget() -> None:
    """Forty at once with room for ten, streams, cancelled and cut ones among them, on SQLite."""
    found = measured("budgets", ("SQLite, tokens", "SQLite, money"))
    assert [row.reason for row in found.rows] == ["", ""]
    assert {each.name: each.seen for each in found.missed} == {}


@pytest.mark.skipif(
    not (any(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or shutil.which("initdb")),
    reason="no PostgreSQL here (make servers)",
)
def test_a_crowd_keeps_to_a_budget_in_postgresql() -> None:
    found = measured("budgets", ("PostgreSQL, calls",))
    assert [row.reason for row in found.rows] == [""]
    assert {each.name: each.seen for each in found.missed} == {}
