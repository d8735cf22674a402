"""Metrics: what a scrape shows after requests of every outcome; histograms that add up; closed labels."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

import tauten as tt
from serve.kit_asgi import ask, site
from tauten.describe.stage import Context, Role
from tauten.run.attribution import attribute
from tauten.run.deploy.queueing import View
from tauten.run.trace import VISIT, Trace
from tauten.serve.app import App
from tauten.serve.door import Caller, Door
from tauten.serve.observe.condensed import condensed
from tauten.serve.observe.histogram import MOST_SERIES, SECONDS, Counters, Histogram, Histograms
from tauten.serve.observe.metrics import Metrics
from tauten.serve.observe.outcome import OUTCOMES, outcome_of, reason_of
from tauten.serve.service import Service


@tt.stage(pure=True)
async def work(text: str) -> str:
    if text == "bad":
        raise ValueError("secret words")
    await asyncio.sleep(60 if text == "slow" else 0.002)
    return text


@tt.workflow
def flow(text: str) -> str:
    return work(text)


@tt.stage(pure=True)
async def parts(text: str) -> AsyncIterator[tt.Text]:
    for word in text.split():
        yield tt.Text(word)


@tt.workflow
def spoken(text: str) -> tt.Stream[tt.Text]:
    return parts(text)


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(app: App) -> Samples:
    assert app.site.exposition is not None
    parts, media_type = app.site.exposition("")
    text = b"".join(parts)
    assert media_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    found = [
        number
        for (called, given), number in samples.items()
        if called == name and set(labels.items()) <= set(given)
    ]
    assert found, (name, labels)
    return sum(found)


def measured(app: App) -> Metrics:
    metrics = Metrics(app.site)
    app.site.observers.append(metrics)
    app.site.exposition = metrics.exposition()
    return metrics


def test_requests_count_by_workflow_plan_and_outcome_and_nothing_of_theirs_is_a_label() -> None:
    async def main() -> None:
        door = Door(identify=lambda _: Caller("shop", "retail"))
        async with site(Service(flow), Service(spoken), door=door, apis=["native", "operations"]) as app:
            metrics = measured(app)
            path = "/v1/workflows/flow"
            for text in ["a", "b", "c"]:
                await ask(app, "POST", path, {"inputs": {"text": text}})
            await ask(app, "POST", path, {"inputs": {"text": "bad"}})
            await ask(app, "POST", path, {"inputs": {"text": "slow"}}, {"x-tauten-deadline-ms": "20"})
            await ask(app, "POST", path, {"inputs": {"text": "slow"}}, leave_after_s=0.01)
            await ask(app, "POST", "/v1/workflows/secret-path", {"inputs": {}})
            await ask(app, "GET", "/secret-path")
            await ask(app, "POST", "/v1/workflows/spoken", {"inputs": {"text": "one two"}})
            metrics.slice(1.0)
            samples = scraped(app)
            plan = app.site.services["flow"].plan_id
            counts = {
                each: value(samples, "tauten_request_seconds_count", workflow="flow", plan=plan, outcome=each)
                for each in ("ok", "failed", "expired", "cancelled")
            }
            assert counts == {"ok": 3, "failed": 1, "expired": 1, "cancelled": 1}
            assert value(samples, "tauten_first_output_seconds_count", workflow="spoken") == 1
            assert value(samples, "tauten_refusals_total", reason="not_found") == 2
            assert value(samples, "tauten_refusals_total", reason="deadline", workflow="flow") == 1
            assert value(samples, "tauten_refusals_total", reason="client_left", workflow="flow") == 1
            assert value(samples, "tauten_tenant_requests_total", tenant="retail", outcome="ok") == 4
            assert value(samples, "tauten_http_responses_total", route="none", status="404") == 1
            assert value(samples, "tauten_http_responses_total", status="499") == 1
            assert value(samples, "tauten_in_flight") == 0
            assert value(samples, "tauten_ready", workflow="flow") == 1
            assert value(samples, "tauten_build_info") == 1
            assert value(samples, "process_resident_memory_bytes") > 1e6
            told = str(samples)
            assert "secret" not in told
            assert "slow" not in told

    asyncio.run(main())


def test_stage_seconds_add_up_to_the_requests() -> None:
    async def main() -> None:
        async with site(Service(flow), apis=["native", "operations"]) as app:
            metrics = measured(app)
            for _ in range(5):
                await ask(app, "POST", "/v1/workflows/flow", {"inputs": {"text": "a"}})
            metrics.slice(1.0)
            samples = scraped(app)
            assert value(samples, "tauten_attributed_requests_total", workflow="flow") == 5
            staged = value(samples, "tauten_stage_seconds_sum", workflow="flow")
            whole = value(samples, "tauten_request_seconds_sum", workflow="flow")
            inside = value(samples, "tauten_stage_seconds_sum", workflow="flow", stage="work", cause="user")
            assert 5 * 0.001 < inside <= staged <= whole
            assert value(samples, "tauten_stage_seconds_count", stage="work", cause="user") == 5

    asyncio.run(main())


def test_members_of_a_map_are_one_stage_and_tokens_count_by_kind() -> None:
    metrics = Metrics(SimpleNamespace(services=(), in_flight=0, draining=False))  # type: ignore[arg-type]
    trace = Trace(0.0)
    for member in range(3):
        trace.add(f"ocr[{member}]", VISIT, float(member), member + 1.0)
        trace.add(f"ocr[{member}]", "compute", float(member), member + 1.0)
    trace.end = 3.0
    trace.spend("generate", "input_tokens", 40.0)
    trace.spend("generate", "output_tokens", 2.0)
    trace.spend("generate", "core_seconds", 9.0)
    metrics._attributed("desk", trace)
    assert {labels: each.total for labels, each in metrics.stages.series.items()} == {
        ("desk", "ocr", "compute"): pytest.approx(3.0)
    }
    assert metrics.tokens.series == {("desk", "input"): 40.0, ("desk", "output"): 2.0}


def talkative(tokens: int) -> Trace:
    """Two steps, of which one makes tokens while the other reads them; every fifth hand-over is late."""
    trace = Trace(0.0)
    trace.edges = {"speak": ("generate",)}
    trace.outputs = ("speak",)
    now = 0.5
    trace.add("generate", VISIT, 0.0, 0.5 + tokens * 0.012)
    trace.add("generate", "prefill", 0.0, now)
    for number in range(tokens):
        made = now + 0.01
        later = made + (0.006 if number % 5 == 0 else 0.001)
        trace.add("generate", "tokens", now, made)
        trace.add("generate", "loop", made, later)
        trace.add("speak", "assemble", now, later)
        now = later
    trace.add("speak", VISIT, 0.4, now + 0.1)
    trace.add("speak", "compute", now, now + 0.1)
    trace.end = now + 0.1
    return trace


def test_a_condensed_trace_has_the_same_sums_and_few_rows() -> None:
    trace = talkative(1000)
    short = condensed(trace)
    assert len(trace.rows) > 3000
    others = sum(cause not in ("tokens", "loop") for _, cause, _, _ in trace.rows)
    assert len(short.rows) < others + 40
    assert len(trace.rows) == 3004  # the trace itself is left alone
    assert attribute(short).exclusive() == pytest.approx(attribute(trace).exclusive(), abs=0.02)
    few = talkative(10)
    assert condensed(few) is few


def test_rows_that_do_not_follow_one_another_stay_apart() -> None:
    trace = Trace(0.0)
    for number in range(200):
        trace.add("generate", "tokens", number * 2.0, number * 2.0 + 1.0)
    trace.add("other", "loop", 0.0, 1.0)
    assert sorted(condensed(trace).rows) == sorted(trace.rows)


def test_looking_at_traces_stops_when_its_slice_is_over() -> None:
    now = itertools.count(0.0, 0.4)
    metrics = Metrics(SimpleNamespace(services=()), clock=lambda: next(now))  # type: ignore[arg-type]
    metrics._waiting.extend([("desk", Trace(0.0))] * 10)
    metrics.slice(1.0)
    assert metrics.looked_at.series == {("desk",): 3.0}
    assert len(metrics._waiting) == 7


def test_deployments_show_their_queues_batches_and_reasons() -> None:
    told = {"batches": 3, "batch_sizes": {1: 1, 8: 2}, "reasons": {"full": 2, "slack": 1}}
    counts = dict.fromkeys(
        ("idle", "done", "rejected", "shed", "expired", "bisected", "restarts", "retried"), 7
    )
    now = {"waiting": 4, "oldest_wait_s": 0.25, "running": 2, "replicas": 1, "zombies": 0, "wait_s": 0.5}
    view = msgspec.convert(
        {"label": "embed/onnx", "kind": "batch", "duration_ms": {}, **told, **counts, **now}, View
    )

    async def main() -> None:
        async with site(Service(flow), apis=["operations"]) as app:
            measured(app)
            deployments: Any = app.site.services["flow"].engine.deployments
            deployments.views = lambda: {"a": view, "b": msgspec.structs.replace(view, replicas=0)}
            samples = scraped(app)
            one = {"workflow": "flow", "deployment": "embed/onnx"}
            assert value(samples, "tauten_queue_length", **one) == 4
            assert value(samples, "tauten_batch_releases_total", reason="full", **one) == 2
            assert value(samples, "tauten_batch_size_sum", **one) == 17
            assert value(samples, "tauten_batch_size_bucket", le="6", **one) == 1
            assert value(samples, "tauten_zombies", **one) == 0
            assert value(samples, "tauten_replicas", deployment="embed/onnx#2") == 0
            assert value(samples, "tauten_ready", workflow="flow") == 0
            ready = await ask(app, "GET", "/health/ready")
            assert (ready.status, ready.json["reasons"]) == (503, ["flow: embed/onnx#2 is broken"])

    asyncio.run(main())


ROLES = {"model": Role("told", ("synthetic",), options={"ms_per_batch": 1.0})}


@tt.stage(pure=True, roles=ROLES)
async def embed(ctx: Context, text: str) -> str:
    return str(await ctx.infer("model", text))


@tt.workflow
def embedded(text: str) -> str:
    return embed(text)


def test_a_real_deployment_is_shown() -> None:
    async def main() -> None:
        async with site(Service(embedded), apis=["native", "operations"]) as app:
            measured(app)
            for number in range(3):
                body = {"inputs": {"text": str(number)}}
                assert (await ask(app, "POST", "/v1/workflows/embedded", body)).status == 200
            samples = scraped(app)
            assert value(samples, "tauten_batches_total", workflow="embedded") == 3
            assert value(samples, "tauten_batch_size_sum", workflow="embedded") == 3
            assert value(samples, "tauten_batch_releases_total", workflow="embedded") == 3
            assert value(samples, "tauten_queue_length", workflow="embedded") == 0
            assert value(samples, "tauten_replicas", workflow="embedded") == 1
            assert value(samples, "tauten_zombies", workflow="embedded") == 0

    asyncio.run(main())


def test_histograms_of_two_servers_add_up() -> None:
    one, two, both = Histogram(), Histogram(), Histogram()
    for seconds in [0.0, 0.001, 0.0011, 0.5, 119.0, 500.0]:
        one.observe(seconds)
        both.observe(seconds)
    for seconds in [0.02, 0.5]:
        two.observe(seconds)
        both.observe(seconds)
    assert [a + b for a, b in zip(one.cumulated(), two.cumulated(), strict=True)] == both.cumulated()
    assert both.cumulated()[-1] == both.count == 8
    assert (SECONDS[0], one.cumulated()[0]) == (0.001, 2)  # a bound belongs to its bucket


def test_buckets_run_from_a_millisecond_to_two_minutes_in_steps_of_about_half() -> None:
    assert (SECONDS[0], SECONDS[-1]) == (0.001, 120.0)
    steps = [later / earlier for earlier, later in itertools.pairwise(SECONDS)]
    assert all(1.35 < step < 1.6 for step in steps)


def test_families_are_bounded() -> None:
    counters = Counters("x", "x", ("name",))
    histograms = Histograms("y", "y", ("name",))
    for number in range(MOST_SERIES + 50):
        counters.add((str(number),))
        histograms.at((str(number),)).observe(1.0)
    assert len(counters.series) == len(histograms.series) == MOST_SERIES + 1
    assert counters.series["other",] == 50
    assert histograms.series["other",].count == 50


def test_every_error_has_an_outcome_and_a_reason() -> None:
    from tauten import errors

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.TautenError)
    ]
    for kind in kinds:
        error = kind("x")
        assert outcome_of(error.http_status, error) in OUTCOMES[1:]
        assert outcome_of(200, error) in OUTCOMES[1:]  # told inside a stream that had begun
        assert reason_of(error).replace("_", "").isalpha()
    assert outcome_of(200, None) == "ok"
    assert (outcome_of(200, ValueError()), reason_of(ValueError())) == ("failed", "internal")


def test_the_scrape_speaks_openmetrics_where_asked() -> None:
    async def main() -> None:
        async with site(Service(flow), apis=["operations"]) as app:
            measured(app)
            plain = await ask(app, "GET", "/metrics")
            assert plain.headers["content-type"].startswith("text/plain")
            newer = await ask(
                app, "GET", "/metrics", b"", {"accept": "application/openmetrics-text; version=1.0.0"}
            )
            assert newer.headers["content-type"].startswith("application/openmetrics-text")
            assert newer.body.endswith(b"# EOF\n")
        async with site(Service(flow), apis=["operations"]) as app:
            assert (await ask(app, "GET", "/metrics")).status == 404

    asyncio.run(main())
