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
from tauten.plan.plan import Batch, parse_plan

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # bench/ is no part of the installed package
NAMES = (
    "batching",
    "books",
    "desk",
    "desk_rate",
    "drive",
    "light",
    "outcome",
    "overheads",
    "overload",
    "run_scenarios",
    "section",
)
batching, books, desk, desk_rate, drive, light, outcome, overheads, overload, run_scenarios, section = (
    importlib.import_module(f"bench.serve.scenarios.{name}") for name in NAMES
)
missed = importlib.import_module("bench.serve.missed")
verdict = importlib.import_module("bench.ground.verdict")

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
    for name in ("transcribe", "classify", "retrieve"):
        assert held.stage(name).batch == Batch(wait=2.0)
    for wait in desk.BATCH_WAITS.values():
        assert desk.with_wait(tuned, wait).stage("generate") == tuned.stage("generate"), (
            "it batches by itself"
        )


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


def test_a_rate_that_one_round_reached_is_not_held() -> None:
    good, outrun = point(2.0, False), point(2.0, True)
    lost = {100.0: [good, *[outrun] * 4], 200.0: [good]}  # four of five rounds ended below
    held = {100.0: [good] * 5, 200.0: [good] * 3}
    by_name = {"no batches": held, "off": held, "fixed 2 ms": held, "slack": lost}
    found = batching.judged("small", 1000.0, by_name)
    assert found.figures["rate_held_rps"] == {
        "no batches": 200.0,
        "off": 200.0,
        "fixed 2 ms": 200.0,
        "slack": 0.0,
    }
    assert found.checks[0].met is False


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


def test_the_scenarios_are_on_the_page_with_what_was_missed(tmp_path: Path) -> None:
    run = run_scenarios.Run(run_scenarios.QUICK, tmp_path / "out" / "bench.json")
    broken = outcome.Result("two", "Two", "", error="no port")
    run.results = [result(), broken]
    run.results[0].foreign_share = 0.034
    run.results[0].scenario, broken.scenario = "desk", "overload"
    run.write()
    page = (tmp_path / "out" / "bench.html").read_text()
    assert page.count("One &lt;scenario&gt;</h2>") == 1
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "3.4%" in page  # foreign CPU
    document = json.loads((tmp_path / "out" / "bench.json").read_text())["stress"]
    assert (document["passed"], document["scenarios"][0]["name"]) == (False, "one")
    assert "missed" in verdict.text(run.results)
    assert section.flat(result().figures)[-1] == ("plain", [1, 2])
    reasons = {"one": {"lost": "it was told to"}}
    found = [(one.where, one.name, one.reason) for one in missed.missed({"stress": document}, reasons)]
    assert found == [
        ("One <scenario>", "lost", "it was told to"),
        ("One <scenario>", "p99", missed.UNSTATED),
        ("Two", "did not run", "no port"),
    ]


def test_what_was_shed_is_said_with_its_reasons() -> None:
    run = samples((1, 0.1, "ok"), (2, 0.6, "ok"), (3, 0.1, "refused"))
    run.measured[2] = run.measured[2]._replace(error="E210: the queue needs 700 ms")
    words = drive.said(drive.summary(run, 0.5))
    assert "2 ok, 1 refused, 0 timed out, 0 failed; 1 of the answers late" in words
    assert "1 × E" in words
    assert "the queue needs N ms" in words


def test_the_tuned_plan_is_held_against_the_naive_one() -> None:
    def rated(rate: float | None) -> Any:
        return outcome.Result("x", "x", "x", figures={"max_rate_per_s": rate})

    for before, after, met in ((2.0, 3.0, [True]), (2.0, 1.0, [False]), (2.0, None, [None]), (None, 3.0, [])):
        tuned = rated(after)
        desk_rate.compared(rated(before), tuned)
        assert [check.met for check in tuned.checks] == met
        assert bool(tuned.notes) == (before is None)


def test_every_curve_is_of_five_rounds_or_more() -> None:
    settings = run_scenarios.Settings()
    assert min(settings.rounds, settings.desk_rounds) >= 5
    assert settings.steady_s >= 600
    assert settings.kill_every_s == 5


def test_overheads_with_a_bound_are_checks() -> None:
    rows = {
        "a deployment hop": {"us": 16.0, "bound_us": 15.0},
        "a streaming hop": {"us": 6.0, "bound_us": 30.0},
        "floor": {"us": 0.4, "bound_us": math.inf},
    }
    found = overheads.judged(rows)
    assert [(check.name, check.met) for check in found.checks] == [
        ("a deployment hop", False),
        ("a streaming hop", True),
    ]
    assert found.figures == {"floor": 0.4}


def test_the_bounds_of_the_overheads_are_those_that_were_promised() -> None:
    overhead = importlib.import_module("bench.overhead")
    us = dict.fromkeys(
        (
            *("chain", "single", "observed", "observed single", "diamond side by side", "diamond in turn"),
            *("one stream", "two streams", "hop", "floor"),
        ),
        1.0,
    )
    found = {row: figures["bound_us"] for row, figures in overhead.report(us).items()}
    assert (found["a deployment hop"], found["a streaming hop"]) == (15.0, 30.0)


def test_the_referee_asks_as_mlperf_does() -> None:
    referee = importlib.import_module("bench.serve.scenarios.referee")
    settings = run_scenarios.Settings()
    asked = {name: referee.asked(name, 800.0, settings) for name in referee.loadgen.SCENARIOS}
    assert set(asked) == {"single-stream", "server", "offline"}
    assert (asked["single-stream"].percentile, asked["server"].percentile) == (0.9, 0.99)
    assert (asked["server"].qps, asked["server"].queries) == (400.0, 662)
    assert asked["server"].latency_ms == referee.SUBJECT.slo_s * 1e3


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

    def half(settings: Any) -> Any:
        yield result()
        raise RuntimeError("no model")

    monkeypatch.setattr(overload, "measure", broken)
    monkeypatch.setattr(batching, "measure", half)
    run = run_scenarios.Run(run_scenarios.QUICK, tmp_path / "s.json")
    run.scenario("overload")
    run.scenario("batching")
    assert [each.error for each in run.results] == ["RuntimeError: no port", "", "RuntimeError: no model"]
    assert all(each.foreign_share is not None and each.steal_share is not None for each in run.results)
    assert run_scenarios.chosen(run_scenarios.arguments(["--quick", "--steady-s", "5"])).steady_s == 5


def test_what_a_run_leaves_out_stays_as_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.json"

    def measured(names: list[str], settings: Any = run_scenarios.QUICK) -> list[tuple[str, float | None]]:
        run = run_scenarios.Run(settings, out)
        for name in names:
            run.scenario(name)
        found = json.loads(out.read_text())["stress"]["scenarios"]
        return [(one["scenario"], one["checks"][0]["seen"]) for one in found]

    seen = iter(range(100))

    def once(settings: Any) -> Any:
        found = result()
        found.checks = [outcome.Check("lost", next(seen), 0)]
        yield found

    for module in (overload, batching, desk):
        monkeypatch.setattr(module, "measure", once)
    assert measured(["overload", "batching"]) == [("batching", 1), ("overload", 0)]
    assert measured(["desk", "overload"]) == [("batching", 1), ("desk", 2), ("overload", 3)]
    stamps = [(one["began"], one["commit"]) for one in json.loads(out.read_text())["stress"]["scenarios"]]
    assert all(began and commit for began, commit in stamps)
    full = run_scenarios.Settings()
    assert measured(["desk"], full) == [("desk", 4)], "of other lengths nothing stays"
    run_scenarios.Run(run_scenarios.QUICK, out).scenario("desk")
    assert measured(["overload"], full) == [("desk", 4), ("overload", 6)], "a quick look took nothing away"
    assert (tmp_path / "s-quick.json").exists()
    found = json.loads(out.read_text())
    found["stress"]["machine"]["cpu"] = "another"
    out.write_text(json.dumps(found))
    assert measured(["overload"], full) == [("overload", 7)]
