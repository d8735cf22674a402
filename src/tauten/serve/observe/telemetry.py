"""Traces and metrics to an OpenTelemetry collector, made from our own trace after a request has ended.

A finished request is put on a bounded queue, which costs a microsecond; a thread makes spans of it and sends
them. A collector that is slow or dead costs nothing but the spans: what does not fit the queue is dropped and
counted. No content is sent: names, times, causes, tokens and outcomes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from tauten.clock import Clock, real
from tauten.errors import InputError, MachineError
from tauten.run.attribution import Attribution, Stay, attribute, totals
from tauten.run.trace import Trace
from tauten.serve.door import Call
from tauten.serve.exchange import Exchange
from tauten.serve.observe import genai
from tauten.serve.observe.outcome import error_of, outcome_of, reason_of, status_of
from tauten.serve.wishes import TraceParent
from tauten.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from tauten.serve.app import Site

WAITING = 2048  # finished requests; about a second of a busy server, some megabytes
EVERY_S = 1.0  # how often spans are sent
METRICS_S = 10.0  # how often metrics are sent
TIMEOUT_S = 5.0  # for one sending; a collector on the same host answers in milliseconds
END_S = 2.0  # what is still waiting when the server ends gets this long
AT_ONCE = 256  # requests in one sending: a message of about a megabyte
MOST_SPANS = 128  # of one request; agents that loop for hours are cut off
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)


class Finished(NamedTuple):
    """What is known of one exchange when it is over; plain values, so that it can wait."""

    seconds: float
    ended_ns: int  # wall clock
    clock_ns: int  # what to add to the trace's clock
    route: str
    method: str
    status: int
    outcome: str
    reason: str
    id: str
    workflow: str
    plan: str
    tenant: str
    deadline_ms: float
    parent: TraceParent | None
    trace: Trace | None
    streams: bool = True  # its answer comes in increments


class Telemetry:
    """An observer of the site that exports to `url` (its ``/v1/traces`` and ``/v1/metrics``)."""

    def __init__(self, site: Site, url: str, *, clock: Clock = real) -> None:
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https"):
            raise InputError(
                f"--otlp {url!r}", help="give the collector's address, as http://localhost:4318", code="E204"
            )
        self.site = site
        self.url = url.rstrip("/")
        self.dropped = 0
        self.sent = 0
        self._clock = clock
        self._waiting: deque[Finished] = deque()
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="tauten-otlp", daemon=True)
        self._exports = _Exports(self.url, site)

    # -- on the loop --------------------------------------------------------------------------------------

    def finished(
        self, exchange: Exchange, call: Call | None, error: BaseException | None, seconds: float
    ) -> None:
        """Keep what is needed; probes, scrapes and unknown paths are no requests."""
        if call is None or call.service is None:
            return
        if call.parent is not None and not call.parent.sampled:
            return  # whoever began the trace keeps none of it
        if len(self._waiting) >= WAITING:
            self.dropped += 1
            return
        ended = error_of(exchange, call, error)
        status = status_of(exchange, ended)
        request = call.request
        wall = time.time_ns()
        self._waiting.append(
            Finished(
                seconds,
                wall,
                wall - int(self._clock() * 1e9),
                call.route.path,
                exchange.method,
                status,
                outcome_of(status, ended),
                reason_of(ended),
                call.id,
                call.service.name,
                request.plan if request is not None else "",
                call.caller.tenant,
                call.deadline_ms,
                call.parent,
                request.trace if request is not None else None,
                call.service.workflow.streams,
            )
        )

    def start(self) -> None:
        self._thread.start()

    async def close(self) -> None:
        """Send what waits, for at most END_S."""
        self._ended = True
        self._wake.set()
        until = self._clock() + END_S
        while self._thread.is_alive() and self._clock() < until:
            await asyncio.sleep(0.01)
        self._exports.abandon()

    # -- in the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            self._wake.wait(EVERY_S)
            self.flush()
        self._exports.close(END_S)

    def flush(self) -> None:
        """Send all that waits."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(AT_ONCE, len(self._waiting)))]
            if self._sent(batch):
                self.sent += len(batch)
            else:
                self.dropped += len(batch)

    def _sent(self, batch: Sequence[Finished]) -> bool:
        """Whether the collector has them. Some versions of the SDK raise where it answers too late or not as expected."""
        spans: list[ReadableSpan] = []
        try:
            for each in batch:
                spans += spans_of(each, self._exports.resource)
                self._exports.record(each)
            return self._exports.send(spans)
        except Exception:  # noqa: BLE001  # counted by who calls; else the thread would end, and with it all that follows
            return False


class _Exports:
    """The SDK's exporters. Their own complaints are silenced: a dead collector is seen by what is dropped."""

    def __init__(self, url: str, site: Site) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from opentelemetry.sdk.resources import Resource
        except ImportError as error:
            raise MachineError(
                f"OpenTelemetry is not installed: {error}", help="pip install 'tauten[serve]'", code="E343"
            ) from error
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        name = os.environ.get("OTEL_SERVICE_NAME", "tauten")
        self.resource = Resource.create({"service.name": name, "service.version": __version__})
        self._spans = OTLPSpanExporter(endpoint=f"{url}/v1/traces", timeout=TIMEOUT_S)
        reader = PeriodicExportingMetricReader(
            OTLPMetricExporter(endpoint=f"{url}/v1/metrics", timeout=TIMEOUT_S),
            export_interval_millis=METRICS_S * 1e3,
            export_timeout_millis=TIMEOUT_S * 1e3,
        )
        self._meters = MeterProvider([reader], self.resource, shutdown_on_exit=False)
        meter = self._meters.get_meter("tauten", __version__)

        def histogram(name: str, unit: str, bounds: Sequence[float]) -> Any:
            return meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=list(bounds))

        self._duration = histogram(genai.DURATION, "s", _SECONDS)
        self._first = histogram(genai.FIRST_TOKEN, "s", _SECONDS)
        self._token_time = histogram(genai.TOKEN_TIME, "s", [each / 16 for each in _SECONDS])
        self._tokens = histogram(genai.TOKEN_USAGE, "{token}", _TOKENS)

        for name, unit, kind, read in _of_the_site(site):
            create = (
                meter.create_observable_up_down_counter
                if kind == "gauge"
                else meter.create_observable_counter
            )
            create(name, [functools.partial(_observed, read)], unit)

    def record(self, done: Finished) -> None:
        """The conventions' metrics of one request."""
        labels = {
            genai.OPERATION: genai.operation_of(done.route),
            genai.PROVIDER: genai.PROVIDER_OURS,
            genai.MODEL: done.workflow,
        }
        failed = {**labels, genai.ERROR: done.reason} if done.reason else labels
        self._duration.record(done.seconds, failed)
        trace = done.trace
        if trace is None or trace.first_output is None:
            return
        self._first.record(trace.first_output - trace.start, labels)
        spent = _spent(trace)
        made = spent.get("output_tokens", 0.0)
        for unit, kind in (("input_tokens", "input"), ("output_tokens", "output")):
            if unit in spent:
                self._tokens.record(int(spent[unit]), {**labels, genai.TOKEN_TYPE: kind})
        if made > 1 and done.streams:  # of an answer that came whole nobody knows when its tokens did
            self._token_time.record((trace.end - trace.first_output) / (made - 1), labels)

    def send(self, spans: Sequence[ReadableSpan]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        return self._spans.export(spans) is SpanExportResult.SUCCESS

    def close(self, seconds: float) -> None:
        self._meters.shutdown(timeout_millis=seconds * 1e3)

    def abandon(self) -> None:
        """Stop trying: the exporter's pauses between attempts end."""
        self._spans.shutdown()  # type: ignore[no-untyped-call]


Reading = Callable[[], Mapping[str, int]]


def _of_the_site(site: Site) -> Iterator[tuple[str, str, str, Reading]]:
    """What the server shares, repeats and keeps: name, unit, kind, and how to read it, by reason where there are any."""
    flights, sessions = site.door.flights, site.door.sessions
    yield (
        genai.SHARED_FLIGHTS,
        "{request}",
        "counter",
        lambda: {"": flights.joined if flights is not None else 0},
    )
    yield genai.REPLAYS, "{reply}", "counter", lambda: {"": site.idempotency.replayed}
    yield genai.SESSIONS, "{session}", "gauge", lambda: {"": len(sessions)}
    yield genai.SESSIONS_BEGUN, "{session}", "counter", lambda: {"": sessions.begun}
    yield genai.SESSIONS_ENDED, "{session}", "counter", lambda: sessions.ended


def _observed(read: Reading, _: Any) -> list[Any]:
    from opentelemetry.metrics import Observation

    return [
        Observation(value, {genai.END_REASON: reason} if reason else {}) for reason, value in read().items()
    ]


# -- spans ---------------------------------------------------------------------------------------------------


def spans_of(done: Finished, resource: Any) -> list[ReadableSpan]:
    """The span of a request and one for each visit of a stage, in the caller's trace where it has one."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    scope = InstrumentationScope("tauten", __version__)
    sampled = TraceFlags(TraceFlags.SAMPLED)
    parent = done.parent
    trace_id = int(parent.trace_id, 16) if parent is not None else _random_id(128)

    def context(span_id: int, *, remote: bool = False) -> Any:
        return SpanContext(trace_id, span_id, is_remote=remote, trace_flags=sampled)

    def span(name: str, at: Any, above: Any, start: int, end: int, attributes: Mapping[str, Any]) -> Any:
        kind = SpanKind.SERVER if above is caller else SpanKind.INTERNAL
        failed = kind is SpanKind.SERVER and done.outcome == "failed"
        return ReadableSpan(
            name,
            context=at,
            parent=above,
            resource=resource,
            attributes=attributes,
            kind=kind,
            status=Status(StatusCode.ERROR) if failed else Status(),
            start_time=start,
            end_time=max(start, end),
            instrumentation_scope=scope,
        )

    caller = context(int(parent.span_id, 16), remote=True) if parent is not None else None
    root = context(_random_id(64))
    begun = done.ended_ns - int(done.seconds * 1e9)
    name = genai.span_name(genai.operation_of(done.route), done.workflow)
    spans = [span(name, root, caller, begun, done.ended_ns, _of_request(done))]
    if done.trace is not None and done.trace.rows:
        for step, start, end, attributes in _visits(done.trace):
            at, offset = context(_random_id(64)), done.clock_ns
            begin_ns, end_ns = int(start * 1e9) + offset, int(end * 1e9) + offset
            spans.append(span(step, at, root, begin_ns, end_ns, attributes))
    return spans


def _random_id(bits: int) -> int:
    return random.getrandbits(bits) or 1  # zero means no id


def _of_request(done: Finished) -> dict[str, Any]:
    found: dict[str, Any] = {
        genai.OPERATION: genai.operation_of(done.route),
        genai.PROVIDER: genai.PROVIDER_OURS,
        genai.MODEL: done.workflow,
        genai.WORKFLOW: done.workflow,
        genai.RESPONSE_ID: done.id,
        genai.ROUTE: done.route,
        genai.METHOD: done.method,
        genai.STATUS: done.status,
        genai.REQUEST_ID: done.id,
        genai.OUTCOME: done.outcome,
    }
    if done.plan:
        found[genai.PLAN] = done.plan
    if done.tenant:
        found[genai.TENANT] = done.tenant
    if math.isfinite(done.deadline_ms):
        found[genai.DEADLINE_MS] = done.deadline_ms
    if done.reason:
        found[genai.ERROR] = done.reason
    trace = done.trace
    if trace is not None:
        if trace.first_output is not None:
            found[genai.FIRST_CHUNK_S] = trace.first_output - trace.start
        found |= genai.usage(_spent(trace))
    return found


def _visits(trace: Trace) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """Each stage's stays: name, begin, end and where the time went."""
    found = attribute(trace)
    on_path = _on_path(found)
    for stay in found.stays[:MOST_SPANS]:
        yield stay.step, stay.start, stay.end, _of_stay(stay, on_path, trace)


def _on_path(found: Attribution) -> dict[str, float]:
    sums: dict[str, float] = {}
    for (step, _), seconds in found.exclusive().items():
        sums[step] = sums.get(step, 0.0) + seconds
    return sums


def _of_stay(stay: Stay, on_path: Mapping[str, float], trace: Trace) -> dict[str, Any]:
    attributes: dict[str, Any] = {genai.ON_PATH_MS: on_path.get(stay.step, 0.0) * 1e3}
    for (_, cause), seconds in totals(stay.pieces).items():
        attributes[genai.cause_attribute(cause)] = seconds * 1e3
    return attributes | genai.usage(_spent(trace, stay.step))


def _spent(trace: Trace, step: str | None = None) -> dict[str, float]:
    """What was booked by unit, of one step or of all."""
    sums: dict[str, float] = {}
    for name, unit, amount in trace.spent:
        if step is None or name == step:
            sums[unit] = sums.get(unit, 0.0) + amount
    return sums
