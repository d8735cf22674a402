"""The server's own books: its /metrics page read back, compared with those of the client."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

Key = tuple[str, tuple[tuple[str, str], ...]]
EVERY_S = 0.1  # between looks: as long as cancelled work may go on before it counts as a zombie
_LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Page(dict[Key, float]):
    """Series of one scrape by name and labels."""

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of a name that have these labels."""
        wanted = labels.items()
        return sum(
            value for (each, have), value in self.items() if each == name and wanted <= dict(have).items()
        )

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The sums of a name by one of its labels, those that are not 0."""
        kinds = {dict(have).get(label, "") for each, have in self if each == name}
        sums = {kind: self.total(name, **{**labels, label: kind}) for kind in sorted(kinds)}
        return {kind: value for kind, value in sums.items() if value}

    def since(self, before: Page) -> Page:
        """What was added since an earlier scrape."""
        return Page({key: value - before.get(key, 0.0) for key, value in self.items()})


def parse(text: str) -> Page:
    """A page of the text exposition format."""
    page = Page()
    for line in text.splitlines():
        if not line.startswith("#") and (match := _LINE.match(line)):
            labels = tuple(sorted(_LABEL.findall(match[2] or "")))
            page[match[1], labels] = float(match[3])
    return page


async def scrape(client: aiohttp.ClientSession, url: str) -> Page:
    async with client.get(f"{url}/metrics", timeout=aiohttp.ClientTimeout(total=10)) as answer:
        return parse(await answer.text())


async def settled(client: aiohttp.ClientSession, url: str, patience_s: float = 10.0) -> Page:
    """The books once nothing runs but this look at them; as they are after a while otherwise."""
    until = time.monotonic() + patience_s
    while True:
        page = await scrape(client, url)
        quiet = page.total("tauten_in_flight") <= 1 and not page.total("tauten_running")
        if quiet or time.monotonic() > until:
            return page
        await asyncio.sleep(0.02)


@dataclass
class Watched:
    """The most of each gauge that was seen, and how often there was a look."""

    most: dict[str, float] = field(default_factory=dict)
    looks: int = 0

    def see(self, page: Page) -> None:
        self.looks += 1
        for name in ("zombies", "queue_length", "in_flight", "running"):
            now = page.total(f"tauten_{name}")
            self.most[name] = max(self.most.get(name, 0.0), now)


@contextlib.asynccontextmanager
async def watching(
    client: aiohttp.ClientSession, url: str, every_s: float = EVERY_S
) -> AsyncIterator[Watched]:
    """Looks at the gauges again and again while the block runs, and once at its end."""
    watched = Watched()

    async def look() -> None:
        while True:
            watched.see(await scrape(client, url))
            await asyncio.sleep(every_s)

    task = asyncio.create_task(look())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        watched.see(await scrape(client, url))


def balance(sent: Mapping[str, int], counted: Page, workflow: str) -> dict[str, Any]:
    """Both books of one run side by side: how requests ended by the client's and by the server's count.

    `missing` are requests that the client sent and the server does not know, or the other way round.
    """
    server = counted.by("tauten_request_seconds_count", "outcome", workflow=workflow)
    return {
        "client": dict(sent),
        "server": {name: int(value) for name, value in server.items()},
        "missing": abs(sum(sent.values()) - int(sum(server.values()))),
        "refusals": {
            name: int(value)
            for name, value in counted.by("tauten_refusals_total", "reason", workflow=workflow).items()
        },
    }
