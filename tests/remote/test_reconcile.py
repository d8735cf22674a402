"""The books against a provider's own count, to the token: answers that are cut, left, hedged, gone on with, mirrored and late."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import csv
import math
import tempfile
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from remote.kit_lines import end, word
from tauten.clock import run_virtual
from tauten.errors import TautenError
from tauten.plan.plan import Plan
from tauten.run.opened import Opened
from tauten.run.remote.chat import Chat
from tauten.run.remote.endpoint import Endpoint
from tauten.run.remote.errand import Errand
from tauten.run.remote.failure import Failure
from tauten.run.remote.line import Content, Reply
from tauten.run.remote.phases import Phases
from tauten.run.remote.providers import Provider
from tauten.run.remote.route import Route
from tauten.run.remote.trail import Trail
from tauten.run.request import Request
from tauten.run.usage.book import Book
from tauten.run.usage.reconcile import compare, read_export
from tauten.run.usage.report import report
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import quiet


class Act(NamedTuple):
    """What a call meets: so many words, the first after a while, then how it goes on."""

    how: str  # whole, cut, silent, refused, unreachable
    words: int
    first_s: float
    gap_s: float


class Till:
    """A provider that bills a prompt when it has read it, and each word as it sends it; errors cost nothing."""

    def __init__(self) -> None:
        self.tokens: Counter[tuple[str, str]] = Counter()

    def export(self, path: Path) -> None:
        """As it gives it to its customers."""
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["model", "n_context_tokens_total", "n_generated_tokens_total"])
            for model in sorted({model for model, _ in self.tokens}):
                rows.writerow([model, self.tokens[model, "input"], self.tokens[model, "output"]])


class TillReply:
    def __init__(self, till: Till, model: str, prompt: int, act: Act, most: int) -> None:
        self.status = {"refused": 503}.get(act.how, 200)
        self.headers: Mapping[str, str] = {}
        self._till, self._model, self._prompt, self._act, self._most = till, model, prompt, act, most

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        if self.status != 200:
            yield b'{"error": {"message": "busy"}}'
            return
        act = self._act
        # what dies before its first word nobody can count: it is booked as unknown, and not compared here
        count = max(min(act.words, self._most), act.how == "cut")
        for number in range(count):
            await asyncio.sleep(act.gap_s if number else 0.0)
            self._till.tokens[self._model, "output"] += 1
            yield word("so ")
        await asyncio.sleep(act.gap_s)
        if act.how == "cut":
            raise Failure("fault", "connection lost")
        if act.how == "silent":
            await asyncio.sleep(1e6)
        yield end(count, prompt=self._prompt)

    def release(self) -> None:
        return

    def close(self) -> None:
        return


class TillLine:
    """Meets each call with the next act; the last one stays."""

    def __init__(self, till: Till, acts: Sequence[Act]) -> None:
        self._till = till
        self._acts = deque(acts)

    async def send(self, path: str, content: Content, phases: Phases) -> Reply:
        act = self._acts.popleft() if len(self._acts) > 1 else self._acts[0]
        if act.how == "unreachable":
            raise Failure("fault", "connection refused")
        body = msgspec.json.decode(content.body)
        prompt = sum(4 + math.ceil(len(each["content"]) / 4) for each in body["messages"])
        phases.sent = phases.clock()
        if act.how != "refused":
            self._till.tokens[body["model"], "input"] += prompt
            await asyncio.sleep(act.first_s)
        return TillReply(self._till, body["model"], prompt, act, body.get("max_tokens") or 99)

    async def close(self) -> None:
        return


class Wish(NamedTuple):
    """One request: when it comes, what time it has, and after how many pieces its reader leaves or is cut off."""

    starts_s: float
    left_s: float
    takes: int
    cancelled_s: float
    question: str


ACT = st.builds(
    Act,
    st.sampled_from(["whole", "whole", "cut", "silent", "refused", "unreachable"]),
    st.integers(0, 6),
    st.sampled_from([0.05, 0.4, 3.0]),
    st.sampled_from([0.0, 0.02, 0.7]),
)
WISH = st.builds(
    Wish,
    st.sampled_from([0.0, 0.1, 2.0]),
    st.sampled_from([math.inf, 5.0, 1.2]),
    st.sampled_from([99, 99, 1, 3]),
    st.sampled_from([math.inf, math.inf, 0.3, 1.0]),
    st.sampled_from(["hi", "How deep is the sea?", "Größe?"]),
)


@tt.stage
async def nothing(words: tt.Text) -> str:
    return words.text


@tt.workflow
def flow(words: tt.Text) -> str:
    return nothing(words)  # type: ignore[call-arg,arg-type,return-value]


OPENED = Opened(Plan(), flow, None)


async def asked(book: Book, route: Route, wish: Wish) -> None:
    """One request to its end, whatever way, and into the book."""
    await asyncio.sleep(wish.starts_s)
    clock = asyncio.get_running_loop().time
    request = Request(clock, deadline=clock() + wish.left_s, tenant="desk")
    item = {"messages": [{"role": "user", "content": wish.question}], "max_tokens": 5}
    errand = Errand(Chat(item), route, Trail(request, "ask"))
    seen, failed = 0, None
    try:
        async with aclosing(errand.chunks()) as chunks:
            async for chunk in chunks:
                seen += bool(chunk.text)
                if seen >= wish.takes:
                    break
    except (TautenError, asyncio.CancelledError) as error:
        failed = error
    book.ended(OPENED, request, whole=failed is None, error=failed)


async def scene(book: Book, till: Till, acts: list[list[Act]], wishes: list[Wish], **options: Any) -> None:
    """All requests on one route of as many endpoints; the last one is the mirror."""
    clock = asyncio.get_running_loop().time
    ends = [
        Endpoint(Provider(url="http://told", name=f"p{at}"), f"m{at}", TillLine(till, each), clock)
        for at, each in enumerate(acts)
    ]
    route = Route(ends[:-1], mirror=(ends[-1], 0.5), patience_s=10.0, **options)
    for _ in range(8):
        route.hedging.observe(0.05, 0.1)
    route.hedging._share.left = 1e6
    tasks = []
    for wish in wishes:
        task = asyncio.ensure_future(asked(book, route, wish))
        if wish.cancelled_s < math.inf:
            asyncio.get_running_loop().call_later(wish.starts_s + wish.cancelled_s, task.cancel)
        tasks.append(task)
    await asyncio.gather(*tasks, return_exceptions=True)
    await route.settle()
    await route.close()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(ACT, min_size=1, max_size=4), min_size=3, max_size=4),
    st.lists(WISH, min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
)
def test_the_books_are_the_providers_own_count(
    acts: list[list[Act]], wishes: list[Wish], continues: bool, hedges: bool
) -> None:
    till = Till()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        book = quiet(folder)
        run_virtual(scene(book, till, acts, wishes, continues=continues, hedges=hedges))
        database = Sqlite(folder / "book.db")
        try:
            book.note()
            book.write(database)
            lines = report(database, ["model"], only=None).lines
            till.export(folder / "export.csv")
            known = [each for each in lines if each.by["model"]]
            differences = compare(read_export(folder / "export.csv"), known)
        finally:
            database.close()
    assert [each for each in differences if each.missing] == []
    assert sum(line.requests for line in lines) == len(wishes)
    assert book.dropped == 0
