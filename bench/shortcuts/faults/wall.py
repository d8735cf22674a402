"""Our server with remote backends between two stand-in providers and a client, while something goes wrong."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from bench.ground import figures
from bench.ground.serving import Served, serving
from bench.serve.scenarios import books as pages
from bench.shortcuts import books
from bench.shortcuts.faults.seen import Seen, ask, grouped
from bench.shortcuts.gateway.servers import FLOW, PRICES
from bench.shortcuts.provider.acts import Act
from bench.shortcuts.provider.running import Count, Provider

BUDGET_MS: Final = 600.0  # of a request: some hundred times what a whole answer takes here
QUICK_ACT: Final[Act] = {"do": "says", "words": 8}
NAMES: Final = ("first", "second")  # of the providers
REMOTE: Final = '[stage.chat]\nmodel = "words"\nbackend = "remote"\n'
PLANS: Final[Mapping[str, str]] = {
    "alone": f'{REMOTE}provider = "first"',
    "both": f'{REMOTE}provider = ["first", "second"]',
    "going_on": f'{REMOTE}provider = ["first", "second"]\ncontinue = true',
    "hedged": f'{REMOTE}provider = ["first", "second"]\nhedge = true',
}
Right = Callable[[Seen], bool]


def whole(seen: Seen) -> bool:
    """The answer, all of it."""
    return seen.status == 200 and seen.whole and not seen.code


def told(*codes: str) -> Right:
    """An error with one of these codes, by status or as the last event; and never as if it were whole."""
    return lambda seen: seen.code in codes and not seen.whole


def told_when(*codes: str) -> Right:
    """The same, which says when to come again where it is told by status."""
    return lambda seen: told(*codes)(seen) and (seen.status == 200 or seen.retry_after)


@dataclass
class Wall:
    """A server that runs, its providers, and all that its client saw. `faulty` are sentences about what was not right."""

    url: str
    first: Provider
    second: Provider
    book: str
    client: aiohttp.ClientSession
    served: Served
    seen: list[Seen] = field(default_factory=list)
    faulty: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)  # what was seen, service by service
    wants: dict[str, int] = field(
        default_factory=dict
    )  # calls that must have been made again or beside, by why
    _numbers: Any = field(default_factory=itertools.count)

    async def ask(
        self,
        model: str,
        count: int,
        right: Right,
        *,
        budget_ms: float = BUDGET_MS,
        at_once: int = 1,
        prompt: str = "",
        **more: Any,
    ) -> list[Seen]:
        """So many requests, streams and whole answers in turn; what one sees that is not right is kept in words."""
        room = asyncio.Semaphore(at_once)

        async def one(number: int) -> Seen:
            words = prompt or f"How is the sea? {next(self._numbers):06d}"
            about = {"stream": bool(number % 2), "budget_ms": budget_ms, **more}
            async with room:
                return await ask(self.client, self.url, model, words, **about)

        found = list(await asyncio.gather(*(one(number) for number in range(count))))
        self.seen += found
        self.parts.append(f"{model}: {grouped(found)}")
        self.faulty += [f"{model}: {each.said()}" for each in found if not right(each)]
        return found

    def must(self, holds: bool, otherwise: str) -> None:
        """What else must be so for the row to be one."""
        if not holds:
            self.faulty.append(otherwise)

    async def metric(self, name: str, **labels: str) -> float:
        """A series of the server's own page."""
        return (await pages.scrape(self.client, self.url)).total(name, **labels)

    async def until(self, look: Callable[[], Any], patience_s: float = 10.0) -> bool:
        """Whether something comes to be so."""
        for _ in range(int(patience_s / 0.05)):
            if await look():
                return True
            await asyncio.sleep(0.05)
        return False


Fault = Callable[[Wall], Any]


@dataclass(frozen=True)
class Around:
    """What a server has around it that a fault needs: environment, words, plans, the folder of its book."""

    env: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    words: Sequence[str] = ()
    plans: Mapping[str, str] = field(default_factory=lambda: PLANS)
    host: str = "127.0.0.1"  # by which the server knows the first provider
    book: str = ""


@contextlib.asynccontextmanager
async def wall(first: Provider, second: Provider, around: Around) -> AsyncIterator[Wall]:
    """A server with its book; both providers are well when it begins."""
    folder = Path(tempfile.mkdtemp(prefix="tb-wall-"))
    try:
        for each in (first, second):
            await each.listen()
            await each.acts(usual=QUICK_ACT)
        book = around.book or str(folder / "book.db")
        urls = {"first": first.url.replace("127.0.0.1", around.host), "second": second.url}
        tables = "\n".join(f'[{name}]\nurl = "{url}"' for name, url in urls.items())
        (folder / "providers.toml").write_text(f"{tables}\n")
        (folder / "prices.toml").write_text("".join([HEAD, *(_priced(name) for name in NAMES)]))
        env = {
            "TAUTEN_PROVIDERS": str(folder / "providers.toml"),
            "TAUTEN_STORE": str(folder / "store"),
            **around.env,
        }
        words = ["--usage", book, "--prices", str(folder / "prices.toml"), *around.words]
        targets = [f"{name}={FLOW}:words" for name in around.plans]
        async with (
            serving(targets, around.plans, words, env, around.before) as served,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client,
        ):
            yield Wall(served.url, first, second, book, client, served)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


HEAD: Final = PRICES.partition("[[price]]")[0]


def _priced(name: str) -> str:
    return f"[[price]]{PRICES.partition('[[price]]')[2].replace('standin', name)}"


async def measured(fault: Fault, first: Provider, second: Provider, around: Around) -> dict[str, Any]:
    """One fault from its start to its end: what was seen, how late, what was done about it, whether the books close."""
    counted = [await each.quiet() for each in (first, second)]
    async with wall(first, second, around) as one:
        try:
            await fault(one)
        finally:
            await first.listen()
        theirs = [
            (await each.quiet()).since(before) for each, before in zip((first, second), counted, strict=True)
        ]
        rows = await books.settled(one.book, len(one.seen))
        running = await _left_running(one)
    return {**_figures(one, rows, theirs), "running": running, "exit": one.served.exit_code}


async def _left_running(one: Wall) -> float:
    """Requests that the server still works on although all clients have their answers."""
    page = await pages.settled(one.client, one.url)
    return page.total("tauten_running")


def _figures(one: Wall, rows: Sequence[Any], theirs: Sequence[Count]) -> dict[str, Any]:
    shares = [each.ms / each.budget_ms for each in one.seen]
    made = books.extra(rows, NAMES)
    for why, least in one.wants.items():
        one.must(made.get(why, 0) >= least, f"{made.get(why, 0)} calls by {why}, at least {least} wanted")
    extra = ", ".join(f"{count} {why}" for why, count in made.items())
    ended = ", ".join(f"{count} {how}" for how, count in books.ended(rows, NAMES).items())
    latencies = figures.latencies([each.ms / 1e3 for each in one.seen])
    return {
        "saw": "; ".join(one.parts),
        "asked": len(one.seen),
        "wrong": len(one.faulty),
        "why": "; ".join(one.faulty)[:400],
        "p50_ms": latencies["p50_ms"],
        "of_budget": max(shares, default=0.0),
        "extra": extra or "nothing",
        "calls": ended or "none",
        "gap_tokens": books.gap(rows, NAMES, theirs),
        "lines_missing": max(0, len(one.seen) - sum(row.asked for row in rows)),
        "tokens": sum(each.tokens for each in theirs),
    }
