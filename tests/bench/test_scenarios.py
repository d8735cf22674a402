"""The pure parts of the scenarios: books, bursts, verdicts, plans, and the section of the page."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tauten.examples.help_desk.tour import plans
from tauten.improve.load.samples import Sample, Samples
from tauten.plan.plan import parse_plan

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # bench/ is no part of the installed package
NAMES = ("batching", "books", "desk", "drive", "light", "outcome", "overload", "run_scenarios", "section")
batching, books, desk, drive, light, outcome, overload, run_scenarios, section = (
    importlib.import_module(f"bench.serve.scenarios.{name}") for name in NAMES
)

METRICS = """# HELP tauten_request_seconds x
# TYPE tauten_request_seconds histogram
tauten_request_seconds_count{outcome="ok",plan="p@1",workflow="flow"} 7.0
tauten_request_seconds_count{outcome="ok",plan="p@2",workflow="flow"} 1.0
tauten_request_seconds_count{outcome="rejected",plan="p@1",workflow="flow"} 2.0
tauten_request_seconds_count{outcome="ok",plan="p@1",workflow="other"} 5.0
tauten_refusals_total{reason="overloaded",workflow="flow"} 2.0
tauten_in_flight 1.0
"""


def test_a_page_of_metrics_is_read_back() -> None:
    page = books.parse(METRICS)
    assert page.total("tauten_in_flight") == 1
    assert page.total("tauten_request_seconds_count", workflow="flow") == 10
    by = page.by("tauten_request_seconds_count", "outcome", workflow="flow")
    assert by == {"ok": 8, "rejected": 2}
    later = books.parse(METRICS.replace("7.0", "9.0"))
    assert later.since(page).by("tauten_request_seconds_count", "outcome") == {"ok": 2}


def test_books_that_differ_are_found() -> None:
    page = books.parse(METRICS)
    even = books.balance(Counter(ok=8, refused=2), page, "flow")
    assert (even["missing"], even["refusals"]) == (0, {"overloaded": 2})
    assert books.balance(Counter(ok=9, refused=2), page, "flow")["missing"] == 1


def test_the_most_of_a_gauge_is_kept() -> None:
    watched = books.Watched()
    for zombies in (0, 3, 1):
        watched.see(books.parse(f'tauten_zombies{{deployment="d"}} {zombies}\n'))
    assert (watched.most["zombies"], watched.looks) == (3, 3)


def samples(*rows: tuple[float, float, str]) -> Samples:
    """(due, seconds taken, outcome) as a run of 10 s."""
    return Samples(10.0, [Sample(0, due, due, None, due + took, how) for due, took, how in rows])  # type: ignore[arg-type]


def test_a_burst_is_the_same_for_the_same_seed_and_lies_in_the_middle() -> None:
    due, begin, end = overload.burst_times(20.0, 10.0, 5.0, 2.0, seed=3)
    assert (begin, end) == (5.0, 7.0)
    assert due == sorted(due) == overload.burst_times(20.0, 10.0, 5.0, 2.0, seed=3)[0]
    inside = sum(begin <= at < end for at in due)
    assert abs(inside - 400) < 4 * math.sqrt(400)
    assert due[-1] < 12.0


def test_recovery_ends_with_the_last_request_that_missed() -> None:
    run = samples((4.0, 9.0, "ok"), (5.5, 0.1, "refused"), (6.0, 0.4, "ok"), (7.0, 0.1, "ok"))
    assert overload.recovery_s(run, 5.0, 0.3) == 1.0
    assert overload.recovery_s(run, 5.0, 0.5) == 0.5
    assert overload.recovery_s(run, 6.5, 0.5) == 0.0


def test_goodput_counts_what_was_in_time_and_the_admitted_include_those_without_an_answer() -> None:
    run = samples((1, 0.1, "ok"), (2, 0.6, "ok"), (3, 0.1, "refused"), (4, 0.5, "timed_out"))
    assert drive.goodput(run, 0.5) == pytest.approx(0.1)
    assert len(drive.admitted(run)) == 3
    assert drive.p_ms(drive.admitted(run), 0.5) == pytest.approx(600)
    assert drive.p_ms(drive.admitted(run), 0.99) is None
    assert drive.summary(run, 0.5)["late"] == 1


def test_reasons_are_counted_without_their_numbers() -> None:
    assert drive.grouped(Counter({"takes 5 ms": 2, "takes 7.5 ms": 1})) == {"takes N ms": 3}


def test_every_wait_is_a_plan_and_the_desk_changes_only_its_batches() -> None:
    for model in batching.MODELS:
        found = [parse_plan(batching.plan(model, wait)).stage("model").batch for wait in batching.WAITS]
        assert [(each.max, each.wait) for each in found][1:] == [(32, "off"), (32, 2.0), (32, "slack")]
        assert found[0].max == 1
    tuned = plans()[1]
    held = desk.with_wait(tuned, 2.0)
    assert held.stage("quote").batch.wait == held.stage("ocr").roles["recognize"].batch.wait == 2.0
    assert desk.with_wait(tuned, None).stage("quote").batch.max == 1
    assert desk.with_wait(tuned, "slack") == tuned
    assert held.stage("classify") == tuned.stage("classify")


def point(p50: float, saturated: bool = False) -> dict[str, Any]:
    return {
        "p50_ms": p50,
        "p99_ms": 2 * p50,
        "saturated": saturated,
        "foreign_share": 0.0,
        "send_lag_high": False,
    }


def test_batching_is_judged_by_rate_and_by_latency() -> None:
    def seen(*p50: float) -> dict[float, Any]:
        return {100.0 * n: [point(each, each > 100)] * 3 if each else [] for n, each in enumerate(p50, 1)}

    points = {
        "no batches": seen(1.0, 500, 0),
        "off": seen(1.0, 2, 3),
        "fixed 2 ms": seen(3, 4, 5),
        "slack": seen(1.05, 2, 3),
    }
    found = batching.judged("small", 1000.0, points)
    assert [check.met for check in found.checks] == [True, True]
    assert [len(line.points) for line in found.curves["p50"]] == [1, 3, 3, 3]
    points["slack"] = seen(1.5, 2, 300)
    assert [check.met for check in batching.judged("small", 1000.0, points).checks] == [False, False]


def test_an_answer_is_read_from_pieces_and_told_by_its_status() -> None:
    import asyncio

    async def main() -> None:
        link = light.Link()
        link.answer = asyncio.get_running_loop().create_future()
        for piece in (b"HTTP/1.1 429 x\r\nContent-", b"Length: 4\r\n\r\nno", b"pe"):
            assert not link.answer.done()
            link.data_received(piece)
        told = light.told(link.status, link.answer.result())
        assert (told.outcome, told.error) == ("refused", "HTTP 429: nope")
        link.answer = asyncio.get_running_loop().create_future()
        link.connection_lost(None)
        assert isinstance(link.answer.exception(), ConnectionResetError)

    asyncio.run(main())
    assert [light.told(status, b"").outcome for status in (200, 503, 504, 500)] == [
        "ok",
        "refused",
        "timed_out",
        "failed",
    ]


def result() -> Any:
    found = outcome.Result("one", "One <scenario>", "how")
    found.check("goodput", 0.95, 0.9, "share", at_least=True)
    found.check("lost", 1, 0)
    found.check("p99", None, 500, "ms")
    found.curves["p50"] = [outcome.Line("slack", [(1.0, 2.0), (2.0, 3.0)])]
    found.figures = {"run": {"a": 1.5, "rows": [{"b": 2}, {"b": 3}]}, "plain": [1, 2]}
    return found


def test_a_scenario_passes_when_every_check_has_a_number_and_meets_it() -> None:
    found = result()
    assert [each["met"] for each in found.document()["checks"]] == [True, False, None]
    assert not found.passed
    found.checks = found.checks[:1]
    assert found.passed
    found.error = "no server"
    assert not found.passed
    assert not outcome.Result("x", "x", "x").passed, "what checks nothing shows nothing"


def test_the_section_is_put_on_the_page_once(tmp_path: Path) -> None:
    page = tmp_path / "out" / "page.html"
    run = run_scenarios.Run(run_scenarios.QUICK, tmp_path / "out" / "scenarios.json", page)
    run.results = [result()]
    run.write()
    alone = page.read_text()
    assert "One &lt;scenario&gt;" in alone
    assert "<script" not in alone
    assert "http" not in alone.replace("http-equiv", "")
    page.write_text("<!doctype html><html><h1>first half</h1></html>\n")
    run.write()
    run.write()
    text = page.read_text()
    assert (text.count("first half"), text.count("One &lt;scenario&gt;</h2>"), text.count("</html>")) == (
        1,
        1,
        1,
    )
    document = json.loads((tmp_path / "out" / "scenarios.json").read_text())
    assert (document["passed"], document["scenarios"][0]["name"]) == (False, "one")
    assert "missed" in run_scenarios.text(run.results)
    assert section.flat(result().figures)[-1] == ("plain", [1, 2])


def test_every_scenario_that_is_named_can_be_run() -> None:
    for name in run_scenarios.SCENARIOS:
        module = importlib.import_module(f"bench.serve.scenarios.{name}")
        assert callable(module.measure), name
    assert run_scenarios.arguments([]).only == list(run_scenarios.SCENARIOS)


def test_a_median_over_rounds_needs_each_of_them() -> None:
    loading = importlib.import_module("bench.serve.scenarios.loading")
    assert loading._median([3.0, 1.0, 2.0]) == 2.0
    assert loading._median([3.0, None, 2.0]) is None
    assert loading._median([]) is None


def test_the_flows_of_the_sharing_scenario_differ_in_nothing_but_purity() -> None:
    from tauten.serve.kept.flights import shareable

    served = importlib.import_module("bench.serve.scenarios.served")
    sharing = importlib.import_module("bench.serve.scenarios.sharing")
    flows = {word: getattr(served, name) for word, name in sharing.FLOWS_OF.items()}
    assert {word: shareable(flow) for word, flow in flows.items()} == {"on": True, "off": False}
    assert str(flows["on"].inputs) == str(flows["off"].inputs)


def test_a_scenario_that_breaks_is_told_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: Any) -> None:
        raise RuntimeError("no port")

    monkeypatch.setattr(overload, "measure", broken)
    monkeypatch.setattr(batching, "measure", lambda settings: [result()])
    run = run_scenarios.Run(run_scenarios.QUICK, tmp_path / "s.json", tmp_path / "p.html")
    run.scenario("overload")
    run.scenario("batching")
    assert [each.error for each in run.results] == ["RuntimeError: no port", ""]
    assert run_scenarios.chosen(run_scenarios.arguments(["--quick", "--steady-s", "5"])).steady_s == 5
