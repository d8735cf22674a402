"""The native API: inputs of every kind, media out, streams, clients that leave, explain and plans."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_stream import Client
from serve.kit_workflows import Order
from tauten.clock import run_virtual
from tauten.errors import InputError
from tauten.run.engine import Engine
from tauten.run.trace import Trace
from tauten.serve.door import Caller, Door
from tauten.serve.kept.traces import usage
from tauten.serve.service import Service

PNG = tt.Image.from_array(np.zeros((2, 3, 3), np.uint8)).data
WAV = tt.Audio.from_array(np.zeros(160, np.float32), 16000).data


@dataclass
class Receipt:
    total: int
    lines: list[str]


@tt.stage(pure=True)
async def priced(orders: list[Order], rebate: int, kind: Literal["net", "gross"]) -> Receipt:
    return Receipt(sum(each.count for each in orders) - rebate, [each.item for each in orders])


@tt.workflow
def pricing(orders: list[Order], rebate: int = 0, kind: Literal["net", "gross"] = "net") -> Receipt:
    return priced(orders, rebate, kind)


@tt.stage(pure=True)
async def seen(photo: tt.Image, words: tt.Text | None = None) -> dict[str, Any]:
    return {"type": photo.type, "bytes": photo.size_bytes, "words": words.text if words else None}


@tt.workflow
def look(photo: tt.Image, words: tt.Text | None = None) -> dict[str, Any]:
    """Say what came."""
    return seen(photo, words)


@tt.stage(pure=True)
async def mirrored(photo: tt.Image) -> tt.Image:
    return photo


@tt.workflow
def mirror(photo: tt.Image) -> tt.Image:
    return mirrored(photo)


@tt.stage
async def spelled(text: str) -> tt.Stream[str]:  # type: ignore[misc]
    for letter in text:
        if letter == "!":
            raise ValueError("no shouting")
        yield letter


@tt.workflow
def spell(text: str) -> tt.Stream[str]:
    return spelled(text)


def run(main: Any) -> None:
    asyncio.run(main())


def test_typed_inputs_are_converted_and_structures_come_back() -> None:
    async def main() -> None:
        async with site(Service(pricing), apis=["native"]) as app:
            body = {"inputs": {"orders": [{"item": "tea", "count": 3}, {"item": "cup"}], "rebate": 1}}
            done = (await ask(app, "POST", "/v1/workflows/pricing", body)).json
            assert done["output"] == {"total": 3, "lines": ["tea", "cup"]}
            assert done["plan"] == app.site.services["pricing"].plan_id
            assert done["timing_ms"]["total"] >= done["timing_ms"]["first_output"] >= 0
            assert set(done) == {"id", "output", "plan", "usage", "timing_ms"}

    run(main)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"orders": [{"item": 1}]}, "input `orders`: Expected `str`, got `int` - at `$[0].item`"),
        ({"orders": {}}, "input `orders`"),
        ({"orders": [], "rebate": "1"}, "input `rebate`"),
        ({"orders": [], "kind": "free"}, "input `kind`"),
        ({"order": []}, "no input `order`"),
        ({}, "orders"),
    ],
)
def test_a_wrong_input_is_named(inputs: dict[str, Any], says: str) -> None:
    async def main() -> None:
        async with site(Service(pricing), apis=["native"]) as app:
            done = await ask(app, "POST", "/v1/workflows/pricing", {"inputs": inputs})
            assert done.status == 400
            assert says in done.json["error"]["message"]

    run(main)


@pytest.mark.parametrize(
    "photo",
    [
        {"data": base64.b64encode(PNG).decode(), "type": "image/png"},
        {"data": base64.b64encode(PNG).decode()},
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()},
    ],
)
def test_media_come_as_base64_or_data_urls(photo: Any) -> None:
    async def main() -> None:
        async with site(Service(look), apis=["native"]) as app:
            done = await ask(app, "POST", "/v1/workflows/look", {"inputs": {"photo": photo, "words": "hm"}})
            assert done.json["output"] == {"type": "image/png", "bytes": len(PNG), "words": "hm"}

    run(main)


@pytest.mark.parametrize(
    ("photo", "status", "code"),
    [
        ("/etc/hostname", 400, "E281"),
        ("file:///etc/hostname", 400, "E281"),
        ({"url": "http://127.0.0.1/x.png"}, 400, "E280"),
        ({"url": 3}, 400, "E281"),
        ({"data": "not base64!"}, 400, "E281"),
        ({"data": base64.b64encode(b"hello").decode()}, 422, "E211"),
        ({"data": base64.b64encode(PNG).decode(), "type": "text/html"}, 422, "E211"),
        ({"data": base64.b64encode(WAV).decode()}, 422, "E211"),
        ({"data": ""}, 422, None),
        ("data:image/png", 400, "E281"),
        (7, 400, "E281"),
        ([], 400, "E281"),
    ],
)
def test_what_is_no_picture_is_refused_and_no_file_is_read(photo: Any, status: int, code: str | None) -> None:
    async def main() -> None:
        async with site(Service(look), apis=["native"]) as app:
            done = await ask(app, "POST", "/v1/workflows/look", {"inputs": {"photo": photo}})
            assert done.status == status, done.body
            assert code in (None, done.json["error"]["code"]), done.body
            assert "photo" in done.json["error"]["message"]

    run(main)


def test_an_address_is_fetched_only_through_the_door() -> None:
    asked: list[str] = []

    async def fetch(url: str) -> bytes:
        asked.append(url)
        if "private" in url:
            raise InputError("not public", help="", code="E241")
        return PNG

    async def main() -> None:
        async with site(Service(look), door=Door(fetch=fetch), apis=["native"]) as app:
            for url, status in (("https://pictures.example/a.png", 200), ("https://private.example", 400)):
                done = await ask(app, "POST", "/v1/workflows/look", {"inputs": {"photo": {"url": url}}})
                assert done.status == status
            assert len(asked) == 2

    run(main)


def test_an_untyped_input_is_never_the_name_of_a_file(tmp_path: Any) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)

    @tt.workflow
    def untyped(photo) -> tt.Image:  # type: ignore[no-untyped-def]
        return mirrored(photo)

    async def main() -> None:
        async with site(Service(untyped), apis=["native"]) as app:
            done = await ask(app, "POST", "/v1/workflows/untyped", {"inputs": {"photo": str(secret)}})
            assert done.status == 400
            assert base64.b64encode(PNG)[:40] not in done.body

    run(main)


def test_no_code_of_a_workflow_opens_a_file_that_a_request_names(tmp_path: Any) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)

    @tt.workflow
    async def program(name: str) -> dict[str, Any]:
        return await seen(name)  # type: ignore[no-any-return, arg-type]

    @tt.workflow
    def members(names) -> list[tt.Image]:  # type: ignore[no-untyped-def]
        return tt.map(mirrored, names)  # type: ignore[no-any-return]

    async def main() -> None:
        async with site(Service(program), Service(members), apis=["native"]) as app:
            for path, inputs in (
                ("program", {"name": str(secret)}),
                ("program?stream=true", {"name": str(secret)}),
                ("members", {"names": [str(secret)]}),
            ):
                done = await ask(app, "POST", f"/v1/workflows/{path}", {"inputs": inputs})
                assert done.status == 400, (path, done.body)
                assert base64.b64encode(PNG)[:40] not in done.body
            assert (await program.acall(str(secret)))["bytes"] == len(PNG)  # the author's own call may

    run(main)


def _form(*parts: tuple[str, bytes], boundary: str = "xYz") -> tuple[bytes, dict[str, str]]:
    body = b"".join(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts)
    return body + f"--{boundary}--\r\n".encode(), {
        "content-type": f"multipart/form-data; boundary={boundary}"
    }


def test_a_form_brings_files_and_typed_fields() -> None:
    async def main() -> None:
        async with site(Service(look), Service(pricing), apis=["native"]) as app:
            body, headers = _form(
                (
                    'Content-Disposition: form-data; name="photo"; filename="../../x"\r\nContent-Type: image/png',
                    PNG,
                ),
                ('Content-Disposition: form-data; name="words"', "grüße".encode()),
            )
            done = await ask(app, "POST", "/v1/workflows/look", body, headers)
            assert done.json["output"] == {"type": "image/png", "bytes": len(PNG), "words": "grüße"}
            body, headers = _form(
                ('Content-Disposition: form-data; name="orders"', b'[{"item": "tea", "count": 4}]'),
                ('Content-Disposition: form-data; name="rebate"', b"2"),
            )
            done = await ask(app, "POST", "/v1/workflows/pricing", body, headers)
            assert done.json["output"]["total"] == 2, done.body
            headers = {"content-type": "application/x-www-form-urlencoded"}
            done = await ask(app, "POST", "/v1/workflows/pricing", b"orders=%5B%5D&rebate=-1", headers)
            assert done.json["output"]["total"] == 1, done.body
            done = await ask(app, "POST", "/v1/workflows/pricing", b'{"inputs":{"orders":[]}}', headers)
            assert done.json["output"]["total"] == 0, done.body

    run(main)


def test_one_medium_is_sent_as_bytes_to_who_asks_for_bytes() -> None:
    async def main() -> None:
        async with site(Service(mirror), apis=["native"]) as app:
            body = {"inputs": {"photo": {"data": base64.b64encode(PNG).decode()}}}
            for accept in ("image/*", "text/html, image/png;q=0.9"):
                done = await ask(app, "POST", "/v1/workflows/mirror", body, {"accept": accept})
                assert (done.body, done.headers["content-type"]) == (PNG, "image/png")
                assert done.headers["x-request-id"]
            for accept in ("*/*", "application/json, image/*", "audio/*"):
                done = await ask(app, "POST", "/v1/workflows/mirror", body, {"accept": accept})
                assert base64.b64decode(done.json["output"]["data"]) == PNG
                assert done.json["output"]["type"] == "image/png"

    run(main)


def test_a_stream_has_typed_events_and_ends_with_done() -> None:
    async def main() -> None:
        async with site(Service(spell), apis=["native"]) as app:
            for path, headers in (("?stream=true", {}), ("", {"accept": "text/event-stream"})):
                client = Client(
                    app, "POST", "/v1/workflows/spell" + path, {"inputs": {"text": "abc"}}, headers
                )
                await client.done()
                assert client.headers["content-type"] == "text/event-stream"
                *outputs, (last, done) = client.events
                assert [(name, data["output"]) for name, data in outputs] == [
                    ("output", each) for each in "abc"
                ]
                assert last == "done"
                assert done["id"] == client.headers["x-request-id"]
                assert done["timing_ms"]["total"] >= 0
            whole = await ask(app, "POST", "/v1/workflows/spell", {"inputs": {"text": "abc"}})
            assert whole.json["output"] == "abc"

    run(main)


def test_a_stream_that_fails_says_so_and_never_ends_with_done() -> None:
    async def main() -> None:
        async with site(Service(spell), apis=["native"]) as app:
            client = Client(app, "POST", "/v1/workflows/spell?stream=true", {"inputs": {"text": "ab!c"}})
            await client.done()
            assert [name for name, _ in client.events] == ["output", "output", "error"]
            assert client.events[-1][1]["error"]["code"] == "E404"
            early = await ask(app, "POST", "/v1/workflows/spell?stream=true", {"inputs": {"text": "!"}})
            assert (early.status, early.json["error"]["code"]) == (
                500,
                "E404",
            )  # before the first output: a status

    run(main)


class Gate:
    """A stage that says when it began and when it was stopped, and waits to be let go."""

    def __init__(self) -> None:
        self.began, self.stopped, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def workflow(self) -> Any:
        @tt.stage
        async def gated(text: str) -> tt.Stream[str]:  # type: ignore[misc]
            yield "first"
            self.began.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.stopped.set()
                raise
            yield "last"

        @tt.workflow
        def waits(text: str) -> tt.Stream[str]:
            return gated(text)

        return waits


def test_a_client_that_leaves_a_stream_stops_its_work() -> None:
    async def main() -> None:
        gate = Gate()
        async with site(Service(gate.workflow()), apis=["native"]) as app:
            client = Client(app, "POST", "/v1/workflows/waits?stream=true", {"inputs": {"text": "x"}})
            await gate.began.wait()
            client.leave()
            await gate.stopped.wait()
            await client.done()
            assert not any(name in ("done", "error") for name, _ in client.events)

    run(main)


def test_a_deadline_in_mid_stream_is_an_error_event() -> None:
    async def main() -> None:
        gate = Gate()
        async with site(Service(gate.workflow()), apis=["native"]) as app:
            headers = {"x-tauten-deadline-ms": "30"}
            body = {"inputs": {"text": "x"}}
            client = Client(app, "POST", "/v1/workflows/waits?stream=true", body, headers)
            await client.done()
            assert gate.stopped.is_set()
            assert client.events[-1][1]["error"]["code"] == "E401"

    run(main)


def test_a_service_that_drains_ends_its_streams_and_takes_no_more() -> None:
    async def main() -> None:
        gate = Gate()
        async with site(Service(gate.workflow()), apis=["native"]) as app:
            client = Client(app, "POST", "/v1/workflows/waits?stream=true", {"inputs": {"text": "x"}})
            await gate.began.wait()
            app.site.services["waits"].ready = False
            late = await ask(app, "POST", "/v1/workflows/waits", {"inputs": {"text": "x"}})
            assert late.status == 503
            assert int(late.headers["retry-after"]) >= 1
            gate.go.set()
            await client.done()
            assert [name for name, _ in client.events] == ["output", "output", "done"]
            assert (await ask(app, "GET", "/v1/workflows/waits")).json["ready"] is False

    run(main)


def test_explain_comes_with_the_answer_and_stays_for_a_while() -> None:
    async def main() -> None:
        async with site(Service(pricing), Service(spell), apis=["native"]) as app:
            body = {"inputs": {"orders": [{"item": "a-secret-item"}]}}
            done = (await ask(app, "POST", "/v1/workflows/pricing?explain=true", body)).json
            assert done["explain"]["schema"] == "tauten.explain/1"
            assert any(row["stage"] == "priced" for row in done["explain"]["rows"])
            sources = {
                name: ms for name, ms in done["timing_ms"].items() if name not in ("total", "first_output")
            }
            assert sum(sources.values()) == pytest.approx(done["timing_ms"]["total"], abs=0.01)
            path = f"/v1/requests/{done['id']}"
            account = (await ask(app, "GET", path)).json
            assert account["account"]["header"]["request"] == done["id"]
            assert "priced" in (await ask(app, "GET", f"{path}/text")).body.decode()
            assert b"<!doctype html>" in (await ask(app, "GET", f"{path}/html")).body
            trace = await ask(app, "GET", f"{path}/trace")
            assert trace.json["traceEvents"]
            for kept in (json.dumps(account), trace.body.decode()):
                assert "a-secret-item" not in kept
            stream = Client(app, "POST", "/v1/workflows/spell?stream=1&explain=1", {"inputs": {"text": "a"}})
            await stream.done()
            assert stream.events[-1][1]["explain"]["plan"] == app.site.services["spell"].plan_id
            missing = await ask(app, "GET", "/v1/requests/nobody")
            assert (missing.status, missing.json["error"]["code"]) == (404, "E282")
            wrong = await ask(app, "POST", "/v1/workflows/pricing?explain=maybe", body)
            assert (wrong.status, wrong.json["error"]["code"]) == (400, "E285")

    run(main)


def test_a_tenant_sees_its_own_requests_only_and_timing_is_opt_in() -> None:
    callers = {"a": Caller("a", "one", timing=True), "b": Caller("b", "two")}
    door = Door(identify=lambda exchange: callers[exchange.headers["x-api-key"]])

    async def main() -> None:
        async with site(Service(pricing), door=door, apis=["native"]) as app:
            body = {"inputs": {"orders": []}}
            done = await ask(app, "POST", "/v1/workflows/pricing", body, {"x-api-key": "a"})
            names = [part.split(";")[0] for part in done.headers["server-timing"].split(", ")]
            assert names[:5] == ["model", "preparation", "network", "contention", "io"]
            assert names[-1] == "total"
            path = f"/v1/requests/{done.json['id']}"
            assert (await ask(app, "GET", path, headers={"x-api-key": "a"})).status == 200
            assert (await ask(app, "GET", path, headers={"x-api-key": "b"})).status == 404
            other = await ask(app, "POST", "/v1/workflows/pricing", body, {"x-api-key": "b"})
            assert "server-timing" not in other.headers

    run(main)


def test_workflows_are_listed_described_drawn_and_their_plan_shown() -> None:
    async def main() -> None:
        async with site(Service(look), Service(spell), apis=["native"]) as app:
            listed = (await ask(app, "GET", "/v1/workflows")).json["workflows"]
            assert [each["name"] for each in listed] == ["look", "spell"]
            one = (await ask(app, "GET", "/v1/workflows/look")).json
            assert one["inputs"]["photo"] == {"type": "Image", "required": True, "streams": False}
            assert "seen" in one["text"]
            assert (await ask(app, "GET", one["links"]["svg"])).headers["content-type"] == "image/svg+xml"
            plan = await ask(app, "GET", one["links"]["plan"])
            assert b'tauten = "plan/1"' in plan.body
            page = await ask(app, "GET", "/docs")
            assert b"Try a workflow" in page.body
            for outside in (b'src="', b"http://", b"https://", b"@import", b"url("):
                assert outside not in page.body
            missing = await ask(app, "GET", "/v1/workflows/lok")
            assert "look" in missing.json["error"]["help"]

    run(main)


def test_silence_is_filled_with_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tauten.serve.exchange.BEAT_S", 0.01)

    async def main() -> None:
        gate = Gate()
        async with site(Service(gate.workflow()), apis=["native"]) as app:
            client = Client(app, "POST", "/v1/workflows/waits?stream=true", {"inputs": {"text": "x"}})
            await client.until(b": still working\n\n: still working\n\n")
            gate.go.set()
            await client.done()
            assert [name for name, _ in client.events] == ["output", "output", "done"]

    run(main)


def test_the_time_of_a_slow_reader_is_the_clients_own() -> None:
    async def main() -> None:
        service = Service(spell, engine=Engine(clock=asyncio.get_running_loop().time))
        async with site(service, apis=["native"]) as app:
            client = Client(app, "POST", "/v1/workflows/spell?stream=true", {"inputs": {"text": "abc"}})
            client.slow = asyncio.Event()
            await asyncio.sleep(0.2)
            client.slow.set()
            await client.done()
            account = app.site.traces.find("", client.events[-1][1]["id"]).account()
            assert account.sources["outside"] > 150
            assert account.unattributed_ms < 20

    run_virtual(main())


def test_every_reply_names_its_request() -> None:
    async def main() -> None:
        async with site(Service(spell), apis=["native"]) as app:
            for method, path, body in (
                ("GET", "/v1/workflows", b""),
                ("POST", "/v1/workflows/spell", b"{"),
                ("POST", "/v1/workflows/spell", {"inputs": {"text": "!"}}),
                ("POST", "/v1/workflows/spell?stream=true", {"inputs": {"text": "a"}}),
                ("GET", "/nowhere", b""),
                ("PATCH", "/v1/workflows", b""),
                ("GET", "/docs", b""),
            ):
                assert (await ask(app, method, path, body)).headers["x-request-id"], path
                named = await ask(app, method, path, body, {"x-request-id": "mine"})
                if path != "/nowhere" and method != "PATCH":
                    assert named.headers["x-request-id"] == "mine"

    asyncio.run(main())


def test_a_slow_reader_holds_its_stream_back() -> None:
    made: list[int] = []

    @tt.stage
    async def counted(text: str) -> AsyncIterator[str]:  # type: ignore[misc]
        for number in range(10_000):
            made.append(number)
            yield str(number)

    @tt.workflow
    def counts(text: str) -> tt.Stream[str]:
        return counted(text)

    async def main() -> None:
        async with site(Service(counts), apis=["native"]) as app:
            client = Client(app, "POST", "/v1/workflows/counts?stream=true", {"inputs": {"text": "x"}})
            client.slow = asyncio.Event()
            for _ in range(1000):
                await asyncio.sleep(0)
            assert 0 < len(made) < 500
            client.leave()
            client.slow.set()
            await client.done()
            assert len(made) < 500

    run(main)


def test_a_result_that_json_cannot_hold_is_an_error_in_words() -> None:
    class Odd:
        pass

    @tt.stage
    async def odd(text: str) -> Any:
        return Odd()

    @tt.workflow
    def odds(text: str) -> Any:
        return odd(text)

    async def main() -> None:
        async with site(Service(odds), apis=["native"]) as app:
            for path in ("", "?stream=true"):
                client = Client(app, "POST", "/v1/workflows/odds" + path, {"inputs": {"text": "x"}})
                await client.done()
                assert b"E420" in client.body
                assert b"done" not in client.body

    run(main)


def test_usage_is_told_without_the_noise_of_a_sum() -> None:
    trace = Trace(0.0)
    for unit, amount in [("replica_seconds", 0.1), ("replica_seconds", 0.2), ("output_tokens", 7.0)]:
        trace.spend("say", unit, amount)
    assert str(usage(trace)) == "{'replica_seconds': 0.3, 'output_tokens': 7}"
