"""The layers one by one, at the API of a real server over the slow service: what each saves, and what a change does.

Every figure is measured by a client in this process against `tauten serve` in another one, over loopback. The service
waits 400 ms for each lookup, as the published case does, and counts how often it was asked.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import msgspec

from tauten.errors import MachineError
from tauten.examples.assistant import plans
from tauten.examples.assistant.orders import Orders, bundled, read
from tauten.examples.assistant.recording import recording
from tauten.examples.assistant.server import Answered, Server, serving
from tauten.examples.assistant.service import Service
from tauten.examples.assistant.source import ADDRESS
from tauten.plan.plan import Plan
from tauten.statistics.percentiles import percentile

Say = Callable[[str], None]
Note = Callable[[str, Answered], None]

ORDERS = "tauten.examples.assistant.lookup:order_desk"
WHOLE = "tauten.examples.assistant.desk:assistant"
AT_ONCE = 20  # clients that ask the same: enough to tell one lookup from many
SOON_S = 2.0  # of the plan under which results grow old here, so that nobody waits for a minute: ttl
STALE_S = 2.0  # and as long again they may be given while they are computed anew
PAUSE_S = 0.05  # between questions while something grows old
ALONG_S = 3 * SOON_S  # three lives of a result: each end is seen


class Size(msgspec.Struct, frozen=True):
    """How much is asked."""

    orders: int  # that are looked up
    hits: int  # asked again, in all
    pages: int  # questions about the pages; 0 leaves models out


QUICK = Size(orders=3, hits=200, pages=0)
FULL = Size(orders=20, hits=2000, pages=8)


class Layer(msgspec.Struct, frozen=True):
    """What one layer did."""

    name: str
    asked: int
    lookups: int  # that reached the service
    p50_ms: float
    p99_ms: float
    worst_ms: float


class Moment(msgspec.Struct, frozen=True):
    """One answer of a scene, and when it came."""

    at_s: float
    what: str
    status: int
    answer: str
    ms: float


class Held(msgspec.Struct, frozen=True):
    """What the cache of one step did, by the server's own count."""

    step: str
    tier_hits: dict[str, int]
    misses: int
    saved_s: float
    saved_cents: float


class Tour(msgspec.Struct):
    """All that was seen."""

    layers: list[Layer] = []
    scenes: dict[str, list[Moment]] = {}
    held: list[Held] = []
    left_out: list[str] = []

    def layer(self, name: str) -> Layer:
        return next(each for each in self.layers if each.name == name)


def tour(size: Size, *, redis: str = "", say: Say = lambda text: None) -> Tour:
    """Serve without layers, then with them, and ask."""
    with Service() as service, tempfile.TemporaryDirectory() as results:
        guide = _Guide(service, results, size, redis, say)
        guide.without()
        guide.with_layers()
        guide.elsewhere()
        return guide.found


class _Guide:
    """Asks, and notes what came."""

    def __init__(self, service: Service, results: str, size: Size, redis: str, say: Say) -> None:
        self.service = service
        self.orders: Orders = service.orders
        self.size = size
        self.redis = redis
        self.say = say
        self.found = Tour()
        self.environment = {ADDRESS: service.url, "TAUTEN_RESULTS": results}
        if redis:
            self.environment["TAUTEN_REDIS"] = redis
        self.target = WHOLE if size.pages else ORDERS
        self.numbers = [order.number for order in bundled()]
        self.pages = [
            str(item.inputs["question"])
            for item in recording(split="dev")
            if item.tags[:2] == ("page", "first")
        ][: size.pages]

    # -- plans --------------------------------------------------------------------------------------------

    def plan(self, plan: Plan) -> Plan:
        """For the workflow that is served; with Redis behind the memory where there is one."""
        fitted = plan if self.size.pages else plans.of_orders(plan)
        if not self.redis or plan.name == "naive":
            return fitted
        return plans.ruled(fitted, tiers=("memory", "redis"))

    def serving(self, plan: Plan) -> AbstractContextManager[Server]:
        return serving(self.target, self.plan(plan), self.environment)

    # -- without, and with --------------------------------------------------------------------------------

    def without(self) -> None:
        self.say("without layers")
        with self.serving(plans.naive()) as server:
            self._layer("none", (server.ask(_where(number)) for number in self._some()))
            if self.pages:
                self._layer("none, a page and the model", map(server.ask, self.pages))

    def with_layers(self) -> None:
        self.say("with layers")
        with self.serving(plans.layered()) as server:
            self._at_once(server)
            self._layer("miss", (server.ask(_where(number)) for number in self._some(1)))
            known = self._some(1)[-1]  # the youngest
            self._layer("memory, same words", self._again(server, [_where(known)]))
            self._layer("memory, other words", self._again(server, _in_other_words(known)))
            self._unknown(server)
            self._pages(server)
            self._change(server)
            self.found.held = held(server)
            server.swap(self.plan(plans.ruled(plans.layered(), ttl_s=SOON_S, stale_s=STALE_S)))
            self._stale(server)
            self._along(server)
            self._down(server)

    def _some(self, turn: int = 0) -> list[str]:
        """Orders that no other scene asks for."""
        return self.numbers[turn * self.size.orders : (turn + 1) * self.size.orders]

    def _again(self, server: Server, questions: Sequence[str]) -> Iterable[Answered]:
        for _, question in zip(range(self.size.hits), itertools.cycle(questions), strict=False):
            yield server.ask(question)

    # -- layers -------------------------------------------------------------------------------------------

    def _layer(self, name: str, answers: Iterable[Answered]) -> None:
        before = self.orders.looked
        times_ms = [_good(answer).ms for answer in answers]
        self.found.layers.append(_summed(name, times_ms, self.orders.looked - before))

    def _at_once(self, server: Server) -> None:
        """The first to ask computes, and those who come meanwhile share it."""
        question = _where(self.numbers[-1])
        clients = [server.another() for _ in range(AT_ONCE)]

        def asked() -> Iterator[Answered]:  # begins when the layer has begun to count
            with ThreadPoolExecutor(AT_ONCE) as threads:
                yield from threads.map(lambda each: each.ask(question), clients)

        self._layer(f"single-flight, {AT_ONCE} at once", asked())
        for client in clients:
            client.close()

    def _unknown(self, server: Server) -> None:
        question = _where(read().unknown[0])
        self._layer("unknown order, first", map(server.ask, [question]))
        few = self.size.hits // 4  # it is not kept for long
        self._layer("unknown order, kept", itertools.islice(self._again(server, [question]), few))

    def _pages(self, server: Server) -> None:
        if not self.pages:
            self.found.left_out.append("embedding, search, quotation and sentence: they need models")
            return
        self._layer("a page: miss", map(server.ask, self.pages))
        self._layer("a page: memory, all steps", self._again(server, self.pages))

    # -- scenes -------------------------------------------------------------------------------------------

    def _change(self, server: Server) -> None:
        """An order goes on: within its time the old answer may come; once the tag is forgotten, never."""
        order = bundled()[-2]
        states = [state for state in ("delivered", "packed") if state != order.state]
        with self._scene("a change") as note:
            question = _where(order.number)
            note("asked first", server.ask(question))
            self.orders.change(order.number, states[0])
            note(f"now {states[0]}, and nobody said so", server.ask(question))
            server.forget("tag:orders")
            note("tag:orders forgotten", server.ask(question))
            note("asked again", server.ask(question))

    def _stale(self, server: Server) -> None:
        """Beyond its time an answer still comes at once, and is looked up anew behind it."""
        order = bundled()[-3]
        with self._scene("stale") as note:
            question = _where(order.number)
            note("asked first", server.ask(question))
            self.orders.change(order.number, "sent back" if order.state != "sent back" else "packed")
            time.sleep(SOON_S)
            note("too old, given while it is looked up", server.ask(question))
            time.sleep(3 * self.orders.wait_s)
            note("a moment later", server.ask(question))

    def _along(self, server: Server) -> None:
        """One order asked all the time: it is looked up anew before its time is over, and nobody waits."""
        question = _where(bundled()[-4].number)
        server.ask(question)
        until = time.monotonic() + ALONG_S

        def asked() -> Iterable[Answered]:
            while time.monotonic() < until:
                time.sleep(PAUSE_S)
                yield server.ask(question)

        self._layer("early refresh, asked all the time", asked())

    def _down(self, server: Server) -> None:
        """The service fails: what is not too old is given, then an error says so; never an older answer."""
        question = _where(bundled()[-5].number)
        with self._scene("the service is down") as note:
            note("asked while it is up", server.ask(question))
            self.orders.down = True
            last = ""
            until = time.monotonic() + SOON_S + STALE_S + 1.0
            while time.monotonic() < until and last != "error":
                time.sleep(PAUSE_S)
                answer = server.ask(question)
                came = "answer" if answer.status == 200 else "error"
                if came != last:
                    note("down" if came == "answer" else "too old", answer)
                last = came
            self.orders.down = False
            note("up again", server.ask(question))

    @contextmanager
    def _scene(self, name: str) -> Iterator[Note]:
        self.say(name)
        began = time.monotonic()
        moments = self.found.scenes.setdefault(name, [])

        def note(what: str, answer: Answered) -> None:
            moments.append(Moment(time.monotonic() - began, what, answer.status, answer.text, answer.ms))

        yield note

    # -- other processes ----------------------------------------------------------------------------------

    def elsewhere(self) -> None:
        """What another process finds: on disk after a restart, on Redis from a neighbour."""
        if self.pages:
            self.say("after a restart")
            with self.serving(plans.layered()) as server:
                self._layer("a page: disk, after a restart", map(server.ask, self.pages))
        else:
            self.found.left_out.append("disk: what is kept there needs models")
        if self.redis:
            self._neighbour()
        else:
            self.found.left_out.append("redis: no server was named")
        self.found.left_out.append("likeness: off in this plan; a gate needs evidence first")

    def _neighbour(self) -> None:
        self.say("two servers with one Redis")
        numbers, first = self._some(2), _where(self.numbers[-6])
        with self.serving(plans.layered()) as one, self.serving(plans.layered()) as other:
            other.ask(first)  # its connection is made: a look that waits for that would be given up
            for number in numbers:
                one.ask(_where(number))
            self._layer("redis, from a neighbour", (other.ask(_where(number)) for number in numbers))


def held(server: Server) -> list[Held]:
    """What the caches did, step by step."""
    return [
        Held(
            each["stage"],
            {name: tier["hits"] for name, tier in each["tiers"].items()},
            each["misses"],
            each["saved_s"],
            each["saved_cents"],
        )
        for each in server.caches()
        if each["holds"] == "results"
    ]


def redis_of_this_machine() -> str:
    """The address that this machine's servers share; empty where there is none."""
    return os.environ.get("TAUTEN_REDIS", "")


def _summed(name: str, times_ms: Sequence[float], lookups: int) -> Layer:
    return Layer(
        name,
        len(times_ms),
        lookups,
        percentile(times_ms, 0.5),
        percentile(times_ms, 0.99),
        max(times_ms),
    )


def _good(answer: Answered) -> Answered:
    """One that is no error: how long that took says nothing of a layer."""
    if answer.status != 200:
        raise MachineError(f"the server answered {answer.status}: {answer.text}", help="tauten doctor")
    return answer


def _where(number: str) -> str:
    return f"Where is my order {number}?"


def _in_other_words(number: str) -> list[str]:
    digits = number.removeprefix("T-")
    return [f"any news of order {digits}?", f"Has {number} left you yet?", f"status of #{digits} please"]
