"""Where a batch runs: a short item alone on the event loop, all else in the replica's thread."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from tauten.clock import real
from tauten.errors import BackendError
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.hand_off import HandOff
from tauten.run.deploy.job import Job
from tauten.run.deploy.scheduling import (
    FEW,
    HAND_S,
    INLINE_MOST_S,
    inline_most,
    runs_inline,
)
from tauten.run.request import Request

INLINE_S = 0.00015  # less than a hand-off is worth at any of the rates here
SETTLING = 4  # runs until a deployment trusts what it measured


class Ticks:
    """A clock by hand: the time of a run is what its items say."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Noting:
    """Items are seconds that they take, negative ones kill; notes which thread ran each batch."""

    name = "noting"
    option_keys: frozenset[str] = frozenset()
    inline = True

    def __init__(self, clock: Ticks) -> None:
        self.clock = clock
        self.ran: list[tuple[bool, int]] = []  # (on the loop, items)
        self.loop = threading.get_ident()
        self.closed = 0

    def open(self) -> None:
        pass

    def group(self, item: Any) -> None:
        return None

    def weight(self, item: Any) -> float:
        return 1.0

    def run(self, items: Sequence[Any]) -> Any:
        self.ran.append((threading.get_ident() == self.loop, len(items)))
        if items[0] < 0:
            error = BackendError("gone", help="it is opened anew")
            error.dead = True
            raise error
        self.clock.now += sum(items)
        return list(items)

    def properties(self) -> Mapping[str, str]:
        return {"device": "none"}

    def close(self) -> None:
        self.closed += 1


class Threaded(Noting):
    inline = False


def deployed(
    body: Callable[[Deployment, list[Any]], Awaitable[None]], kind: type[Noting] = Noting, **settings: Any
) -> None:
    made: list[Any] = []
    clock = Ticks()

    def make() -> Any:
        made.append(kind(clock))
        return made[-1]

    async def main() -> None:
        deployment = Deployment(make, label="noting", clock=clock, **settings)
        await deployment.open()
        try:
            await body(deployment, made)
        finally:
            await deployment.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.thread_time", clock)  # a run is all work
        asyncio.run(main())


async def ask(deployment: Deployment, seconds: float) -> Request:
    request = Request(real)
    assert await deployment.infer(request, "s", seconds) == seconds
    return request


@pytest.mark.parametrize("most", [1, 8])
def test_a_short_item_alone_runs_on_the_loop_and_says_so(most: int) -> None:
    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(SETTLING):
            await ask(deployment, INLINE_S / 2)
        request = await ask(deployment, INLINE_S / 2)
        assert made[0].ran[0] == (False, 1)  # nothing was known yet
        assert made[0].ran[-1] == (True, 1)
        assert request.trace.batches == [("s", 1, "inline")]
        assert deployment.view().reasons["inline"] == sum(here for here, _ in made[0].ran)
        [compute] = [row for row in request.trace.rows if row[1] == "compute"]
        assert compute[3] - compute[2] == pytest.approx(INLINE_S / 2)

    deployed(body, max_batch=most)


@pytest.mark.parametrize(
    ("kind", "settings", "seconds"),
    [
        (Noting, {}, INLINE_MOST_S * 2),
        (Threaded, {}, INLINE_S / 2),
        (Noting, {"cpus": (frozenset({0}),)}, INLINE_S / 2),
    ],
)
def test_what_is_long_or_bound_or_not_fit_for_it_runs_in_the_thread(
    kind: type[Noting], settings: dict[str, Any], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_setaffinity", lambda *_: None, raising=False)

    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(2 * SETTLING):
            await ask(deployment, seconds)
        assert not any(here for here, _ in made[0].ran)

    deployed(body, kind, **settings)


@pytest.mark.parametrize("most", [1, 8])
def test_several_at_once_run_on_the_loop_only_as_one_batch(most: int) -> None:
    """One after the other, each would hold up those behind it."""

    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(SETTLING):
            await ask(deployment, INLINE_S / 64)
        made[0].ran.clear()
        await asyncio.gather(*(ask(deployment, INLINE_S / 64) for _ in range(8)))
        assert sum(count for _, count in made[0].ran) == 8
        if most == 8:
            assert made[0].ran == [(True, 8)]
        else:
            assert [here for here, _ in made[0].ran[:-1]] == [False] * 7

    deployed(body, max_batch=most)


def test_a_long_batch_goes_to_the_thread_where_one_of_its_items_would_not() -> None:
    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(2 * SETTLING):
            await ask(deployment, INLINE_S / 2)
        for _ in range(4):  # the first ones teach what eight take
            made[0].ran.clear()
            await asyncio.gather(*(ask(deployment, INLINE_MOST_S) for _ in range(8)))
        assert made[0].ran == [(False, 8)]

    deployed(body, max_batch=8)


def test_stalls_of_the_machine_do_not_make_a_short_item_long() -> None:
    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for number in range(64):
            await ask(deployment, INLINE_S / 2 if number % 8 else INLINE_S * 20)
        assert [here for here, _ in made[0].ran[-16:]] == [True] * 16

    deployed(body)


def test_an_old_estimate_is_not_trusted() -> None:
    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(2 * SETTLING):
            await ask(deployment, INLINE_S / 2)
        made[0].clock.now += 3600.0
        await ask(deployment, INLINE_S / 2)
        assert made[0].ran[-1] == (False, 1)

    deployed(body)


def test_a_backend_that_dies_on_the_loop_is_opened_anew_by_its_thread() -> None:
    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(2 * SETTLING):
            await ask(deployment, INLINE_S / 2)
        with pytest.raises(BackendError, match="gone"):
            await deployment.infer(Request(real), "s", -1.0)
        assert made[0].ran[-1] == (True, 1)
        while not deployment.view().replicas:
            await asyncio.sleep(0.001)
        await ask(deployment, INLINE_S / 2)
        assert deployment.view().restarts == 1
        assert [each.closed for each in made] == [1, 0]

    deployed(body, pure=False)


@pytest.mark.parametrize(("most", "wait"), [(1, "slack"), (8, "slack"), (8, "off")])
def test_how_many_come_is_known_however_batches_may_wait(most: int, wait: Any) -> None:
    """What is worth a hand-off where few come is not where many do."""
    seconds = inline_most(HAND_S, FEW) / 2

    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(64):
            await ask(deployment, seconds)
        assert [here for here, _ in made[0].ran[-8:]] == [False] * 8, "one after the other, without a pause"
        for _ in range(72):
            made[0].clock.now += 0.005
            await ask(deployment, seconds)
        assert [here for here, _ in made[0].ran[-8:]] == [True] * 8

    deployed(body, max_batch=most, wait=wait)


def test_the_decision() -> None:
    rate = 3500.0
    most_s = inline_most(HAND_S, rate)
    assert runs_inline(0.99 * most_s, 1, 0, HAND_S, rate)
    assert not runs_inline(1.01 * most_s, 1, 0, HAND_S, rate)
    assert runs_inline(1.01 * most_s, 2, 0, HAND_S, rate), "two hand-offs less"
    assert not runs_inline(0.99 * most_s, 1, 1, HAND_S, rate), "another waits"
    assert not runs_inline(0.99 * most_s, 1, 0, HAND_S, 2 * rate)
    assert not runs_inline(INLINE_MOST_S, 1000, 0, HAND_S, rate), "others, too, have work for the loop"
    assert not runs_inline(0.0, 1, 0, HAND_S, rate), "nothing is known"


def test_a_run_may_be_as_long_as_those_whom_it_holds_up_lose_what_a_hand_off_costs() -> None:
    for hand_s, rate in ((HAND_S, 3500.0), (2 * HAND_S, 20_000.0)):
        most_s = inline_most(hand_s, rate)
        waiting_s = (most_s * rate) * most_s / 2  # as many as come, each for half of it
        assert waiting_s == pytest.approx(hand_s)
    assert inline_most(0.0, 0.0) == inline_most(HAND_S, FEW), "bounds of what is taken for granted"
    assert inline_most(1.0, 0.0) == INLINE_MOST_S


def test_what_a_run_takes_of_the_processor_decides() -> None:
    """A thread's run looks longer where it waits for the interpreter; on the loop it would not."""

    async def body(deployment: Deployment, _: list[Any]) -> None:
        job = Job(None, 1.0, Request(), 0.0, asyncio.get_running_loop().create_future())
        job.reason, job.ended, job.busy_s = "alone", 0.002, 0.0001
        for _ in range(64):
            deployment._learn([job], 0.002)
        assert deployment.durations.usual_of(1.0) == pytest.approx(0.002)
        assert deployment._hand_off.here * 0.002 == pytest.approx(0.0001, rel=0.01)
        job.reason, job.ended = "inline", 0.0004  # it waits for something
        for _ in range(64):
            deployment._learn([job], 0.002)
        assert deployment._hand_off.here * 0.002 == pytest.approx(0.0004, rel=0.01)

    deployed(body)


class Waiting:
    """Who waits for an item: counts how often it is told."""

    def __init__(self) -> None:
        self.told = 0

    def done(self) -> bool:
        return self.told > 0

    def set_result(self, _: None, /) -> None:
        self.told += 1


def pushed(deployment: Deployment, seconds: float) -> Waiting:
    waiting = Waiting()
    request = Request(real)
    job = Job(seconds, 1.0, request, deployment.clock(), waiting)
    deployment.push(request, "s", job, at_once=True)
    return waiting


@pytest.mark.parametrize("most", [1, 8])
def test_with_nobody_before_nor_beside_it_a_short_item_does_not_wait_for_the_turns_end(most: int) -> None:
    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(2 * SETTLING):
            await ask(deployment, INLINE_S / 16)
        done = deployment.done
        assert pushed(deployment, INLINE_S / 16).told == 1
        assert (deployment.done, deployment.queue.live, deployment._groups) == (done + 1, 0, {})
        assert deployment.view().idle == 1

    deployed(body, max_batch=most)


@pytest.mark.parametrize("most", [1, 8])
def test_behind_others_it_waits_for_its_turn_all_the_same(most: int) -> None:
    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(2 * SETTLING):
            await ask(deployment, INLINE_S / 16)
        made[0].ran.clear()
        others = [asyncio.ensure_future(ask(deployment, INLINE_S / 16)) for _ in range(3)]
        await asyncio.sleep(0)  # they have come, and leave at the end of this turn
        last = pushed(deployment, INLINE_S / 16)
        assert (last.told, made[0].ran) == (0, [])
        await asyncio.gather(*others)
        while not last.told:
            await asyncio.sleep(0)
        assert sum(count for _, count in made[0].ran) == 4

    deployed(body, max_batch=most)


def test_a_batch_that_is_worth_a_wait_is_not_given_away() -> None:
    async def body(deployment: Deployment, made: list[Noting]) -> None:
        for _ in range(2 * SETTLING):
            await ask(deployment, 0.002)
        assert pushed(deployment, 0.002).told == 0
        assert deployment.queue.live == 1, "others may come, and share its run"

    deployed(body, max_batch=8)


@pytest.mark.parametrize("held_up", [1, 16])
def test_runs_that_were_held_up_keep_later_ones_from_the_loop_only_for_a_while(held_up: int) -> None:
    usual_s, busy_s = 0.00015, 0.0001

    def ran(reason: str, took_s: float) -> Job:
        job = Job(None, 1.0, Request(), 0.0, Waiting())
        job.reason, job.ended, job.busy_s = reason, took_s, busy_s
        return job

    hand = HandOff()
    for _ in range(32):
        hand.learn(ran("inline", 1.1 * busy_s), usual_s, 0.0)
    for _ in range(held_up):
        hand.learn(ran("inline", 0.003), usual_s, 0.0)
    for _ in range(64):
        hand.learn(ran("alone", usual_s), usual_s, usual_s)
    assert hand.spared(usual_s, 1, 1.0, 0, FEW)


def test_one_run_that_was_held_up_counts_as_twice_a_threads() -> None:
    hand = HandOff()
    job = Job(None, 1.0, Request(), 0.0, Waiting())
    job.reason, job.ended, job.busy_s = "inline", 1.0, 0.0001
    hand.learn(job, 0.00015, 1.0)
    assert hand.stall == pytest.approx(3.0)
