"""Work that was shared, replies that were repeated and sessions, as Prometheus and a collector see them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_stream import Client
from serve.test_metrics import measured, scraped, value
from serve.test_telemetry import collector, exporting, values
from tauten.errors import NotFound
from tauten.serve.app import App, Site
from tauten.serve.kept.sessions import Sessions
from tauten.serve.observe import genai
from tauten.serve.observe.exposition import Exposition, number
from tauten.serve.observe.histogram import Histogram, Histograms
from tauten.serve.observe.telemetry import _observed, _of_the_site
from tauten.serve.server import Server, Settings
from tauten.serve.service import Service


@tt.stage(pure=True)
async def slow(text: str) -> str:
    await asyncio.sleep(0.01)
    return text


@tt.workflow
def flow(text: str) -> str:
    return slow(text)


@tt.workflow
async def talk(text: str, session: tt.Session) -> str:
    return text


async def busy(app: App) -> None:
    """Three requests that share one run, two repetitions, two sessions, one of them ended."""
    path, body = "/v1/workflows/flow", {"inputs": {"text": "same"}}
    await asyncio.gather(*(ask(app, "POST", path, body) for _ in range(3)))
    for _ in range(3):
        await ask(app, "POST", path, body, {"idempotency-key": "one"})
    talked = {"inputs": {"text": "x"}}
    opened = [await ask(app, "POST", "/v1/workflows/talk", talked) for _ in range(2)]
    await ask(app, "DELETE", f"/v1/sessions/{opened[0].json['session']}")


def test_a_scrape_counts_what_was_shared_repeated_and_kept() -> None:
    async def main() -> None:
        async with site(Service(flow), Service(talk), apis=["native", "operations"]) as app:
            measured(app)
            await busy(app)
            samples = scraped(app)
            assert value(samples, "tauten_single_flight_joins_total") == 2
            assert value(samples, "tauten_idempotent_replays_total") == 2
            assert value(samples, "tauten_sessions") == 1
            assert value(samples, "tauten_sessions_begun_total") == 2
            ended = {
                each: value(samples, "tauten_sessions_ended_total", reason=each)
                for each in ("expired", "evicted", "deleted")
            }
            assert ended == {"expired": 0, "evicted": 0, "deleted": 1}

    asyncio.run(main())


def test_a_collector_hears_the_same() -> None:
    async def main() -> None:
        async with site(Service(flow), Service(talk), apis=["native"]) as app:
            telemetry = await exporting(app, url)
            await busy(app)
            await telemetry.close()

    with collector() as (url, kept):
        asyncio.run(main())
    counts: dict[str, dict[str, int]] = {}
    for name in (
        genai.SHARED_FLIGHTS,
        genai.REPLAYS,
        genai.SESSIONS,
        genai.SESSIONS_BEGUN,
        genai.SESSIONS_ENDED,
    ):
        points = kept.metrics[name].sum.data_points
        counts[name] = {values(each.attributes).get(genai.END_REASON, ""): each.as_int for each in points}
    assert counts == {
        "tauten.single_flight.joins": {"": 2},
        "tauten.idempotent.replays": {"": 2},
        "tauten.sessions": {"": 1},
        "tauten.sessions.begun": {"": 2},
        "tauten.sessions.ended": {"expired": 0, "evicted": 0, "deleted": 1},
    }
    assert kept.metrics[genai.REPLAYS].sum.is_monotonic
    assert not kept.metrics[genai.SESSIONS].sum.is_monotonic


def test_sessions_say_how_they_ended() -> None:
    now = [0.0]
    sessions = Sessions(most=3, idle_s=100, clock=lambda: now[0])
    first, second = sessions.open("a"), sessions.open("b")
    sessions.end("b", second.id)
    assert (sessions.begun, sessions.ended) == (2, {"expired": 0, "evicted": 0, "deleted": 1})
    for _ in range(4):
        sessions.open("greedy")
    assert sessions.ended == {"expired": 0, "evicted": 2, "deleted": 1}
    assert sessions.open("a", first.id) is first
    now[0] = 100.0
    with pytest.raises(NotFound):
        sessions.open("a", first.id)
    assert sessions.ended["expired"] == 1
    assert len(sessions) == 2  # nobody has looked at the others
    sessions.tidy()
    assert (len(sessions), sessions.ended["expired"]) == (0, 3)
    assert sessions.begun == sum(sessions.ended.values())


def test_a_server_tidies_up_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tauten.serve.server.TIDY_S", 0.01)

    async def main() -> None:
        server = Server([Service(flow)], Settings(port=0, grpc_port=None))
        server.site.door.sessions = sessions = Sessions(idle_s=0.0)
        sessions.open("a")
        try:
            await server.start()
            async with asyncio.timeout(10):
                while len(sessions):
                    await asyncio.sleep(0.01)
        finally:
            await server.close()
        assert sessions.ended["expired"] == 1

    asyncio.run(main())


def test_without_single_flight_there_is_a_zero() -> None:
    class NoFlights:
        flights = None
        sessions = Sessions()

    bare: Any = Site([])
    bare.door = NoFlights()
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    read = {name: reading for name, _, _, reading in _of_the_site(bare)}
    meter.create_observable_counter("joins", [lambda _: _observed(read[genai.SHARED_FLIGHTS], None)])
    data = reader.get_metrics_data()
    assert data is not None
    [point] = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert point.value == 0  # type: ignore[union-attr]


# -- the text of a scrape -------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text;version=1.0.0"])
def test_both_formats_are_read_by_their_parsers(accept: str) -> None:
    async def main() -> None:
        async with site(Service(flow), apis=["native", "operations"]) as app:
            metrics = measured(app)
            metrics.stages.at(('odd "name"', "back\\slash\nand %d", "compute")).observe(0.02)
            client = Client(app, "GET", "/metrics", b"", {"accept": accept} if accept else None)
            await client.done()
            strict = accept.startswith("application/openmetrics")
            assert client.headers["content-type"].startswith(
                "application/openmetrics-text" if strict else "text/plain"
            )
            text = client.body.decode()
            families = list(openmetrics(text) if strict else plain(text))
            named = {family.name: family for family in families}
            assert named["tauten_sessions_ended"].type == "counter"
            assert named["tauten_sessions"].type == "gauge"
            assert ("tauten_build" if strict else "tauten_build_info") in named
            assert "process_resident_memory_bytes" in named
            odd = named["tauten_stage_seconds"].samples
            assert {each.labels["workflow"] for each in odd} == {'odd "name"'}
            assert {each.labels["stage"] for each in odd} == {"back\\slash\nand %d"}
            buckets = [each.value for each in odd if each.name.endswith("_bucket")]
            assert (buckets[0], buckets[-1]) == (0, 1)
            assert len(buckets) == 31
            assert [each.value for each in odd if each.name.endswith("_sum")] == [0.02]

    asyncio.run(main())


def test_a_large_page_comes_in_pieces_between_which_requests_go_on() -> None:
    async def main() -> None:
        async with site(Service(flow), apis=["operations"]) as app:
            metrics = measured(app)
            for number_ in range(400):
                metrics.stages.at(("flow", f"step{number_}", "compute")).observe(0.02)
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            going = asyncio.create_task(others())
            page = await ask(app, "GET", "/metrics")
            going.cancel()
            assert turns > 400 / 32
            assert page.body.count(b"tauten_stage_seconds_count{") == 400

    asyncio.run(main())


def test_a_family_without_labels_and_numbers_that_are_none() -> None:
    page = Exposition(openmetrics=False)
    lag = Histograms("lag", "Late.", (), bounds=(1.0,))
    lag.at(()).observe(0.5)
    text = "".join(lag.shown(page))
    assert text.splitlines()[2:] == [
        'lag_bucket{le="1.0"} 1',
        'lag_bucket{le="+Inf"} 1',
        "lag_count 1",
        "lag_sum 0.5",
    ]
    assert [number(each) for each in (float("inf"), float("-inf"), float("nan"), True, 3)] == [
        "+Inf",
        "-Inf",
        "NaN",
        "1.0",
        "3.0",
    ]
    assert "".join(page.histogram("none", "Nothing.", (), (1.0,), [])).count("\n") == 2
    assert Histogram((1.0,)).cumulated() == [0, 0]
