"""The help desk under its tuned plan on real models: answers, order of the reply, and books that close."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tauten.cli.main import run
from tauten.examples.help_desk import tour
from tauten.examples.help_desk.desk import Reply, help_desk
from tauten.examples.help_desk.manual import ensure_manual
from tauten.examples.help_desk.recording import recording
from tauten.improve.quality import Outcome
from tauten.improve.recording import Item
from tauten.improve.replay import Served, replay
from tauten.run.engine import Engine

pytestmark = pytest.mark.models

SCREEN = "held_out/circle/0/screen-typed"
SPOKEN = "dev/question/0/spoken"
PICTURE = "dev/shop/picture-only"
REFUSED = "dev/near/0"
CHOSEN = (SCREEN, SPOKEN, PICTURE, REFUSED)
CLOSED_MS = 0.1  # what rounding may leave between the books and the wall time


@pytest.fixture(scope="module")
def items() -> dict[str, Item]:
    found = {item.id: item for item in recording(quick=True) if item.id in CHOSEN}
    assert len(found) == len(CHOSEN)
    return found


@pytest.fixture(scope="module")
def served(items: dict[str, Item]) -> dict[str, Served]:
    """The four requests, one after another, through one engine."""
    ensure_manual()

    async def serve() -> dict[str, Served]:
        async with Engine() as engine:
            name = await engine.open(help_desk, tour.plans()[1])
            done = await replay(engine, name, [(id, items[id].inputs) for id in CHOSEN])
            return {each.id: each for each in done.served}

    return asyncio.run(serve())


def outcome(items: dict[str, Item], served: dict[str, Served], id: str) -> Outcome:
    return tour.judge(items[id], served[id])


def first(served: Served) -> Reply:
    assert isinstance(served.values[0], Reply)
    return served.values[0]


@pytest.mark.parametrize("id", CHOSEN)
def test_the_books_close(id: str, served: dict[str, Served]) -> None:
    one = served[id]
    assert one.error is None
    exclusive = one.attribution.exclusive()
    assert all(seconds >= 0 for seconds in exclusive.values())
    assert one.attribution.unattributed >= 0
    assert abs(sum(exclusive.values()) * 1e3 - one.wall_ms) < CLOSED_MS


@pytest.mark.parametrize("id", CHOSEN)
def test_the_answer_comes_before_the_words(id: str, served: dict[str, Served]) -> None:
    answer, *words = served[id].values
    assert answer.answer is not None
    assert all(part.answer is None and part.words for part in words)
    assert served[id].first_output_ms is not None
    assert served[id].first_output_ms <= served[id].wall_ms


def test_the_exception_on_a_screen_is_answered(items: dict[str, Item], served: dict[str, Served]) -> None:
    answer = first(served[SCREEN]).answer
    assert answer is not None
    assert "NameError" in " ".join([*answer.titles, answer.text])
    assert outcome(items, served, SCREEN).correct


def test_a_picture_alone_is_answered(items: dict[str, Item], served: dict[str, Served]) -> None:
    answer = first(served[PICTURE]).answer
    assert answer is not None
    assert "KeyError" in " ".join([*answer.titles, answer.text])
    assert not any(stay.step == "transcribe" for stay in served[PICTURE].attribution.stays)


def test_a_spoken_question_is_heard(served: dict[str, Served]) -> None:
    answer = first(served[SPOKEN]).answer
    assert answer is not None
    assert answer.found
    assert answer.url
    steps = {stay.step for stay in served[SPOKEN].attribution.stays}
    assert "transcribe" in steps
    assert "ocr" not in steps


def test_what_the_manual_does_not_hold_is_refused(items: dict[str, Item], served: dict[str, Served]) -> None:
    answer = first(served[REFUSED]).answer
    assert answer is not None
    assert not answer.found
    assert outcome(items, served, REFUSED).correct
    assert served[REFUSED].values[1:] == []  # the language model is not asked


def test_tokens_are_counted(served: dict[str, Served]) -> None:
    units = {unit for _, unit, amount in served[SCREEN].trace.spent if amount > 0}
    assert any("token" in unit for unit in units)


# -- the demo --------------------------------------------------------------------------------------------

SOURCES = {"model", "preparation", "network", "contention", "io"}
ROW = {"stage", "cause", "source", "exclusive_ms", "off_path_ms", "slack_ms", "estimate_ms"}
QUALITY = {"hit_at_1", "hit_at_3", "correct", "refused_right", "n"}


def test_the_demo_writes_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "demo.json", tmp_path / "demo.html"
    assert run(["demo", "--requests", "2", "--no-ablation", "--json", str(out), "--html", str(page)]) == 0
    assert "times faster" in capsys.readouterr().out
    assert "naive" in page.read_text()
    document = json.loads(out.read_text())
    assert document["ablation"] == []
    assert [plan["plan"] for plan in document["plans"]] == ["naive", "tuned"]
    for plan in document["plans"]:
        check(plan)


def check(plan: dict[str, Any]) -> None:
    assert plan["requests"] == 2
    for name in ("wall_ms", "first_output_ms", "unattributed_ms"):
        assert 0 <= plan[name]["p50"] <= plan[name]["p95"]
    assert set(plan["sources"]) == SOURCES
    assert set(plan["quality"]) >= QUALITY
    assert plan["quality"]["n"] == 2
    assert plan["usage"]
    assert plan["worst_gap_ms"] < CLOSED_MS
    assert all(set(row) >= ROW for row in plan["rows"])
    booked = sum(row["exclusive_ms"] for row in plan["rows"])
    walls = plan["wall_ms"]
    assert (
        walls["p50"] - walls["p95"] - CLOSED_MS
        <= booked - walls["p50"]
        <= walls["p95"] - walls["p50"] + CLOSED_MS
    )
