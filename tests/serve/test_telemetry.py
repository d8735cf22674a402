"""Traces and metrics as a collector receives them, over HTTP and in its own protobuf; and a collector that is dead."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

import tauten as tt
from serve.kit_asgi import ask, site
from tauten.errors import InputError
from tauten.run.trace import VISIT, Trace
from tauten.serve.app import App, Site
from tauten.serve.door import Caller, Door
from tauten.serve.observe import genai
from tauten.serve.observe.telemetry import WAITING, Finished, Telemetry
from tauten.serve.service import Service

SECRET = "sesame-4711"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@tt.stage(pure=True)
async def look(text: str) -> str:
    if text.startswith("bad"):
        raise ValueError(f"cannot {text}")
    await asyncio.sleep(0.002)
    return text


@tt.stage(pure=True)
async def reply(text: str) -> str:
    return text.upper()


@tt.workflow
def desk(text: str) -> str:
    return reply(look(text))


@tt.stage(pure=True)
async def wordy(ctx: tt.Context, text: str) -> AsyncIterator[tt.Text]:
    ctx.spend("output_tokens", 2.0)
    yield tt.Text(text)
    yield tt.Text(text)


@tt.workflow
def streamed(text: str) -> tt.Stream[tt.Text]:
    return wordy(text)


@tt.stage(pure=True)
async def joined(text: tt.Text) -> tt.Text:
    return text


@tt.workflow
def whole(text: str) -> tt.Text:
    return joined(wordy(text))


class Collector:
    """Takes what an exporter sends and keeps it parsed."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.raw = b""
        self.resource: dict[str, str] = {}

    def take(self, path: str, body: bytes) -> None:
        self.raw += body
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = values(resource.resource.attributes)
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        elif path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics |= {each.name: each for each in scope.metrics}


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collector(answer: int = 200) -> Iterator[tuple[str, Collector]]:
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.take(self.path, gzip.decompress(body) if self.headers.get("content-encoding") else body)
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def exporting(app: App, url: str) -> Telemetry:
    telemetry = Telemetry(app.site, url)
    app.site.observers.append(telemetry)
    telemetry.start()
    return telemetry


def test_a_request_is_a_span_in_its_callers_trace_with_a_child_for_each_stage() -> None:
    async def main() -> Telemetry:
        door = Door(identify=lambda _: Caller("shop", "retail"))
        async with site(Service(desk), door=door, apis=["native", "operations"]) as app:
            telemetry = await exporting(app, url)
            path = "/v1/workflows/desk"
            body = {"inputs": {"text": SECRET}}
            await ask(app, "POST", path, body, {"traceparent": PARENT, "x-request-id": "r1"})
            await ask(app, "POST", path, {"inputs": {"text": f"bad {SECRET}"}})
            await ask(app, "POST", path, body, {"traceparent": PARENT[:-2] + "00"})
            await ask(app, "GET", "/health/live")
            await telemetry.close()
            return telemetry

    with collector() as (url, kept):
        telemetry = asyncio.run(main())
    assert (telemetry.sent, telemetry.dropped) == (2, 0)
    assert kept.resource["service.name"] == "tauten"
    ours = [span for span in kept.spans if span.trace_id.hex() == PARENT[3:35]]
    assert [span.name for span in ours] == ["invoke_workflow desk", "look", "reply"]
    root, looked, replied = ours
    assert root.parent_span_id.hex() == PARENT[36:52]
    assert looked.parent_span_id == replied.parent_span_id == root.span_id
    assert root.start_time_unix_nano <= looked.start_time_unix_nano < looked.end_time_unix_nano
    assert looked.end_time_unix_nano <= replied.end_time_unix_nano <= root.end_time_unix_nano
    told = values(root.attributes)
    assert (told["gen_ai.operation.name"], told["gen_ai.workflow.name"]) == ("invoke_workflow", "desk")
    assert (told["tauten.request.id"], told["tauten.outcome"], told["tauten.tenant"]) == (
        "r1",
        "ok",
        "retail",
    )
    assert told["http.response.status_code"] == 200
    stage = values(looked.attributes)
    assert stage["tauten.cause.user_ms"] >= 1.0
    assert stage["tauten.on_path_ms"] == pytest.approx(
        (looked.end_time_unix_nano - looked.start_time_unix_nano) / 1e6, abs=1.0
    )
    failed = next(span for span in kept.spans if span.status.code == 2)
    assert values(failed.attributes)["error.type"] == "failed"
    assert not failed.parent_span_id
    assert SECRET.encode() not in kept.raw


def test_the_conventions_metrics_arrive() -> None:
    async def main() -> None:
        async with site(Service(desk), apis=["native"]) as app:
            telemetry = await exporting(app, url)
            for text in ("a", "b", "bad"):
                await ask(app, "POST", "/v1/workflows/desk", {"inputs": {"text": text}})
            await telemetry.close()

    with collector() as (url, kept):
        asyncio.run(main())
    points = kept.metrics["gen_ai.server.request.duration"].histogram.data_points
    assert sorted((values(each.attributes).get("error.type", ""), each.count) for each in points) == [
        ("", 2),
        ("failed", 1),
    ]
    first = kept.metrics["gen_ai.server.time_to_first_token"].histogram.data_points
    assert sum(each.count for each in first) == 2


def test_of_an_answer_that_came_whole_no_time_per_token_is_told() -> None:
    async def main() -> None:
        async with site(Service(whole), Service(streamed), apis=["native"]) as app:
            telemetry = await exporting(app, url)
            for name in ("whole", "streamed"):
                done = await ask(app, "POST", f"/v1/workflows/{name}", {"inputs": {"text": "x"}})
                assert done.status == 200
            await telemetry.close()

    with collector() as (url, kept):
        asyncio.run(main())
    names = {name: f"gen_ai.server.time_{name}_token" for name in ("to_first", "per_output")}
    told = {
        name: {
            values(each.attributes)["gen_ai.request.model"]
            for each in kept.metrics[full].histogram.data_points
        }
        for name, full in names.items()
    }
    assert told == {"to_first": {"whole", "streamed"}, "per_output": {"streamed"}}


def test_tokens_are_usage_of_the_request_and_of_their_stage() -> None:
    trace = Trace(0.0)
    trace.add("generate", VISIT, 0.0, 1.0)
    trace.add("generate", "tokens", 0.0, 1.0)
    trace.end, trace.first_output = 1.0, 0.25
    for unit, amount in (
        ("input_tokens", 40),
        ("cached_tokens", 8),
        ("output_tokens", 2),
        ("output_tokens", 2),
    ):
        trace.spend("generate", unit, float(amount))
    route, none = "/v1/chat/completions", None
    done = Finished(
        1.0, 10**18, 10**18 - 10**9, route, "POST", 200, "ok", "", "r", "m", "p@1", "", 1e3, none, trace
    )
    with collector() as (url, kept):
        telemetry = Telemetry(Site([]), url)
        telemetry._waiting.append(done)
        telemetry.flush()
        telemetry._exports.close(2.0)
    root, generate = kept.spans
    assert root.name == "chat m"
    for span in (root, generate):
        told = values(span.attributes)
        assert told["gen_ai.usage.input_tokens"] == 40
        assert told["gen_ai.usage.cache_read.input_tokens"] == 8
        assert told["gen_ai.usage.output_tokens"] == 4
    assert values(root.attributes)["gen_ai.response.time_to_first_chunk"] == 0.25
    usage = kept.metrics["gen_ai.client.token.usage"].histogram.data_points
    assert {values(each.attributes)["gen_ai.token.type"]: each.sum for each in usage} == {
        "input": 40,
        "output": 4,
    }
    (each,) = kept.metrics["gen_ai.server.time_per_output_token"].histogram.data_points
    assert each.sum == pytest.approx(0.25)


def test_a_dead_collector_costs_spans_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tauten.serve.observe.telemetry.END_S", 0.2)

    async def main() -> Telemetry:
        async with site(Service(desk), apis=["native"]) as app:
            telemetry = await exporting(app, "http://127.0.0.1:9")  # the discard port: nobody listens
            for _ in range(5):
                done = await ask(app, "POST", "/v1/workflows/desk", {"inputs": {"text": "x"}})
                assert done.status == 200
            await telemetry.close()
            telemetry._thread.join(10)
            assert not telemetry._thread.is_alive()
            return telemetry

    telemetry = asyncio.run(main())
    assert telemetry.sent == 0


def test_an_exporter_that_raises_costs_its_spans_and_not_those_that_follow() -> None:
    async def main() -> Telemetry:
        async with site(Service(desk), apis=["native"]) as app:
            telemetry = Telemetry(app.site, url)
            app.site.observers.append(telemetry)
            send = telemetry._exports.send
            ways = [send, raising]
            telemetry._exports.send = lambda spans: ways.pop()(spans)  # type: ignore[method-assign]
            for _ in range(2):
                await ask(app, "POST", "/v1/workflows/desk", {"inputs": {"text": "x"}})
                telemetry.flush()
            telemetry.start()
            await telemetry.close()
            return telemetry

    def raising(_: object) -> bool:
        raise TimeoutError("the collector took its time")

    with collector() as (url, kept):
        telemetry = asyncio.run(main())
    assert (telemetry.sent, telemetry.dropped, len(kept.spans)) == (1, 1, 3)


def test_the_queue_is_bounded() -> None:
    async def main() -> None:
        async with site(Service(desk), apis=["native"]) as app:
            telemetry = Telemetry(app.site, "http://127.0.0.1:9")
            app.site.observers.append(telemetry)
            await ask(app, "POST", "/v1/workflows/desk", {"inputs": {"text": "x"}})
            telemetry._waiting.extend([telemetry._waiting[0]] * (WAITING - 1))
            await ask(app, "POST", "/v1/workflows/desk", {"inputs": {"text": "x"}})
            assert (len(telemetry._waiting), telemetry.dropped) == (WAITING, 1)
            telemetry._exports.abandon()
            telemetry._exports.close(0.1)

    asyncio.run(main())


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="--otlp"):
        Telemetry(None, "collector:4318")  # type: ignore[arg-type]


def test_every_name_of_the_conventions_is_one_that_the_conventions_have() -> None:
    known = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}
    known |= {value for value in vars(gen_ai_metrics).values() if isinstance(value, str)}
    used = {value for value in vars(genai).values() if isinstance(value, str) and value.startswith("gen_ai.")}
    assert len(used) > 8
    assert (used | set(genai.USAGE.values())) <= known
