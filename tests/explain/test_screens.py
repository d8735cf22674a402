"""The screens: golden text, exact sums as printed, safe HTML, and a trace that viewers can open."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from explain import scenes
from tauten.errors import NotFound
from tauten.explain import exports
from tauten.explain.account import Ablation, Account, Comparison, Header, account, compare
from tauten.explain.html import to_html
from tauten.explain.notebook import Explanation
from tauten.explain.text import compare_text, to_text
from tauten.run.trace import VISIT, Trace

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m</title>"


def comparison() -> Comparison:
    changes = [
        Ablation("run ocr, classify beside transcribe", -299, -402, "same bytes"),
        Ablation("reuse the prompt's prefix", -371),
    ]
    return compare(scenes.sequential_account(), scenes.parallel_account(), ablation=changes)


SCREENS = {
    "sequential": lambda: to_text(scenes.sequential_account()),
    "sequential_80_all": lambda: to_text(scenes.sequential_account(), width=80, all_rows=True),
    "parallel": lambda: to_text(scenes.parallel_account()),
    "parallel_56": lambda: to_text(scenes.parallel_account(), width=56),
    "streaming": lambda: to_text(scenes.streaming_account()),
    "comparison": lambda: compare_text(comparison()),
}
WIDTHS = {"sequential_80_all": 80, "parallel_56": 56}


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_is_the_golden_one(name: str) -> None:
    """After a change that is meant: TAUTEN_WRITE_GOLDEN=1 pytest, then read the difference."""
    path, seen = GOLDEN / f"{name}.txt", SCREENS[name]()
    if os.environ.get("TAUTEN_WRITE_GOLDEN"):
        path.write_text(seen, encoding="utf-8")
    assert seen == path.read_text(encoding="utf-8")
    assert max(map(len, seen.splitlines())) <= WIDTHS.get(name, 96)


@pytest.mark.parametrize("name", ["sequential", "sequential_80_all", "parallel", "parallel_56", "streaming"])
def test_printed_rows_add_up_to_the_printed_total(name: str) -> None:
    lines = SCREENS[name]().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("   stage "))
    last = next(i for i, line in enumerate(lines) if line.startswith("   total "))
    column = lines[first].index(" ms") + 3

    def figure(line: str) -> int:
        cell = line[:column].split()[-1]
        return 0 if cell == "-" else int(cell)

    assert sum(figure(line) for line in lines[first + 1 : last - 1]) == figure(lines[last])
    sources = next(i for i, line in enumerate(lines) if line.startswith("   model "))
    figures = [int(n) for n in re.findall(r"\d+", " ".join(lines[sources : sources + 2]).split("First")[0])]
    assert sum(figures[:-1]) == figures[-1] == figure(lines[last])


def test_the_printed_differences_add_up() -> None:
    rows = re.findall(r"^   (\S.*?)  +(\d+|-) +(\d+|-) +([+-]?\d+)", compare_text(comparison()), re.M)
    cells = [[0 if c == "-" else int(c) for c in row[1:]] for row in rows]
    assert [sum(column) for column in zip(*cells[:-1], strict=True)] == cells[-1]


def hostile() -> Account:
    trace = Trace(0.0)
    trace.end = 1.0
    trace.add(HOSTILE, VISIT, 0.0, 0.9)
    trace.add(HOSTILE, "compute", 0.0, 0.9)
    trace.outputs = (HOSTILE,)
    trace.spend(HOSTILE, HOSTILE, 1.0)
    trace.notes[HOSTILE] = HOSTILE
    header = Header(
        workflow=HOSTILE, plan=HOSTILE, machine=HOSTILE, load=HOSTILE, request=HOSTILE, graph=HOSTILE
    )
    return account(trace, header=header)


class _Page(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in {"meta", "rect", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"rect", "path"} or self.open[-1:] == [tag]:
            assert tag in {"rect"} or self.open.pop() == tag


def pages() -> dict[str, Account | Comparison]:
    odd = hostile()
    return {
        "one": scenes.sequential_account(),
        "streaming": scenes.streaming_account(),
        "two": comparison(),
        "hostile": odd,
        "hostile two": compare(odd, odd, name_a=HOSTILE, ablation=[Ablation(HOSTILE, 1.0, None, HOSTILE)]),
    }


@pytest.mark.parametrize("name", pages())
def test_the_page_is_whole_safe_and_fetches_nothing(name: str) -> None:
    text = to_html(pages()[name])
    page = _Page(text)
    assert page.tags.isdisjoint(
        {"script", "link", "img", "iframe", "object", "image", "use", "foreignobject"}
    )
    assert not page.open
    assert not any(key.startswith("on") or key in {"src", "href", "style"} for key, _ in page.attributes)
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    assert "<script" not in text
    assert len(text.encode()) < 150_000


def test_the_page_allows_only_its_own_style() -> None:
    text = to_html(scenes.sequential_account())
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text


def test_no_figure_of_a_long_request_has_an_exponent() -> None:
    trace = scenes.make([("slow", VISIT, 0, 25_000), ("slow", "compute", 0, 25_000)], 25_000)
    picture = to_html(account(trace)).partition('<svg class="tau-fall"')[2]
    assert "6250 ms</text>" in picture
    assert "25,000 ms</text>" in picture
    assert "compute, about 25,000 ms" in picture
    assert "e+" not in picture


def test_what_takes_as_long_is_as_fast() -> None:
    same = scenes.parallel_account()
    assert "is as fast on these two requests" in compare_text(compare(same, same))


def test_hostile_names_reach_no_terminal() -> None:
    for text in (to_text(hostile()), compare_text(compare(hostile(), hostile()))):
        assert "\x1b" not in text


def test_the_largest_page_of_a_long_stream_stays_small() -> None:
    trace = Trace(0.0)
    trace.end = 600.0
    for lane in range(30):
        trace.add(f"step{lane}", VISIT, 0.0, 600.0)
        for i in range(300):
            cause = ("compute", "decode", "queue")[i % 3]
            trace.add(f"step{lane}", cause, 2.0 * i, 2.0 * i + 1.5)
    trace.edges = {"step0": ()}
    assert len(to_html(account(trace)).encode()) < 150_000
    assert len(Explanation(account(trace))._repr_html_().encode()) < 60_000


def test_a_notebook_shows_a_chart_and_a_terminal_the_screen() -> None:
    shown = Explanation(scenes.sequential_account())
    assert str(shown) == to_text(scenes.sequential_account())
    assert str(Explanation(comparison())) == compare_text(comparison())
    markup = shown._repr_html_()
    assert markup.count("<svg") > 2
    assert "<html" not in markup
    assert len(Explanation(comparison())._repr_html_().encode()) < 60_000
    assert shown._repr_json_()["schema"] == "tauten.explain/1"


def test_every_stage_of_a_parallel_request_is_drawn() -> None:
    text = to_html(scenes.parallel_account())
    assert text.count('class="lane"') == 7
    assert 'class="bar off"' in text
    assert "hidden behind the path" in text


# ---- Perfetto


class _Common(msgspec.Struct, tag_field="ph", kw_only=True):
    name: str
    pid: int
    tid: int


class _Meta(_Common, tag="M"):
    args: dict[str, str]


class _Slice(_Common, tag="X"):
    cat: str
    ts: float
    dur: float
    args: dict[str, Any]


class _Begin(_Common, tag="b"):
    cat: str
    id: str
    ts: float
    args: dict[str, Any]


class _End(_Common, tag="e"):
    cat: str
    id: str
    ts: float


class _Leave(_Common, tag="s"):
    cat: str
    id: str
    ts: float


class _Arrive(_Common, tag="f"):
    cat: str
    id: str
    ts: float
    bp: str


class _Instant(_Common, tag="i"):
    cat: str
    ts: float
    s: str


class _File(msgspec.Struct, forbid_unknown_fields=True):
    traceEvents: list[_Meta | _Slice | _Begin | _End | _Leave | _Arrive | _Instant]  # noqa: N815
    displayTimeUnit: str  # noqa: N815
    otherData: dict[str, str]  # noqa: N815


def exported() -> _File:
    traces = {"r1": scenes.sequential(), "r2": scenes.parallel(), "r3": scenes.streaming()}
    text = exports.find("perfetto").export(traces, workflow="help_desk")
    assert json.loads(text)["displayTimeUnit"] == "ms"
    return msgspec.json.decode(text, type=_File)


def test_the_shelf_names_its_exporters() -> None:
    assert "perfetto" in exports.names()
    assert exports.find("perfetto").suffix == ".trace.json"
    with pytest.raises(NotFound, match="perfeto") as caught:
        exports.find("perfeto")
    assert "perfetto" in caught.value.help


def test_perfetto_events_follow_the_schema_and_nest() -> None:
    depth: dict[str, list[str]] = defaultdict(list)
    at: dict[str, float] = {}
    for event in exported().traceEvents:
        if isinstance(event, _Begin | _End):
            assert event.ts >= at.get(event.id, 0.0)
            at[event.id] = event.ts
            if isinstance(event, _Begin):
                depth[event.id].append(event.name)
            else:
                assert depth[event.id].pop() == event.name
    assert set(depth) == {"r1", "r2", "r3"}
    assert not any(depth.values())


def test_perfetto_slices_of_a_track_nest() -> None:
    tracks: dict[tuple[int, int], list[_Slice]] = defaultdict(list)
    for event in exported().traceEvents:
        if isinstance(event, _Slice):
            tracks[event.pid, event.tid].append(event)
    for slices in tracks.values():
        visits = [s for s in slices if s.cat == "visit"]
        for one, two in itertools.pairwise(visits):
            assert one.ts + one.dur <= two.ts + 1e-3
        for part in slices:
            assert any(v.ts - 1e-3 <= part.ts and part.ts + part.dur <= v.ts + v.dur + 1e-3 for v in visits)


def test_perfetto_arrows_leave_and_arrive_inside_visits() -> None:
    events = exported().traceEvents
    visits = [e for e in events if isinstance(e, _Slice) and e.cat == "visit"]
    ends = [e for e in events if isinstance(e, _Leave | _Arrive)]
    assert {e.id for e in ends if isinstance(e, _Leave)} == {e.id for e in ends if isinstance(e, _Arrive)}
    assert len(ends) >= 2 * 10
    for end in ends:
        here = [v for v in visits if (v.pid, v.tid) == (end.pid, end.tid)]
        assert any(v.ts <= end.ts <= v.ts + v.dur for v in here)


def test_perfetto_arrows_lead_to_the_members_of_a_map_and_from_them() -> None:
    events = exported().traceEvents
    named = {(e.pid, e.tid): e.name for e in events if isinstance(e, _Slice) and e.cat == "visit"}
    left = {e.id: named[e.pid, e.tid] for e in events if isinstance(e, _Leave)}
    arrows = {(left[e.id], named[e.pid, e.tid]) for e in events if isinstance(e, _Arrive)}
    assert {("photo:pixels", f"classify[{n}]") for n in range(3)} <= arrows
    assert any(producer.startswith("classify[") and consumer == "quote" for producer, consumer in arrows)


@pytest.mark.parametrize("page", ["explain.md", "extend/exporter.md"])
def test_the_code_on_the_page_runs(page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(compile(block, page, "exec"), names)
    if "export" in names:
        lines = names["export"]({"r1": scenes.parallel()}, workflow="desk").splitlines()
        assert lines[1].startswith("desk,r1,0.0,0.2,,unattributed")
    else:
        assert names["seen"].wall_ms == pytest.approx(10)


def test_the_screen_on_the_page_is_the_real_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "explain.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(.*?)```", text, re.S)
    real = [line for line in SCREENS["parallel"]().splitlines() if not line.startswith("   ·")]
    assert shown is not None
    assert "\n".join(real).count(shown[1].rstrip("\n")) == 1
