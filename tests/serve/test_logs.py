"""The log: one line a request, sampled, bounded, and without a word of what was asked or answered."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import io
import json
import threading
import traceback
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_stream import Client
from tauten.errors import InternalError
from tauten.serve.app import App, Site
from tauten.serve.door import Caller, Door
from tauten.serve.observe.logs import BURST, Logs, as_text
from tauten.serve.service import Service

SECRET = "sesame-4711"


@tt.stage(pure=True)
async def work(text: str) -> str:
    if text.startswith("bad"):
        raise ValueError(f"cannot {text}")
    await asyncio.sleep(60 if text.startswith("slow") else 0)
    return text


@tt.workflow
def flow(text: str) -> str:
    return work(text)


async def several(app: App) -> None:
    path = "/v1/workflows/flow"
    for text in ["good", "bad"]:
        await ask(app, "POST", path, {"inputs": {"text": f"{text} {SECRET}"}}, {"x-request-id": text})
    late = {"x-tauten-deadline-ms": "20"}
    await ask(app, "POST", path, {"inputs": {"text": f"slow {SECRET}"}}, late)
    await ask(app, "POST", path, {"inputs": {"text": f"slow {SECRET}"}}, leave_after_s=0.01)
    await ask(app, "POST", path, {"inputs": {SECRET: "x"}})
    await ask(app, "GET", f"/{SECRET}?q={SECRET}", b"", {"authorization": f"Bearer {SECRET}"})
    await ask(app, "GET", "/health/live")


@tt.workflow
async def humming(text: tt.Text) -> AsyncIterator[tt.Audio]:
    yield tt.Audio.from_array(np.zeros(2400, np.float32), 24000)
    raise ValueError(f"cannot say {text}")


def test_an_http_server_that_logs_what_broke_is_told_nothing_of_what_was_asked() -> None:
    async def main() -> None:
        out = io.StringIO()
        async with site(Service(humming), apis=["openai"]) as app:
            app.site.observers.append(Logs(sample=1.0, out=out))
            body = {"model": "humming", "voice": "x", "input": SECRET, "response_format": "pcm"}
            client = Client(app, "POST", "/v1/audio/speech", body, {"x-request-id": "r1"})
            with pytest.raises(InternalError, match="request r1") as broken:
                await client.done()
        assert (client.status, client.whole, len(client.body)) == (200, False, 4800)
        assert SECRET not in "".join(traceback.format_exception(broken.value))
        [line] = logged(out)
        assert (line["outcome"], line["raised"]) == ("failed", "ValueError")
        assert SECRET not in out.getvalue()

    asyncio.run(main())


def logged(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_says_what_the_server_did_and_nothing_of_what_was_asked() -> None:
    async def main() -> None:
        out = io.StringIO()
        door = Door(identify=lambda _: Caller("shop", "retail"))
        async with site(Service(flow), door=door, apis=["native", "operations"]) as app:
            app.site.observers.append(Logs(sample=1.0, out=out))
            await several(app)
            plan = app.site.services["flow"].plan_id
        lines = logged(out)
        assert [(line["status"], line["outcome"]) for line in lines] == [
            (200, "ok"),
            (500, "failed"),
            (504, "expired"),
            (499, "cancelled"),
            (400, "refused"),
            (404, "refused"),
        ]
        good, bad, late, _left, wrong, unknown = lines
        assert (good["id"], good["workflow"], good["plan"]) == ("good", "flow", plan)
        assert (good["key"], good["tenant"], good["ms"] >= good["first_ms"] > 0) == ("shop", "retail", True)
        assert (bad["code"], bad["raised"]) == ("E404", "ValueError")
        assert any(frame.startswith("test_logs.py:") for frame in bad["stack"])
        assert (late["reason"], late["code"]) == ("deadline", "E401")
        assert (wrong["route"], wrong["reason"], unknown["route"]) == ("workflow", "input", "none")
        assert unknown["id"]
        assert SECRET not in out.getvalue()

    asyncio.run(main())


def test_messages_are_shown_where_content_is_asked_for() -> None:
    async def main() -> None:
        out = io.StringIO()
        async with site(Service(flow), apis=["native", "operations"]) as app:
            app.site.observers.append(Logs(sample=1.0, content=True, out=out))
            await several(app)
        assert f"cannot bad {SECRET}" in logged(out)[1]["message"]

    asyncio.run(main())


def test_answers_that_went_well_are_sampled_and_the_rest_is_not() -> None:
    async def main() -> None:
        out = io.StringIO()
        async with site(Service(flow), apis=["native"]) as app:
            app.site.observers.append(Logs(sample=0.25, out=out, seed=1))
            for _ in range(200):
                await ask(app, "POST", "/v1/workflows/flow", {"inputs": {"text": "x"}})
            for _ in range(20):
                await ask(app, "POST", "/v1/workflows/flow", {"inputs": {"text": "bad"}})
        outcomes = [line["outcome"] for line in logged(out)]
        assert outcomes.count("failed") == 20
        assert 25 < outcomes.count("ok") < 80

    asyncio.run(main())


def test_a_probe_that_says_no_is_not_ready_and_was_not_rejected() -> None:
    async def main() -> None:
        out = io.StringIO()
        app = App(Site([Service(flow)]), names=["native", "operations"])
        app.site.observers.append(Logs(sample=1.0, out=out))
        await ask(app, "GET", "/health/ready")
        await ask(app, "POST", "/v1/workflows/flow", {"inputs": {"text": "x"}})
        probe, asked = logged(out)
        assert (probe["route"], probe["status"], probe["outcome"]) == ("ready", 503, "not_ready")
        assert (asked["status"], asked["outcome"], asked["reason"]) == (503, "rejected", "not_ready")

    asyncio.run(main())


def test_a_storm_is_cut_and_the_next_line_says_by_how_much() -> None:
    async def main() -> None:
        out, now = io.StringIO(), [0.0]
        async with site(Service(flow), apis=["native"]) as app:
            app.site.observers.append(Logs(out=out, clock=lambda: now[0]))
            for _ in range(BURST + 30):
                await ask(app, "GET", "/nothing")
            now[0] = 1.0
            await ask(app, "GET", "/nothing")
        lines = logged(out)
        assert len(lines) == BURST + 1
        assert lines[-1]["lines_dropped"] == 30
        assert "lines_dropped" not in lines[-2]

    asyncio.run(main())


def test_a_reader_that_is_stuck_holds_nobody() -> None:
    class Stuck(io.StringIO):
        free = threading.Event()

        def write(self, text: str) -> int:
            self.free.wait(10)
            return super().write(text)

    async def main() -> None:
        out = Stuck()
        logs = Logs(sample=1.0, out=out)
        logs.start()
        async with site(Service(flow), apis=["native"]) as app:
            app.site.observers.append(logs)
            for _ in range(10):
                await ask(app, "POST", "/v1/workflows/flow", {"inputs": {"text": "x"}})
        assert out.getvalue() == ""
        out.free.set()
        await logs.close()
        assert len(logged(out)) == 10

    asyncio.run(main())


def test_a_closed_log_is_no_error() -> None:
    out = io.StringIO()
    logs = Logs(out=out)
    out.close()
    logs.say("started")
    assert logs.dropped == 1


def test_text_lines_stay_lines() -> None:
    line = as_text({"at": "T", "event": "request", "id": "a\nb", "ms": 1.5, "key": "two words"})
    assert line == 'T request id="a\\nb" ms=1.5 key="two words"'
