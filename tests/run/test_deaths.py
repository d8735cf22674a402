"""Backends that die: how they say so, who runs what they held, and when they are opened anew."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.describe.stage import stage
from tauten.errors import BackendError, InputError
from tauten.run.backends.python import PythonBackend
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.job import Job
from tauten.run.request import Request


class Mortal(SyntheticBackend):
    """Items tell what happens: "kill" ends it, with an error that does not say so; `alive` does."""

    lives = 1  # how many die of "kill" before one does not
    made: list[Mortal]

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.ran: list[list[Any]] = []
        self.there = True
        self.made.append(self)

    def alive(self) -> bool:
        return self.there

    def answer(self, items: Sequence[Any]) -> list[Any]:
        self.ran.append(list(items))
        if "kill" in items and len(self.made) - REPLICAS < self.lives:
            self.there = False
            raise OSError("broken pipe")
        return [InputError("not this one") if item == "bad" else item for item in items]


REPLICAS = 2


def mortal(
    body: Callable[[Deployment, list[Any]], Awaitable[None]], kind: type[Mortal] = Mortal, **settings: Any
) -> None:
    async def main() -> None:
        kind.made = []
        spec = ModelSpec("mortal", options={"ms_per_batch": 1000.0})
        clock = asyncio.get_running_loop().time
        settings.setdefault("replicas", REPLICAS)
        deployment = Deployment(lambda: kind(spec), label="mortal", clock=clock, **settings)
        await deployment.open()
        try:
            await body(deployment, kind.made)
        finally:
            await deployment.close()

    run_virtual(main())


def request() -> Request:
    return Request(asyncio.get_running_loop().time)


async def told(deployment: Deployment, *items: Any) -> list[Any]:
    return await asyncio.gather(
        *(deployment.infer(request(), "s", item) for item in items), return_exceptions=True
    )


@pytest.mark.parametrize("pure", [True, False])
def test_a_backend_that_says_by_alive_that_it_is_dead_is_opened_anew(pure: bool) -> None:
    async def body(deployment: Deployment, made: list[Any]) -> None:
        found = await told(deployment, "a", "kill", "b")
        view = deployment.view()
        assert (view.restarts, view.replicas, view.bisected) == (1, REPLICAS, 0)
        if pure:
            assert found == ["a", "kill", "b"], "what it held ran once more"
            assert view.retried == 3
        else:
            assert {type(each) for each in found} == {BackendError}
            assert all(each.dead and isinstance(each.__cause__, OSError) for each in found)
            assert "OSError: broken pipe" in str(found[0])
            assert view.retried == 0

    mortal(body, max_batch=4, pure=pure)


def test_what_kills_twice_is_not_run_a_third_time() -> None:
    class Doomed(Mortal):
        lives = 9

    async def body(deployment: Deployment, made: list[Any]) -> None:
        found = await told(deployment, "kill", "a")
        assert [type(each) for each in found] == [BackendError, BackendError]
        assert sum(len(each.ran) for each in made) == 2
        await asyncio.sleep(0)
        assert await told(deployment, "a", "b") == ["a", "b"]
        assert deployment.view().restarts == 2

    mortal(body, Doomed, max_batch=4)


def test_a_backend_that_lives_keeps_its_place_whatever_fails() -> None:
    async def body(deployment: Deployment, made: list[Any]) -> None:
        found = await told(deployment, "a", "bad", "b")
        assert [found[0], found[2]] == ["a", "b"]
        assert isinstance(found[1], InputError)
        assert (deployment.view().restarts, deployment.view().retried, len(made)) == (0, 0, REPLICAS)

    mortal(body, max_batch=4)


class Listed(Mortal):
    """Dies while it gives each member its own answer."""

    def answer(self, items: Sequence[Any]) -> list[Any]:
        self.ran.append(list(items))
        if "kill" not in items or len(self.made) > REPLICAS:
            return list(items)
        self.there = False
        return [ValueError("half done") if item == "kill" else item for item in items]


def test_of_those_who_got_answers_before_it_died_nobody_is_run_again() -> None:
    async def body(deployment: Deployment, made: list[Any]) -> None:
        assert await told(deployment, "a", "kill", "b") == ["a", "kill", "b"]
        assert (deployment.view().restarts, deployment.view().retried) == (1, 1)
        assert sorted(each.ran for each in made if each.ran) == [[["a", "kill", "b"]], [["kill"]]]

    mortal(body, Listed, max_batch=4)


class Halves(Mortal):
    """Fails as a whole; then one half dies of a member that says so, beside one that is well."""

    def answer(self, items: Sequence[Any]) -> list[Any]:
        self.ran.append(list(items))
        if len(items) == 4:
            raise MemoryError
        if "kill" not in items or len(self.made) > REPLICAS:
            return list(items)
        dead = BackendError("gone", help="it is opened anew")
        dead.dead = True
        return [dead if item == "kill" else item for item in items]


def test_the_half_that_had_not_run_when_it_died_runs_elsewhere() -> None:
    async def body(deployment: Deployment, made: list[Any]) -> None:
        assert await told(deployment, "kill", "a", "b", "c") == ["kill", "a", "b", "c"]
        assert deployment.view().restarts == 1

    mortal(body, Halves, max_batch=4)


class Crowd:
    """Requests that wait as one item."""

    priority, tenant = 0, ""
    gone = 0
    admitted = True
    after: Mapping[str, float] = {}
    coming: Any = frozenset()
    families: Mapping[str, Any] = {}
    deadline = target = float("inf")

    def __init__(self, job: Callable[[Crowd, int], Job], count: int) -> None:
        self.count = count
        self.over = asyncio.get_running_loop().create_future()
        self.splits = 0
        self.job = job(self, count)

    def done(self) -> bool:
        return self.over.done()

    def set_result(self, result: None) -> None:
        self.over.set_result(result)

    def unfit(self, value: Any) -> None:
        return None

    def split(self, count: int) -> Job:
        self.splits += 1
        raise AssertionError("whose fault it was is not asked after a death")


def test_those_who_came_as_one_run_once_more_as_one_when_their_backend_died() -> None:
    async def body(deployment: Deployment, made: list[Any]) -> None:
        now = deployment.clock()

        def job(crowd: Crowd, count: int) -> Job:
            found = Job("kill", float(count), crowd, now, crowd)  # type: ignore[arg-type]
            found.group = ()
            return found

        crowd = Crowd(job, 3)
        deployment.push(crowd, "s", crowd.job)  # type: ignore[arg-type]
        await crowd.over
        assert (crowd.splits, crowd.job.error, crowd.job.result) == (0, None, "kill")
        assert (deployment.view().retried, deployment.view().bisected) == (3, 0)

    mortal(body, max_batch=4)


class Prepared(Mortal):
    """Takes full batches ahead; after its death it does not open for a long while."""

    broken = False

    def open(self) -> None:
        if len(self.made) > REPLICAS:
            raise OSError("no memory yet")
        super().open()

    def duration(self, items: Sequence[Any]) -> float:
        return 1.0 if "kill" in items else 3.0

    def prepare(self, items: Sequence[Any]) -> Any:
        return list(items)

    def run_prepared(self, items: Any) -> list[Any]:
        return self.answer(items)


@pytest.mark.parametrize("pure", [True, False])
def test_what_a_dead_replica_was_given_ahead_goes_to_those_that_live(pure: bool) -> None:
    async def body(deployment: Deployment, made: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        first = [loop.create_task(told(deployment, "x", "y"))]  # 3 s of one replica
        await asyncio.sleep(0)
        first.append(loop.create_task(told(deployment, "kill", "z")))  # 1 s of the other
        await asyncio.sleep(0.1)
        given = [loop.create_task(told(deployment, *pair)) for pair in ("ab", "cd")]  # one ahead for each
        await asyncio.sleep(0.1)
        assert [len(replica.held) for replica in deployment._replicas] == [2, 2]
        assert [await each for each in given] == [["a", "b"], ["c", "d"]]
        assert await first[0] == ["x", "y"]
        again = await first[1]
        assert again == ["kill", "z"] if pure else {type(each) for each in again} == {BackendError}
        assert loop.time() == pytest.approx(10.0 if pure else 9.0), "the living one ran them, one by one"
        assert deployment.view().replicas == 1

    Prepared.lives = 1
    mortal(body, Prepared, max_batch=2, pure=pure, wait="off")


def test_a_close_leaves_nobody_waiting_for_what_a_dead_replica_was_given() -> None:
    class Stuck(Prepared):
        pass

    async def body(deployment: Deployment, made: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        running = loop.create_task(told(deployment, "kill", "z"))
        await asyncio.sleep(0.1)
        ahead = loop.create_task(told(deployment, "a", "b"))
        await asyncio.sleep(0.1)
        assert [len(replica.held) for replica in deployment._replicas] == [2]
        await deployment.close()
        assert {type(each) for each in (*await running, *await ahead)} == {BackendError}

    mortal(body, Stuck, max_batch=2, wait="off", replicas=1)


class Threaded:
    """In a thread: dies by its word, at a gate; its successors open only when they may."""

    name = "threaded"
    option_keys: frozenset[str] = frozenset()
    made: list[Threaded]
    gate: threading.Event
    may_open: threading.Event

    def __init__(self) -> None:
        self.number = len(self.made)
        self.closed = 0
        self.there = True
        self.made.append(self)

    def open(self) -> None:
        if self.number >= REPLICAS:
            assert self.may_open.wait(20)

    def group(self, item: Any) -> None:
        return None

    def weight(self, item: Any) -> float:
        return 1.0

    def alive(self) -> bool:
        return self.there

    def prepare(self, items: Sequence[Any]) -> Any:
        return list(items)

    def run_prepared(self, items: Any) -> list[Any]:
        return self.run(items)

    def run(self, items: Sequence[Any]) -> list[Any]:
        if "wait" in items:
            assert self.gate.wait(20)
        if "kill" in items and all(each.there for each in self.made):
            assert self.gate.wait(20)
            self.there = False
            raise OSError("broken pipe")
        return list(items)

    def properties(self) -> Mapping[str, str]:
        return {"device": "none"}

    def close(self) -> None:
        self.closed += 1


def test_a_living_replica_runs_what_a_dead_one_had_prepared_while_that_is_opened() -> None:
    async def main() -> None:
        Threaded.made, Threaded.gate, Threaded.may_open = [], threading.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        deployment = Deployment(
            Threaded, label="t", clock=loop.time, max_batch=2, replicas=REPLICAS, wait="off"
        )
        await deployment.open()
        try:
            busy = [loop.create_task(told(deployment, "kill", "z"))]
            await asyncio.sleep(0)
            busy.append(loop.create_task(told(deployment, "wait", "y")))
            while deployment.view().running < 4:
                await asyncio.sleep(0.001)
            given = [loop.create_task(told(deployment, *pair)) for pair in ("ab", "cd")]
            while deployment.view().waiting or sum(len(each.held) for each in deployment._replicas) < 4:
                await asyncio.sleep(0.001)
            Threaded.gate.set()
            async with asyncio.timeout(10):
                assert await asyncio.gather(*given) == [["a", "b"], ["c", "d"]]
            assert deployment.view().replicas == 1
            assert not Threaded.may_open.is_set()
        finally:
            Threaded.may_open.set()
        async with asyncio.timeout(10):
            assert await asyncio.gather(*busy) == [["kill", "z"], ["wait", "y"]]
        while deployment.view().restarts < 1:
            await asyncio.sleep(0.001)
        assert await told(deployment, "e", "f") == ["e", "f"]
        await deployment.close()
        assert all(each.closed for each in Threaded.made)

    asyncio.run(main())


class Lost(Exception):
    dead = True


class Connected:
    """A user's stage that is a class, and holds something that can be lost."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.there = True

    def __call__(self, word: str) -> str:
        if self.made == 1 and word == "hang up":
            self.there = False
            raise OSError("the other side hung up")
        if self.made == 1 and word == "lose":
            raise Lost("no answer")
        if word == "bad":
            raise ValueError("not this one")
        return word.upper()

    def alive(self) -> bool:
        return self.there


@pytest.mark.parametrize("word", ["hang up", "lose"])
@pytest.mark.parametrize("pure", [True, False])
def test_a_stage_that_is_a_class_is_constructed_anew_when_it_says_so(word: str, pure: bool) -> None:
    async def main() -> None:
        Connected.made = 0
        kind = stage(Connected)
        clock = asyncio.get_running_loop().time
        deployment = Deployment(
            lambda: PythonBackend(ModelSpec("connected", options={"kind": kind})),
            label="connected",
            clock=clock,
            pure=pure,
        )
        await deployment.open()

        async def say(word: str) -> Any:
            return (
                await asyncio.gather(deployment.infer(request(), "s", ((word,), {})), return_exceptions=True)
            )[0]

        assert await say("one") == "ONE"
        assert "not this one" in str(await say("bad"))
        assert Connected.made == 1, "a mistake is no death"
        found = await say(word)
        assert found == word.upper() if pure else isinstance(found, BackendError) and found.dead
        while deployment.view().restarts < 1:
            await asyncio.sleep(0.001)
        assert Connected.made == 2
        assert await say(word) == word.upper()
        await deployment.close()

    asyncio.run(main())


# -- what is predicted meanwhile -------------------------------------------------------------------------------


class Away(Mortal):
    """Once it has died it cannot be opened; "hang" takes an hour."""

    def open(self) -> None:
        if len(self.made) > REPLICAS:
            raise OSError("no such device")

    def duration(self, items: Sequence[Any]) -> float:
        return 3600.0 if "hang" in items else super().duration(items)


@pytest.mark.parametrize("item", ["kill", "hang"])
def test_a_replica_that_is_away_says_nothing_of_when_the_other_will_be_free(item: str) -> None:
    async def body(deployment: Deployment, made: list[Any]) -> None:
        for _ in range(8):
            await told(deployment, "a")
        away = asyncio.ensure_future(told(deployment, item))
        await asyncio.sleep(30.0)
        busy = asyncio.ensure_future(told(deployment, "a"))
        await asyncio.sleep(0.25)
        assert deployment.view().idle == 0
        assert deployment.wait_s(0, deployment.clock()) == pytest.approx(0.75)
        assert deployment.busy_s() == pytest.approx(0.75)
        assert await busy == ["a"]
        away.cancel()
        await asyncio.wait([away])

    mortal(body, Away, max_batch=4, wait="off", pure=False)


def test_where_all_are_away_the_wait_is_as_long_as_the_first_has_been_away() -> None:
    async def body(deployment: Deployment, made: list[Any]) -> None:
        for _ in range(8):
            await told(deployment, "a")
        await told(deployment, "kill")
        await asyncio.sleep(30.0)
        await told(deployment, "kill")
        await asyncio.sleep(2.0)
        assert deployment.view().replicas == 0
        assert deployment.wait_s(0, deployment.clock()) == pytest.approx(2.0)

    class Doomed(Away):
        lives = 99

    mortal(body, Doomed, max_batch=4, wait="off", pure=False)
