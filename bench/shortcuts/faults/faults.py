"""Every fault of the wall: what it does to the server's surroundings, and what each client is to see."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from bench.shortcuts.faults.wall import Fault, Wall, told, told_when, whole
from bench.shortcuts.provider.acts import Act

FEW: Final = 4  # requests of a kind: fewer than open a circuit, two of them streams
MANY: Final = 20  # at once
REOPENS_S: Final = (
    2.3  # a circuit that opened, and once more at the probe, asks again after two seconds at most
)
LATE, DEAD, CUT, LIMIT = "E401", "E460", "E461", "E462"


async def refuses(wall: Wall) -> None:
    """Nobody listens: one provider alone is an error at once, with a second one nobody notices."""
    await wall.first.refuse()
    await wall.ask("alone", FEW, told(DEAD))
    await wall.ask("both", FEW, whole)


async def hangs(wall: Wall) -> None:
    """The call is read and never answered: the budget ends it; half of it is left for a second provider."""
    await wall.first.acts(usual={"do": "hangs"})
    await wall.ask("alone", FEW, told(LATE), at_once=FEW)
    await wall.ask("both", FEW, whole, at_once=FEW)
    wall.wants["fallback"] = FEW


async def trickles(wall: Wall) -> None:
    """A word each quarter of a second: an answer where there is time for it, else cut by the budget and told so."""
    await wall.first.acts(usual={"do": "says", "words": 8, "gap_s": 0.25})
    await wall.ask("alone", FEW, told(LATE), at_once=FEW)
    await wall.ask("both", FEW, told(LATE), at_once=FEW)
    await asyncio.sleep(REOPENS_S)  # what never came in time counts as a fault
    await wall.ask("alone", 2, whole, budget_ms=5000.0)


def cut_by(act: Act) -> Fault:
    """Words, then no proper end: an error, whoever else could be asked; gone on with only where the plan says so."""

    async def fault(wall: Wall) -> None:
        await wall.first.acts(usual=act)
        await wall.ask("alone", 2, told(CUT))
        await wall.ask("both", 2, told(CUT))
        await wall.ask("going_on", 1, whole)
        wall.wants["continue"] = 1

    fault.__doc__ = cut_by.__doc__
    return fault


def broken_by(act: Act) -> Fault:
    """An error before the first word: one provider alone is an error, with a second one nobody notices."""

    async def fault(wall: Wall) -> None:
        await wall.first.acts(usual=act)
        await wall.ask("alone", 2, told(DEAD))
        await wall.ask("both", FEW, whole)

    fault.__doc__ = broken_by.__doc__
    return fault


async def limited_for_a_moment(wall: Wall) -> None:
    """429 with a Retry-After within the budget: it is waited for, and the answer is whole."""
    await wall.first.acts({"do": "status", "code": 429, "headers": {"retry-after": "0.2"}})
    await wall.ask("alone", FEW, whole, budget_ms=2000.0)
    wall.wants["retry"] = 1


async def limited(wall: Wall) -> None:
    """429 that says nothing of when: refused at once with a time to come again; a second provider answers."""
    await wall.first.acts(usual={"do": "status", "code": 429})
    before = (await wall.first.count()).calls
    await wall.ask("alone", FEW, told_when(LIMIT))
    asked = (await wall.first.count()).calls - before
    wall.must(asked == 1, f"a limit that is known was hit {asked} times")
    await wall.ask("both", FEW, whole)


async def bursts(wall: Wall) -> None:
    """503 to twenty at once: few retries, then the endpoint is left alone; when it is back it is asked again."""
    await wall.first.acts(usual={"do": "status", "code": 503})
    before = (await wall.first.count()).calls
    await wall.ask("alone", MANY, told(DEAD), at_once=MANY, budget_ms=2000.0)
    asked = (await wall.first.count()).calls - before
    wall.must(asked <= 1.1 * MANY + 2, f"{asked} calls were made for {MANY} requests")
    await wall.ask("both", FEW, whole)
    await wall.first.acts(usual={"do": "says", "words": 8})
    await asyncio.sleep(REOPENS_S)
    await wall.ask("alone", FEW, whole)


async def slow_at_times(wall: Wall) -> None:
    """A first word that is late as soon as it is hung on: a second provider is asked beside it, and is in time."""
    slow: Act = {"do": "says", "words": 8, "first_s": 0.4}
    for each in (wall.first, wall.second):
        await each.acts(usual=slow)
    await wall.ask(
        "hedged", 40, whole, at_once=8, budget_ms=1300.0
    )  # it learns what is usual, and earns two hedges
    await wall.first.acts({"do": "hangs"}, usual=slow)
    await wall.ask("hedged", 1, whole, budget_ms=1300.0)
    wall.wants["hedge"] = 1


async def client_leaves(wall: Wall) -> None:
    """A reader closes its connection after two words: the provider sees it, and the words are booked."""
    await wall.first.acts(usual={"do": "stops", "words": 2})
    before = sum(each["left"] for each in (await wall.first.counts())["kept"])
    await wall.ask("alone", FEW, lambda seen: seen.left, leave_after=2, stream=True)
    await wall.first.quiet()
    after = sum(each["left"] for each in (await wall.first.counts())["kept"])
    wall.must(after - before == FEW, f"the provider saw {after - before} of {FEW} leave")


FAULTS: Final[Mapping[str, Fault]] = {
    "refuses connections": refuses,
    "hangs": hangs,
    "trickles": trickles,
    "cuts in the middle": cut_by({"do": "cuts", "words": 2}),
    "ends as if all were well": cut_by({"do": "ends", "words": 2}),
    "sends an error in the stream": cut_by({"do": "fails", "words": 2}),
    "sends garbage in the stream": cut_by({"do": "garbage", "words": 2}),
    "answers with garbage": broken_by({"do": "raw"}),
    "resets connections": broken_by({"do": "hangs_up"}),
    "429 with Retry-After": limited_for_a_moment,
    "429 without Retry-After": limited,
    "a burst of 503": bursts,
    "slow at times, hedged": slow_at_times,
    "the client leaves": client_leaves,
}
"""Those that providers and clients cause; what the machine causes is in machine.py."""
