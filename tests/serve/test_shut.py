"""A refusal that others share: under overload the door is asked now and then, and every request gets its own no."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from serve.kit_http import Peer, run
from serve.test_express import LEARNING, Watch, asked, empty, repeated, request, service_of, serving
from tauten.errors import Overloaded
from tauten.run.request import Asked
from tauten.serve.app import App
from tauten.serve.door import Call
from tauten.serve.observe.metrics import Metrics
from tauten.serve.oip import shut
from tauten.serve.oip.statistics import Statistics
from usage.kit_usage import quiet, rows

MANY = 6


class Full:
    """The door of a service, which lets nobody in from now on, and counts who asks it."""

    def __init__(self, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app, self.door = app, service_of(app).engine.door
        self.asked = 0
        self.before = self.door.refused

        def enter(path: object, request: Asked) -> bool:
            self.asked += 1
            self.door.refused += request.count == 1
            raise Overloaded("the queue is long", help="retry later", retry_after_s=0.05)

        monkeypatch.setattr(self.door, "enter", enter)

    @property
    def refused(self) -> int:
        return self.door.refused - self.before


@asynccontextmanager
async def full(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str] | None = None,
    shared_s: float = 60.0,
) -> AsyncIterator[tuple[Full, Peer]]:
    monkeypatch.setattr(shut, "SHARED_S", shared_s)
    monkeypatch.setattr(shut, "_OF_BUDGET", 60.0)
    async with serving(folder) as (app, peer):
        known = await repeated(peer, request(headers=headers), LEARNING + 1)
        assert [status for status, _, _ in known] == [200] * (LEARNING + 1)
        await empty(app)
        yield Full(app, monkeypatch), peer


def test_every_request_has_a_no_of_its_own_and_the_door_was_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with full(tmp_path, monkeypatch) as (found, peer):
            watch, metrics, statistics = Watch(), Metrics(found.app.site), Statistics()
            found.app.site.observers += [watch, metrics, statistics]
            found.door.book = book = quiet(tmp_path)
            answers = await repeated(peer, request(), MANY)
            await empty(found.app)
            first, *others = answers
            assert {status for status, _, _ in answers} == {429}
            assert {body for _, _, body in answers} == {first[2]}
            assert "the queue is long" in json.loads(first[2])["error"]
            for _, headers, _ in others:
                assert {**headers, "x-request-id": ""} == {**first[1], "x-request-id": ""}
                assert headers["retry-after-ms"] == "50"
            assert len({headers["x-request-id"] for _, headers, _ in answers}) == MANY
            assert (found.asked, found.refused) == (1, MANY)
            assert [(each.status, type(error)) for each, _, error, _ in watch.seen] == [
                (429, Overloaded)
            ] * MANY
            assert [id_of(call) for _, call, _, _ in watch.seen] == [
                each["x-request-id"] for _, each, _ in answers
            ]
            assert metrics.refusals.series["linear", "overloaded"] == MANY
            assert sum(n for (_, status), n in metrics.responses.series.items() if status == "429") == MANY
            assert statistics.of(service_of(found.app)).outcomes["fail"][0] == MANY
            assert [(line.ended, line.asked) for line in rows(book)] == [("refused", MANY)]

    run(main)


def id_of(call: Call | None) -> str:
    assert call is not None
    return call.id


def test_after_some_milliseconds_the_door_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with full(tmp_path, monkeypatch, shared_s=0.0) as (found, peer):
            assert [status for status, _, _ in await repeated(peer, request(), MANY)] == [429] * MANY
            assert (found.asked, found.refused) == (MANY, MANY)

    run(main)


@pytest.mark.parametrize(
    ("headers", "shares"),
    [
        ({"X-Tauten-Deadline-Ms": "900"}, True),
        ({"X-Tauten-Deadline-Ms": "1030"}, True),  # it would have needed 1050
        ({"X-Tauten-Deadline-Ms": "1100"}, False),  # it has more time
        ({}, False),  # its service says how much it has
    ],
)
def test_who_may_be_let_in_asks_himself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], shares: bool
) -> None:
    async def main() -> None:
        usual = {"X-Tauten-Deadline-Ms": "1000"}
        async with full(tmp_path, monkeypatch, usual) as (found, peer):
            monkeypatch.undo()
            await repeated(peer, request(headers=headers), LEARNING + 1)
            shut_again = Full(found.app, monkeypatch)
            monkeypatch.setattr(shut, "SHARED_S", 60.0)
            monkeypatch.setattr(shut, "_OF_BUDGET", 60.0)
            assert (await asked(peer, request(headers=usual)))[0] == 429
            assert (await asked(peer, request(headers=headers)))[0] == 429
            assert shut_again.asked == (1 if shares else 2)

    run(main)
