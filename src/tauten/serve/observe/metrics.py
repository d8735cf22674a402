"""What Prometheus scrapes: requests, stages by cause, deployments, the event loop and the process.

A finished request costs a few microseconds. Where its time went is worked out later, in slices between
requests that take at most 2 % of the loop; under load a share of the requests is looked at, which the counter
of looked-at requests tells. Labels come from closed lists: workflows, plans, stages, causes, tenants of the
key file. Nothing that a client writes becomes a label.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import platform
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from tauten.clock import Clock, real
from tauten.errors import TautenError
from tauten.run.attribution import exclusive
from tauten.run.trace import Trace
from tauten.serve import probes
from tauten.serve.door import Call
from tauten.serve.exchange import Exchange
from tauten.serve.kept.traces import trace_of
from tauten.serve.observe.condensed import condensed
from tauten.serve.observe.exposition import Exposition, Labels
from tauten.serve.observe.gate_series import of_gates
from tauten.serve.observe.histogram import SIZES, Counters, Histogram, Histograms
from tauten.serve.observe.outcome import error_of, outcome_of, reason_of, status_of, went_well
from tauten.serve.observe.usage_series import of_the_book
from tauten.version import __version__

if TYPE_CHECKING:
    from tauten.run.deploy.queueing import View
    from tauten.serve.app import Site
    from tauten.serve.oip.express import Rider
    from tauten.serve.oip.ride import Line
    from tauten.serve.service import Service

Scrape = Callable[[str], tuple[Iterator[bytes], str]]

SLICE_S = 0.001  # of the loop at a time, shorter than anybody's latency target notices
EVERY_S = 0.05  # with the slice: at most 2 % of the loop
TOGETHER = 64  # requests are counted at a time: what is kept longer is in no cache any more
KEPT = 512  # traces that wait for their turn; under load newer ones are passed over
MOST_ROWS = 4000  # a longer trace (2000 tokens) would take more than a slice even when it is condensed
LAG_EVERY_S = 0.1


class Metrics:
    """Counts exchanges; an observer of the site."""

    def __init__(self, site: Site, *, clock: Clock = real) -> None:
        self.site = site
        self._clock = clock
        self._rides: list[list[Rider]] = []  # to be counted
        self._riders = 0  # in these
        self._waiting: deque[tuple[str, Trace | Rider]] = deque()
        by_plan = ("workflow", "plan")
        self.requests = Histograms(
            "tauten_request_seconds", "From arrival to the last byte.", (*by_plan, "outcome")
        )
        self.first_outputs = Histograms(
            "tauten_first_output_seconds", "From arrival to the first output.", by_plan
        )
        self.stages = Histograms(
            "tauten_stage_seconds",
            "Exclusive time on the path of a request, by stage and cause; adds up to its whole time.",
            ("workflow", "stage", "cause"),
        )
        self.lag = Histograms("tauten_loop_lag_seconds", "How late the event loop wakes a timer.", ())
        self.responses = Counters(
            "tauten_http_responses", "Answers by route and status.", ("route", "status")
        )
        self.refusals = Counters(
            "tauten_refusals", "Requests that got no answer, by reason.", ("workflow", "reason")
        )
        self.by_tenant = Counters("tauten_tenant_requests", "Requests by tenant.", ("tenant", "outcome"))
        self.tokens = Counters("tauten_tokens", "Tokens by kind.", ("workflow", "kind"))
        self.looked_at = Counters(
            "tauten_attributed_requests", "Requests whose stages and tokens were looked at.", ("workflow",)
        )

    # -- what happens -------------------------------------------------------------------------------------

    def finished(
        self, exchange: Exchange, call: Call | None, error: BaseException | None, seconds: float
    ) -> None:
        """Count an exchange that is over."""
        service = None if call is None else call.service
        status, outcome = exchange.status, "ok"
        if not went_well(exchange, call, error):
            ended = error_of(exchange, call, error)
            status = status_of(exchange, ended)
            outcome = outcome_of(status, ended)
            if ended is not None:
                self.refusals.add(("" if service is None else service.name, reason_of(ended)))
        self.responses.add(("none" if call is None else call.route.name, str(status)))
        if call is None or service is None:
            return
        workflow = service.name
        request = call.request
        plan = (request.plan if request is not None else "") or service.plan_id
        self.requests.at((workflow, plan, outcome)).observe(seconds)
        if call.caller.tenant:
            self.by_tenant.add((call.caller.tenant, outcome))
        if request is None:
            return
        trace = request.trace
        if trace.first_output is not None:
            self.first_outputs.at((workflow, plan)).observe(trace.first_output - trace.start)
        if len(self._waiting) < KEPT and len(trace.rows) <= MOST_ROWS:
            self._waiting.append((workflow, trace))

    def answered(self, riders: list[Rider]) -> None:
        """As `finished`, of some that ran in no task and went well: counted together with others."""
        self._rides.append(riders)
        self._riders += len(riders)
        if self._riders >= TOGETHER:
            self.count()

    def turned_away(self, riders: list[Rider], error: TautenError) -> None:
        """As `finished`, of some that were refused for one reason before anything was begun."""
        line, count = riders[0].way.line, len(riders)
        service, outcome = line.service, outcome_of(error.http_status, error)
        self.refusals.add((service.name, reason_of(error)), count)
        self.responses.add((line.route, str(error.http_status)), count)
        found = self.requests.at((service.name, service.plan_id, outcome))
        found.observe_all([rider.seconds for rider in riders])
        for tenant, of in Counter([rider.caller.tenant for rider in riders]).items():
            if tenant:
                self.by_tenant.add((tenant, outcome), of)

    # -- later --------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Count the rides that were put aside: those of one kind by one look at its series."""
        rides, self._rides, self._riders = self._rides, [], 0
        kinds: dict[tuple[Line, str, str], list[Rider]] = {}
        firsts: dict[tuple[Line, str, str], list[float]] = {}
        for riders in rides:
            first = riders[0]
            kind, end = (first.way.line, first.plan, first.caller.tenant), first.end
            kinds.setdefault(kind, []).extend(riders)
            firsts.setdefault(kind, []).extend([end - rider.came + rider.lag_s for rider in riders])
        for kind, riders in kinds.items():
            line, plan, tenant = kind
            workflow = line.service.name
            self.responses.add((line.route, "200"), len(riders))
            self.requests.at((workflow, plan, "ok")).observe_all([rider.seconds for rider in riders])
            self.first_outputs.at((workflow, plan)).observe_all(firsts[kind])
            if tenant:
                self.by_tenant.add((tenant, "ok"), len(riders))
            room = KEPT - len(self._waiting)
            self._waiting.extend((workflow, rider) for rider in riders[:room])

    async def run(self) -> None:
        """Look at finished requests between others, and at the loop's lag; until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            group.create_task(self._feel())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self.slice(SLICE_S)

    async def _feel(self) -> None:
        histogram = self.lag.at(())
        while True:
            asked = self._clock()
            await asyncio.sleep(LAG_EVERY_S)
            histogram.observe(max(0.0, self._clock() - asked - LAG_EVERY_S))

    def slice(self, seconds: float) -> None:
        """Work on what waits for at most `seconds`, at least on one."""
        self.count()
        until = self._clock() + seconds
        while self._waiting:
            workflow, kept = self._waiting.popleft()
            self._attributed(workflow, trace_of(kept))
            if self._clock() >= until:
                return

    def _attributed(self, workflow: str, trace: Trace) -> None:
        self.looked_at.add((workflow,))
        for (step, cause), seconds in exclusive(condensed(trace)).items():
            name = step.partition("[")[0] or "engine"  # members of a map are one stage
            self.stages.at((workflow, name, cause)).observe(seconds)
        for _, unit, amount in trace.spent:
            if unit.endswith("_tokens"):
                self.tokens.add((workflow, unit.removesuffix("_tokens")), amount)

    # -- the scrape ---------------------------------------------------------------------------------------

    def shown(self, page: Exposition) -> Iterator[str]:
        """All families as text, in pieces."""
        self.count()
        counted = (self.requests, self.first_outputs, self.stages, self.lag, self.responses, self.refusals)
        for each in (*counted, self.by_tenant, self.tokens, self.looked_at):
            yield from each.shown(page)
        yield from _of_the_site(self.site, page)
        yield from _of_services(self.site, page)
        yield from _of_deployments(self.site, page)
        yield from _of_caches(self.site, page)
        yield from of_gates(page)
        yield from of_the_book(self.site.book, page)

    def exposition(self) -> Scrape:
        """A function from an Accept header to the pieces of a page and its type."""
        from prometheus_client import CollectorRegistry, ProcessCollector
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)

        def pieces(accept: str) -> tuple[Iterator[bytes], str]:
            encode, media_type = choose_encoder(accept)
            page = Exposition(openmetrics=media_type.startswith("application/openmetrics-text"))
            ours = (text.encode() for text in self.shown(page))
            process = (encode(registry) for _ in range(1))  # the last: OpenMetrics ends with a mark
            return chain(ours, process), media_type

        return pieces


def _of_the_site(site: Site, page: Exposition) -> Iterator[str]:
    """What the server holds, keeps and shares."""
    flights, sessions = site.door.flights, site.door.sessions
    gauges = (
        ("tauten_in_flight", "Exchanges and sockets that are open now.", site.in_flight),
        ("tauten_sessions", "Sessions that may be gone on with.", len(sessions)),
    )
    counters = (
        (
            "tauten_single_flight_joins",
            "Requests that shared the computation of another.",
            flights.joined if flights is not None else 0,
        ),
        (
            "tauten_idempotent_replays",
            "Replies that were sent again for an idempotency key.",
            site.idempotency.replayed,
        ),
        ("tauten_sessions_begun", "Sessions that were begun.", sessions.begun),
    )
    for name, text, value in gauges:
        yield from page.gauge(name, text, (), [((), value)])
    for name, text, value in counters:
        yield from page.counter(name, text, (), [((), value)])
    ended = [((reason,), count) for reason, count in sessions.ended.items()]
    yield from page.counter("tauten_sessions_ended", "Sessions that are over, by reason.", ("reason",), ended)
    facts = {"version": __version__, "python": platform.python_version()}
    yield from page.info("tauten_build", "What runs.", facts)


def _of_services(site: Site, page: Exposition) -> Iterator[str]:
    ready = [
        ((service.name,), not (site.draining or probes.unready_service(service))) for service in site.services
    ]
    running = [
        ((service.name, opened.id), opened.running)
        for service in site.services
        for opened in list(service.engine.plans.values())
    ]
    yield from page.gauge("tauten_ready", "1 where requests are taken.", ("workflow",), ready)
    yield from page.gauge("tauten_running", "Requests that a plan runs now.", ("workflow", "plan"), running)


_GAUGES = {
    "waiting": ("tauten_queue_length", "Requests that wait in a deployment, or for who decodes or prepares."),
    "oldest_wait_s": ("tauten_queue_oldest_seconds", "How long the first of them has waited."),
    "wait_s": ("tauten_queue_wait_seconds", "How long one more request would wait."),
    "running": ("tauten_deployment_running", "Requests that a deployment works on."),
    "zombies": ("tauten_zombies", "Pieces of work that run on although nobody waits for them."),
}
_REPLICAS = "tauten_replicas", "Instances that work, or slots of an engine that batches by itself."
_COUNTS = {
    "rejected": ("tauten_rejected", "Requests refused by a deployment's admission."),
    "shed": ("tauten_shed", "Waiting requests given up for more urgent ones."),
    "expired": ("tauten_expired", "Requests whose deadline passed while they waited."),
}
_RUNS = {
    "batches": ("tauten_batches", "Batches that a deployment ran."),
    "bisected": ("tauten_batches_bisected", "Batches cut in two to find the input that breaks them."),
    "restarts": ("tauten_replica_restarts", "Instances that died and were opened anew."),
    "retried": ("tauten_retried", "Requests run again after an instance died."),
}


def _of_deployments(site: Site, page: Exposition) -> Iterator[str]:
    """Families from the plain facts that deployments tell, and crews where they have the same."""
    labels = ("workflow", "deployment")
    seen = _labelled(site, probes.deployments)
    places = seen + _labelled(site, probes.crews)
    for key, words in _GAUGES.items():
        yield from page.gauge(*words, labels, [(at, getattr(view, key)) for at, view in places])
    for key, words in _COUNTS.items():
        yield from page.counter(*words, labels, [(at, getattr(view, key)) for at, view in places])
    yield from page.gauge(*_REPLICAS, labels, [(at, view.replicas) for at, view in seen])
    for key, words in _RUNS.items():
        yield from page.counter(*words, labels, [(at, getattr(view, key)) for at, view in seen])
    reasons = [((*at, reason), count) for at, view in seen for reason, count in view.reasons.items()]
    yield from page.counter(
        "tauten_batch_releases", "Batches by the reason that closed them.", (*labels, "reason"), reasons
    )
    sizes = [(at, _sizes(view.batch_sizes)) for at, view in seen if view.batch_sizes]
    yield from page.histogram("tauten_batch_size", "Members of a batch.", labels, SIZES, sizes)


_CACHED = {
    "hits": ("tauten_cache_hits", "Results that a cache gave."),
    "misses": ("tauten_cache_misses", "Results that it had not."),
    "passed": ("tauten_cache_passed", "Results that have no name, draw by lot, or may not be kept."),
    "saved_s": ("tauten_cache_saved_seconds", "What the results that it gave had taken to compute."),
    "saved_cents": ("tauten_cache_saved_cents", "What they had cost."),
    "stale": ("tauten_cache_stale", "Results given beyond their time, and computed anew behind."),
    "refreshed": ("tauten_cache_refreshed", "Results computed anew behind a request."),
}
_LET_GO = {
    "evictions": ("tauten_cache_evictions", "Results that went for others."),
    "refused": ("tauten_cache_refused", "Results not worth what they would have pushed out."),
}
_HELD = {
    "size_bytes": ("tauten_cache_bytes", "What a cache holds."),
    "bound_bytes": ("tauten_cache_bound_bytes", "What it may hold."),
    "entries": ("tauten_cache_entries", "Results that it holds."),
}


def _of_caches(site: Site, page: Exposition) -> Iterator[str]:
    """Families of the caches that plans ask for, by stage and by what they hold."""
    labels = ("workflow", "stage", "holds")
    seen = [
        ((service.name, *name), cache)
        for service in site.services
        for name, cache in service.engine.deployments.caches.seen().items()
    ]
    for key, words in _CACHED.items():
        yield from page.counter(*words, labels, [(at, getattr(cache, key)) for at, cache in seen])
    for key, words in _LET_GO.items():
        yield from page.counter(*words, labels, [(at, getattr(cache.holdings, key)) for at, cache in seen])
    for key, words in _HELD.items():
        yield from page.gauge(*words, labels, [(at, getattr(cache.holdings, key)) for at, cache in seen])
    tiers = [((*at, name), tier) for at, cache in seen for name, tier in cache.tiers.items()]
    hits = [(at, tier.hits) for at, tier in tiers]
    yield from page.counter("tauten_cache_tier_hits", "Results that a tier gave.", (*labels, "tier"), hits)
    events = [((*at, event), count) for at, tier in tiers for event, count in tier.events.items()]
    named = (*labels, "tier", "event")
    yield from page.counter("tauten_cache_tier_events", "What befell a tier.", named, events)


def _labelled(site: Site, views: Callable[[Service], list[tuple[str, View]]]) -> list[tuple[Labels, View]]:
    return [((service.name, label), view) for service in site.services for label, view in views(service)]


def _sizes(counts: Mapping[int, int]) -> Histogram:
    """Batch sizes, from how often each was run."""
    histogram = Histogram(SIZES)
    for size, times in counts.items():
        histogram.observe(size, times)
    return histogram
