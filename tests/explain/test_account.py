"""The account adds up, in full precision and as printed."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from explain import scenes
from tauten.describe.slo import Slo
from tauten.errors import InputError
from tauten.explain.account import Ablation, Account, Estimate, account, compare
from tauten.explain.document import SCHEMA, from_json, to_document, to_json
from tauten.explain.exports import perfetto
from tauten.explain.figures import add_up, digits_for, money, ms, signed, slo_table, spent
from tauten.explain.html import to_html
from tauten.explain.text import compare_text, to_text
from tauten.improve.replay import work_of
from tauten.run.attribution import attribute
from tauten.run.trace import CAUSES, VISIT, Trace

SCENES = [scenes.sequential_account, scenes.parallel_account, scenes.streaming_account]


@pytest.mark.parametrize("scene", SCENES)
def test_stages_sources_and_flat_rows_add_up_to_the_wall_time(scene: object) -> None:
    seen: Account = scene()  # type: ignore[operator]
    assert math.fsum(s.exclusive_ms for s in seen.stages) + seen.unattributed_ms == pytest.approx(
        seen.wall_ms
    )
    assert math.fsum(seen.sources.values()) == pytest.approx(seen.wall_ms)
    flat = math.fsum(float(row["exclusive_ms"] or 0) for row in seen.rows())
    assert flat + seen.unattributed_ms == pytest.approx(seen.wall_ms, abs=1e-6)
    assert math.fsum(seen.unattributed_in.values()) == pytest.approx(seen.unattributed_ms)
    if seen.first_output_ms is not None:
        assert math.fsum(seen.first_output_sources.values()) == pytest.approx(seen.first_output_ms)


def test_flat_rows_have_the_keys_that_programs_read() -> None:
    rows = scenes.sequential_account().rows()
    keys = {"stage", "cause", "source", "exclusive_ms", "off_path_ms", "slack_ms", "estimate_ms"}
    assert all(set(row) == keys for row in rows)
    ocr = {row["cause"]: row["estimate_ms"] for row in rows if row["stage"] == "ocr"}
    assert ocr == {"compute": 100, "queue": None}


def test_members_of_a_map_are_one_row() -> None:
    row = next(s for s in scenes.parallel_account().stages if s.stage == "classify")
    assert (row.title, row.members, row.exclusive_ms) == ("classify x3", 3, 0)
    assert row.off_path_ms == pytest.approx(20 + 21 + 22)
    assert row.slack_ms == pytest.approx(120)
    assert row.estimate == Estimate(90, 84, 99)


def test_what_runs_teach_of_a_map_is_what_its_row_is_held_against() -> None:
    """A run notes what all members of a map worked; counted for each of them again, a map of 24 looked 24 times off."""
    trace = scenes.parallel()
    taught = {step: Estimate(seconds * 1e3) for step, seconds in work_of(attribute(trace)).items()}
    rows = account(trace, estimates=taught).stages
    held = {row.stage: (row.work_ms, row.estimate.mid_ms) for row in rows if row.estimate is not None}
    assert held["classify"] == pytest.approx((63.0, 63.0))
    assert not any(row.far_off for row in rows)


def test_an_estimate_is_marked_when_it_misses_twofold() -> None:
    by_name = {s.stage: s for s in scenes.sequential_account().stages}
    assert by_name["ocr"].far_off
    assert not by_name["transcribe"].far_off
    assert not by_name["merge"].far_off  # no data


def test_what_is_spent_is_kept_by_stage_and_in_total() -> None:
    seen = scenes.sequential_account()
    assert seen.spent == {
        "input_tokens": 1012,
        "output_tokens": 41,
        "cents": 0,
        "core_seconds": pytest.approx(2.3),
    }
    assert next(s for s in seen.stages if s.stage == "ocr").spent == {"core_seconds": 0.9}


@pytest.mark.parametrize("stage", ["transcribe", "ocr", "retrieve", "generate"])
def test_an_injected_delay_moves_one_row_of_the_account(stage: str) -> None:
    before = {s.stage: s.causes for s in scenes.sequential_account().stages}
    trace = scenes.sequential()
    last = max(r[3] for r in trace.rows if r[0] == stage and r[1] == VISIT)
    cause = next(r[1] for r in trace.rows if r[0] == stage and r[1] != VISIT and r[3] == last)
    trace.rows = [(s, c, a + 0.1 * (a >= last), b + 0.1 * (b >= last)) for s, c, a, b in trace.rows]
    trace.end += 0.1
    after = {s.stage: s.causes for s in account(trace).stages}
    moved = {(s, c): after[s][c] - before[s][c] for s in before for c in before[s]}
    assert {key for key, by in moved.items() if abs(by) > 1e-6} == {(stage, cause)}
    assert moved[stage, cause] == pytest.approx(100)


def test_two_accounts_side_by_side() -> None:
    seen = compare(scenes.sequential_account(), scenes.parallel_account(), name_b="tuned")
    assert (seen.name_a, seen.name_b) == ("naive@3f9a", "tuned")
    assert math.fsum(row.diff_ms for row in seen.rows) == pytest.approx(181 - 1462)
    sizes = [abs(row.diff_ms) for row in seen.rows]
    assert sizes == sorted(sizes, reverse=True)
    quote = next(row for row in seen.rows if row.stage == "quote")
    assert (quote.a_ms, quote.b_ms) == (None, pytest.approx(18))


@pytest.mark.parametrize("scene", SCENES)
def test_json_comes_back_as_it_was(scene: object) -> None:
    seen: Account = scene()  # type: ignore[operator]
    assert to_document(seen)["schema"] == SCHEMA
    assert from_json(to_json(seen)) == seen
    pair = compare(seen, scenes.parallel_account(), ablation=[Ablation("x", -1.0, None)])
    assert from_json(to_json(pair, indent=0)) == pair


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": "other/1"}', f'{{"schema": "{SCHEMA}", "account": {{}}}}']
)
def test_another_document_is_refused_in_words(text: str) -> None:
    with pytest.raises(InputError) as caught:
        from_json(text)
    assert caught.value.help


@given(st.lists(st.floats(0, 1e5), max_size=30), st.integers(0, 4))
@example([0.01] * 5, 1)  # a tie: 0.05 prints as 0.1
def test_rounded_rows_add_up_to_the_rounded_total(values: list[float], digits: int) -> None:
    total = math.fsum(values)
    rounded = add_up(values, total, digits)
    assert math.fsum(rounded) == pytest.approx(round(total, digits), abs=10**-digits / 2 + 1e-9)
    assert all(abs(r - v) <= 10**-digits + 1e-9 for r, v in zip(rounded, values, strict=True))
    whole = round(round(total, digits) * 10**digits)
    assert sum(round(r * 10**digits) for r in rounded) == (whole if values else 0)


def test_figures_in_words() -> None:
    assert [digits_for(v) for v in (1462, 99, 9, 0.2)] == [0, 1, 2, 4]
    assert ms(-0.0001, 2) == "0.00"
    assert [money(c) for c in (0, 0.0003, 0.012, 250)] == ["$0", "$0.000003", "$0.00012", "$2.50"]
    assert [signed(v) for v in (-12345.0, 0.0, 12.346)] == ["-12,345", "+0", "+12.35"]
    used = {"input_tokens": 10, "output_tokens": 2, "cached_tokens": 8, "cents": 3, "bytes": 12345}
    assert spent(used) == "10 tokens in (8 cached), 2 out   $0.03   12,345 bytes"
    assert [spent({"core_seconds": cores}) for cores in (2.31, 250.0)] == ["2.3 core-s", "250 core-s"]


def test_slo_lines_say_what_is_missed() -> None:
    lines = slo_table(Slo(p50_ms=900), {"wall_ms": {"p50": 899.5}}, correct=(3, 10), need_correct=4)
    assert [(line.limit, line.verdict, line.met) for line in lines] == [
        ("900 ms", "ok at p50", True),
        (">= 4", "MISSED by 1", False),
    ]
    assert [line.met for line in slo_table(None, {"wall_ms": {"p50": 1, "p95": 2}})] == [None]


def test_each_limit_has_its_verdict_and_a_request_that_failed_never_ended() -> None:
    slo = Slo(p50_ms=100, p95_ms=800, p99_ms=900)
    lines = slo_table(slo, {"wall_ms": {"p50": 300.0, "p95": 700.0}})
    assert [(line.limit, line.verdict, line.met) for line in lines] == [
        ("100 ms", "MISSED by 200 ms at p50", False),
        ("800 ms", "ok at p95", True),
        ("900 ms", "p99 was not measured", None),
    ]
    [line] = slo_table(Slo(p95_ms=0.5), {"wall_ms": {"p50": 0.25, "p95": math.inf}})
    assert (line.limit, line.p50, line.p95) == ("0.5 ms", "0.25", "failed")
    assert (line.verdict, line.met) == ("MISSED at p95: requests failed", False)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Any rows at all, with and without visits and edges."""
    trace = Trace(7.0)
    trace.end = 7.0 + draw(st.floats(0, 3))
    steps = ["a", "b", "m[0]", "m[1]", "", "photo:pixels"]
    instant = st.floats(6.5, 10.5)
    for _ in range(draw(st.integers(0, 15))):
        cause = draw(st.sampled_from([VISIT, VISIT, *CAUSES]))
        trace.add(draw(st.sampled_from(steps)), cause, *sorted((draw(instant), draw(instant))))
    trace.edges = draw(st.sampled_from([{}, {"b": ("a",)}, {"b": ("m",), "m": ("a",), "a": ("b",)}]))
    trace.outputs = draw(st.sampled_from([(), ("b",), ("m", "a")]))
    trace.first_output = draw(st.none() | instant)
    return trace


@given(traces(), st.sampled_from([40, 72, 80, 96]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_trace_has_an_account_that_closes_on_every_screen(
    trace: Trace, width: int, all_rows: bool
) -> None:
    seen = account(trace)
    stages = math.fsum(stage.exclusive_ms for stage in seen.stages)
    assert stages + seen.unattributed_ms == pytest.approx(seen.wall_ms, abs=1e-6)
    assert math.fsum(seen.sources.values()) == pytest.approx(seen.wall_ms, abs=1e-6)
    for stage in seen.stages:
        assert math.fsum(stage.causes.values()) == pytest.approx(stage.exclusive_ms)
        assert all(0 <= span.start_ms <= span.end_ms <= seen.wall_ms + 1e-6 for span in stage.spans)
        assert min(stage.exclusive_ms, stage.off_path_ms, stage.slack_ms, stage.unattributed_ms) >= 0
    assert max(map(len, to_text(seen, width=width, all_rows=all_rows).splitlines())) <= width
    assert "total" in compare_text(compare(seen, seen), width=width)
    assert from_json(to_json(seen)) == seen
    assert "</html>" in to_html(seen)
    assert perfetto.export({"r": trace})
