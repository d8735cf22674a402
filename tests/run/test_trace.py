"""The books close: random traces are tiled exactly, and hand-made ones give each instant its owner."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.run.attribution import Attribution, attribute, attribute_first_output, exclusive, totals
from tauten.run.trace import CAUSES, SOURCES, VISIT, WAITING, Row, Trace

MS = 0.001
ROW_CAUSES = [cause for cause in CAUSES if cause != "unattributed"]
STEPS = ["a", "b", "c", "d", "a/x", "a/x/y", "m[0]", "m[1]", "m[2]", "m[1]/x"]


def make(
    rows: list[tuple[str, str, float, float]],
    *,
    end: float,
    edges: dict[str, tuple[str, ...]] | None = None,
    outputs: tuple[str, ...] = (),
    first_output: float | None = None,
) -> Trace:
    """A trace in milliseconds that starts at 5 s, as no clock starts at zero."""
    trace = Trace(5.0)
    trace.end = 5.0 + end * MS
    trace.first_output = None if first_output is None else 5.0 + first_output * MS
    for step, cause, begin, finish in rows:
        trace.add(step, cause, 5.0 + begin * MS, 5.0 + finish * MS)
    trace.edges = edges or {}
    trace.outputs = outputs
    return trace


def owners(found: Attribution) -> dict[tuple[str, str], float]:
    """Exclusive milliseconds, rounded to the microsecond."""
    return {key: round(s * 1e3, 3) for key, s in found.exclusive().items()}


def assert_closed(found: Attribution, trace: Trace) -> None:
    assert all(s.end > s.start for s in found.segments)
    assert all(a.end == b.start for a, b in itertools.pairwise(found.segments))
    if found.segments:
        assert found.segments[0].start == trace.start
        assert found.segments[-1].end == trace.end
    assert math.fsum(found.exclusive().values()) == pytest.approx(trace.end - trace.start, abs=1e-9)
    assert exclusive(trace) == found.exclusive()
    assert all(s >= 0 for table in (found.off_path, found.slack, found.free_slack) for s in table.values())


# ---- random traces


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Random visits, rows inside and outside them, any edges (circles too), streaming overlaps."""
    instant = st.integers(-2, 30).map(lambda n: 100.0 + n / 7) | st.floats(99.0, 104.0, allow_nan=False)
    pair = st.tuples(instant, instant).map(sorted)
    step = st.sampled_from([*STEPS, ""])
    trace = Trace(100.0)
    trace.end = draw(st.floats(100.0, 104.0))
    for name in draw(st.lists(st.sampled_from(STEPS), max_size=8)):
        trace.add(name, VISIT, *draw(pair))
    for name, cause in draw(st.lists(st.tuples(step, st.sampled_from(ROW_CAUSES)), max_size=20)):
        trace.add(name, cause, *draw(pair))
    names = st.sampled_from([*STEPS, "m", "skipped"])
    ups = st.lists(names, max_size=3, unique=True).map(tuple)
    trace.edges = draw(st.dictionaries(names, ups, max_size=7))
    trace.order = draw(st.dictionaries(names, ups, max_size=4))
    trace.outputs = tuple(draw(st.lists(names, max_size=2)))
    trace.first_output = draw(st.none() | st.floats(100.0, 104.0))
    return trace


@given(traces())
@settings(max_examples=100, deadline=None)
def test_segments_tile_every_trace_exactly(trace: Trace) -> None:
    found = attribute(trace)
    assert_closed(found, trace)
    causes = {cause for _, cause in found.exclusive()}
    assert causes <= set(CAUSES)


@given(traces(), st.tuples(st.floats(99.0, 104.0), st.floats(99.0, 104.0)).map(sorted))
@settings(max_examples=200, deadline=None)
def test_a_trace_with_one_visit_needs_no_graph(trace: Trace, visit: tuple[float, float]) -> None:
    """It is worked out by one sweep, to the last bit as by the walk."""
    trace.rows = [row for row in trace.rows if row[1] != VISIT]
    trace.add(STEPS[0], VISIT, *visit)
    assert exclusive(trace) == attribute(trace).exclusive()


@given(traces())
@settings(max_examples=60, deadline=None)
def test_an_owner_really_had_a_row_at_that_instant(trace: Trace) -> None:
    for start, end, step, cause in attribute(trace).segments:
        if cause != "unattributed":
            rows = [r for r in trace.rows if r[:2] == (step, cause)]
            assert any(r[2] <= start and end <= r[3] for r in rows) or _covered(rows, start, end)
        elif step:
            visits = [r for r in trace.rows if r[:2] == (step, VISIT)]
            assert _covered(visits, start, end)


def _covered(rows: list[Row], start: float, end: float) -> bool:
    at = start
    for _, _, low, high in sorted(rows, key=lambda r: r[2]):
        if low <= at:
            at = max(at, high)
    return at >= end


@given(traces(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rows_does_not_matter(trace: Trace, shuffle: random.Random) -> None:
    visits = dict.fromkeys(r for r in trace.rows if r[1] == VISIT)
    unique = {r[2:]: r for r in trace.rows if r not in visits}  # of equal intervals the later one wins
    trace.rows = [*visits, *unique.values()]
    before = attribute(trace)
    shuffle.shuffle(trace.rows)
    after = attribute(trace)
    assert after.segments == before.segments
    assert after.off_path == pytest.approx(before.off_path)
    assert after.slack == pytest.approx(before.slack)


@given(traces())
@settings(max_examples=60, deadline=None)
def test_the_first_output_has_its_own_closed_books(trace: Trace) -> None:
    segments = attribute_first_output(trace)
    if trace.first_output is None:
        assert segments == []
        return
    until = min(trace.first_output, trace.end)
    assert sum(totals(segments).values()) == pytest.approx(until - trace.start, abs=1e-9)
    assert all(s.end > s.start for s in segments)


@given(traces())
@settings(max_examples=60, deadline=None)
def test_an_observed_trace_closes_too(trace: Trace) -> None:
    trace.edges = {}
    trace.order = {}
    assert_closed(attribute(trace), trace)


@given(
    st.lists(st.tuples(st.sampled_from(ROW_CAUSES), st.floats(0, 10), st.floats(0, 10)), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_inside_a_visit_the_innermost_working_row_owns(rows: list[tuple[str, float, float]]) -> None:
    trace = Trace(0.0)
    trace.end = 10.0
    trace.add("only", VISIT, 0.0, 10.0)
    for cause, start, end in rows:
        trace.add("only", cause, min(start, end), max(start, end))
    for segment in attribute(trace).segments:
        instant = (segment.start + segment.end) / 2
        if not segment.start < instant < segment.end:
            continue
        assert segment.cause == _innermost(trace.rows[1:], instant)


def _innermost(rows: list[Row], instant: float) -> str:
    """The rule of the docstring, written as one sorted list."""
    here = [(i, r) for i, r in enumerate(rows) if r[2] <= instant < r[3]]
    key = {i: ({"user": 2}.get(r[1], r[1] in WAITING), -r[2], r[3], -i) for i, r in here}
    return min(here, key=lambda item: key[item[0]])[1][1] if here else "unattributed"


@st.composite
def schedules(draw: st.DrawFn) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """A random graph of ten steps at most, and how long each works, in ms."""
    names = [f"s{i}" for i in range(draw(st.integers(1, 10)))]
    edges = {
        n: tuple(draw(st.lists(st.sampled_from(names[:i]), max_size=3, unique=True))) if i else ()
        for i, n in enumerate(names)
    }
    used = {up for ups in edges.values() for up in ups}
    edges[names[-1]] = tuple(sorted({*edges[names[-1]], *(n for n in names[:-1] if n not in used)}))
    return edges, {name: draw(st.integers(1, 50)) for name in names}


def run(edges: dict[str, tuple[str, ...]], work: dict[str, int], delayed: str = "", by: float = 0.0) -> Trace:
    """What a machine with enough cores does: each step starts when its inputs are there."""
    end: dict[str, float] = {}
    trace = Trace(0.0)
    for step, ups in edges.items():
        start = max((end[up] for up in ups), default=0.0)
        end[step] = start + work[step] / 1024 + (by if step == delayed else 0.0)
        trace.add(step, VISIT, start, end[step])
        trace.add(step, "compute", start, end[step])
    last = [*edges][-1]
    trace.edges, trace.outputs, trace.end = edges, (last,), end[last]
    return trace


@given(schedules(), st.data())
@settings(max_examples=100, deadline=None)
def test_slack_is_exactly_what_a_step_can_be_late(
    schedule: tuple[dict[str, tuple[str, ...]], dict[str, int]], data: st.DataObject
) -> None:
    edges, work = schedule
    trace = run(edges, work)
    found = attribute(trace)
    assert found.unattributed == 0
    step = data.draw(st.sampled_from([*edges]))
    slack = found.slack[step]
    if step in found.path:
        assert slack == 0
    assert run(edges, work, step, slack).end == pytest.approx(trace.end, abs=1e-9)
    assert run(edges, work, step, slack + 1.0).end == pytest.approx(trace.end + 1.0, abs=1e-9)


# ---- hand-made traces


def chain() -> list[tuple[str, str, float, float]]:
    return [
        ("", "admission", 0, 2),
        ("a", VISIT, 2, 12),
        ("a", "compute", 3, 12),
        ("a", "queue", 2, 3),
        ("b", VISIT, 12.5, 20),
        ("b", "decode", 12.5, 15),
        ("b", "compute", 15, 19),
    ]


def test_a_chain_is_read_row_by_row() -> None:
    trace = make(chain(), end=21, edges={"b": ("a",)}, outputs=("b",))
    assert owners(attribute(trace)) == {
        ("", "admission"): 2,
        ("a", "queue"): 1,
        ("a", "compute"): 9,
        ("", "unattributed"): 1.5,
        ("b", "decode"): 2.5,
        ("b", "compute"): 4,
        ("b", "unattributed"): 1,
    }


@pytest.mark.parametrize("cause", ROW_CAUSES)
def test_an_injected_delay_moves_only_its_own_row(cause: str) -> None:
    rows = [*chain(), ("b", cause, 19, 20)]
    before = owners(attribute(make(rows, end=21, edges={"b": ("a",)}, outputs=("b",))))
    rows = [*chain()[:4], *((s, c, x + 7 * (x >= 19), y + 7 * (y >= 20)) for s, c, x, y in chain()[4:])]
    rows.append(("b", cause, 19, 27))
    after = owners(attribute(make(rows, end=28, edges={"b": ("a",)}, outputs=("b",))))
    moved = {k: round(after.get(k, 0) - before.get(k, 0), 3) for k in {*before, *after}}
    assert {k: v for k, v in moved.items() if v} == {("b", cause): 7}


def test_an_injected_delay_that_nobody_records_is_unattributed() -> None:
    rows = [(s, c, x + 30 * (x > 12), y + 30 * (y > 12)) for s, c, x, y in chain()]
    found = attribute(make(rows, end=51, edges={"b": ("a",)}, outputs=("b",)))
    assert owners(found)["", "unattributed"] == 31.5
    assert found.unattributed == pytest.approx(32.5 * MS)


def diamond() -> Trace:
    rows = [
        ("a", VISIT, 0, 10),
        ("a", "compute", 0, 10),
        ("b", VISIT, 10, 40),
        ("b", "compute", 10, 40),
        ("c", VISIT, 10, 25),
        ("c", "queue", 10, 15),
        ("c", "compute", 15, 25),
        ("e", VISIT, 25, 30),
        ("e", "compute", 25, 30),
        ("d", VISIT, 40, 50),
        ("d", "compute", 40, 50),
    ]
    edges = {"b": ("a",), "c": ("a",), "e": ("c",), "d": ("b", "e")}
    return make(rows, end=50, edges=edges, outputs=("d",))


def test_a_parallel_branch_is_off_the_path_and_has_slack() -> None:
    found = attribute(diamond())
    assert found.path == ["a", "b", "d"]
    assert owners(found) == {("a", "compute"): 10, ("b", "compute"): 30, ("d", "compute"): 10}
    assert {k: round(s * 1e3, 6) for k, s in found.off_path.items()} == {
        ("c", "compute"): 10,
        ("e", "compute"): 5,
    }
    slack = {k: round(s * 1e3, 6) for k, s in found.slack.items()}
    assert slack == {"a": 0, "b": 0, "c": 10, "e": 10, "d": 0}
    assert {k: round(s * 1e3, 6) for k, s in found.free_slack.items()} == {
        "a": 0,
        "b": 0,
        "c": 0,
        "e": 10,
        "d": 0,
    }


def test_using_up_the_slack_does_not_move_the_end_and_one_more_does() -> None:
    trace = diamond()
    trace.rows = [r if r[0] != "e" else (*r[:3], r[3] + 10 * MS) for r in trace.rows]
    found = attribute(trace)
    assert found.slack["e"] == pytest.approx(0, abs=1e-12)
    assert found.wall == pytest.approx(50 * MS)


def streaming(edges: dict[str, tuple[str, ...]]) -> Trace:
    rows = [
        ("ask", VISIT, 0, 5),
        ("ask", "compute", 0, 5),
        ("llm", VISIT, 5, 60),
        ("llm", "queue", 5, 10),
        ("llm", "prefill", 10, 30),
        ("llm", "tokens", 30, 60),
        ("speak", VISIT, 5, 80),
        ("speak", "assemble", 5, 40),
        ("speak", "compute", 40, 50),
        ("speak", "assemble", 50, 62),
        ("speak", "compute", 62, 80),
    ]
    return make(rows, end=80, edges=edges, outputs=("speak",), first_output=50)


STREAM = {"llm": ("ask",), "speak": ("llm",)}


def test_a_wait_for_a_stream_is_handed_to_whoever_feeds_it() -> None:
    found = attribute(streaming(STREAM))
    assert owners(found) == {
        ("ask", "compute"): 5,
        ("llm", "queue"): 5,
        ("llm", "prefill"): 20,
        ("llm", "tokens"): 20,  # 30..40 and 50..60
        ("speak", "compute"): 28,
        ("speak", "assemble"): 2,  # the stream had ended
    }
    assert found.path == ["ask", "llm", "speak"]
    assert found.slack == {"ask": 0, "llm": 0, "speak": 0}
    assert round(found.off_path["llm", "tokens"] * 1e3, 6) == 10


def test_without_edges_a_stream_is_handed_to_whoever_works() -> None:
    assert owners(attribute(streaming({})))["llm", "tokens"] == 20
    assert owners(attribute(streaming({})))["ask", "compute"] == 5


def test_the_first_output_of_a_stream() -> None:
    segments = attribute_first_output(streaming(STREAM))
    parts = {key: round(s * 1e3, 3) for key, s in totals(segments).items()}
    assert parts == {
        ("ask", "compute"): 5,
        ("llm", "queue"): 5,
        ("llm", "prefill"): 20,
        ("llm", "tokens"): 10,
        ("speak", "compute"): 10,
    }


def test_a_wait_is_handed_on_past_a_step_that_has_not_begun() -> None:
    rows = [
        ("a", VISIT, 0, 10),
        ("a", "compute", 0, 10),
        ("b", VISIT, 10, 20),
        ("b", "compute", 10, 20),
        ("c", VISIT, 0, 25),
        ("c", "assemble", 0, 20),
        ("c", "compute", 20, 25),
    ]
    trace = make(rows, end=25, edges={"b": ("a",), "c": ("b",)}, outputs=("c",))
    assert owners(attribute(trace)) == {("a", "compute"): 10, ("b", "compute"): 10, ("c", "compute"): 5}


def test_a_producer_that_does_not_say_what_it_does_is_unattributed() -> None:
    rows = [("a", VISIT, 0, 10), ("b", VISIT, 0, 12), ("b", "assemble", 0, 10), ("b", "compute", 10, 12)]
    trace = make(rows, end=12, edges={"b": ("a",)}, outputs=("b",))
    assert owners(attribute(trace)) == {("a", "unattributed"): 10, ("b", "compute"): 2}


def test_a_skipped_step_stands_for_its_own_upstream() -> None:
    rows = [("a", VISIT, 0, 10), ("a", "compute", 0, 10), ("c", VISIT, 10, 12), ("c", "compute", 10, 12)]
    trace = make(rows, end=12, edges={"b": ("a",), "c": ("b",)}, outputs=("c",))
    assert attribute(trace).path == ["a", "c"]


def test_steps_that_the_plan_runs_in_turn_are_all_on_the_path() -> None:
    rows = []
    for place, step in enumerate(["a", "b", "c", "d"]):  # only d uses the others
        rows += [(step, VISIT, 10 * place, 10 * place + 10), (step, "compute", 10 * place, 10 * place + 10)]
    found = attribute(make(rows, end=40, edges={"d": ("a", "b", "c")}, outputs=("d",)))
    assert found.path == ["a", "b", "c", "d"]
    assert set(found.slack.values()) == {0}


def test_a_short_gap_is_not_explained_by_a_neighbour() -> None:
    rows = [
        ("a", VISIT, 0, 10),
        ("a", "compute", 0, 10),
        ("b", VISIT, 0, 10.4),
        ("b", "compute", 0, 10.4),
        ("c", VISIT, 10.5, 12),
        ("c", "compute", 10.5, 12),
    ]
    found = attribute(make(rows, end=12, edges={"b": (), "c": ("a",)}, outputs=("c",)))
    assert found.path == ["a", "c"]
    assert owners(found)["", "unattributed"] == 0.5


def test_an_engine_row_owns_what_a_visit_leaves_open_but_nothing_else() -> None:
    rows = [("a", VISIT, 0, 10), ("a", "compute", 2, 6), ("", "loop", 1, 8), ("", "load", 10, 11)]
    found = attribute(make(rows, end=12, outputs=("a",)))
    assert owners(found) == {
        ("a", "unattributed"): 3,
        ("", "loop"): 3,
        ("a", "compute"): 4,
        ("", "load"): 1,
        ("", "unattributed"): 1,
    }


def test_members_of_a_map_share_the_edges_of_their_step() -> None:
    rows = [("cut", VISIT, 0, 4), ("cut", "compute", 0, 4)]
    for i in range(3):
        rows += [(f"m[{i}]", VISIT, 4, 10 + i), (f"m[{i}]", "compute", 4, 10 + i)]
    rows += [("join", VISIT, 12, 14), ("join", "compute", 12, 14)]
    found = attribute(make(rows, end=14, edges={"m": ("cut",), "join": ("m",)}, outputs=("join",)))
    assert found.path == ["cut", "m[2]", "join"]
    assert round(found.slack["m[0]"] * 1e3, 6) == 2


def test_zero_length_visits_and_rows_own_nothing_but_lead_on() -> None:
    rows = [("a", VISIT, 0, 8), ("a", "compute", 0, 8), ("b", VISIT, 8, 8), ("b", "lookup", 8, 8)]
    found = attribute(make(rows, end=8, edges={"b": ("a",)}, outputs=("b",)))
    assert owners(found) == {("a", "compute"): 8}
    assert found.slack == {"a": 0, "b": 0}


def test_an_empty_trace_and_an_instant_one() -> None:
    assert owners(attribute(make([], end=3))) == {("", "unattributed"): 3}
    instant = attribute(make([("a", VISIT, 0, 0)], end=0, outputs=("a",)))
    assert (instant.segments, instant.wall) == ([], 0)


def test_rows_that_are_not_intervals_are_ignored() -> None:
    trace = make([("a", VISIT, 0, 3), ("a", "compute", 2, 1), ("a", "compute", math.nan, 2)], end=3)
    assert owners(attribute(trace)) == {("a", "unattributed"): 3}


def test_ten_thousand_tokens_are_read_in_few_steps() -> None:
    """Counts segments, not seconds: the walk must neither lose nor multiply the rows of a long stream."""
    rows = [("llm", VISIT, 0, 10000), ("say", VISIT, 0, 10001)]
    for i in range(10000):
        rows.append(("llm", "tokens" if i % 2 else "loop", i, i + 1))
        rows.append(("say", "assemble", i, i + 1))
    trace = make(rows, end=10001, edges={"say": ("llm",)}, outputs=("say",))
    found = attribute(trace)
    assert_closed(found, trace)
    assert len(found.segments) == 10001
    assert owners(found)["llm", "tokens"] == 5000


def test_a_thousand_steps_in_a_row_do_not_exhaust_the_stack() -> None:
    names = [f"s{i}" for i in range(3000)]
    rows = [row for i, n in enumerate(names) for row in ((n, VISIT, 0, i + 1), (n, "assemble", 0, i + 1))]
    edges = {after: (before,) for before, after in itertools.pairwise(names)}
    rows[1] = ("s0", "compute", 0, 1)
    trace = make(rows[:600], end=300, edges=dict(list(edges.items())[:299]), outputs=("s299",))
    assert_closed(attribute(trace), trace)
    observed = make([r for r in rows if r[1] == VISIT], end=3000)
    assert_closed(attribute(observed), observed)


def test_every_cause_has_a_source() -> None:
    assert set(SOURCES) == set(CAUSES)
    assert set(CAUSES) > WAITING


@pytest.mark.parametrize(
    ("spent", "outputs", "cut"),
    [
        ([("answer", "output_tokens"), ("answer", "cut_answers")], ("answer",), True),
        (
            [("sort", "output_tokens"), ("sort", "cut_answers"), ("answer", "output_tokens")],
            ("answer",),
            False,
        ),
        ([("sort", "cut_answers"), ("answer", "shared_output_tokens")], (), False),
        ([("say[1]", "cut_answers"), ("beside", "output_tokens")], ("say",), True),
        ([("turn", "output_tokens"), ("turn", "cut_answers"), ("turn", "output_tokens")], (), False),
        ([("words", "output_tokens"), ("words", "cut_answers"), ("reply", "input_tokens")], ("reply",), True),
        ([], ("answer",), False),
    ],
)
def test_an_answer_is_cut_where_its_step_or_the_last_that_spoke_was(
    spent: list[tuple[str, str]], outputs: tuple[str, ...], cut: bool
) -> None:
    trace = make([], end=1.0, outputs=outputs)
    for step, unit in spent:
        trace.spend(step, unit, 1.0)
    assert trace.cut is cut
