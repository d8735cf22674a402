"""What was asked for before something was forgotten is not kept after it; and from when a result's age counts."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.describe.workflow import Workflow
from tauten.errors import InputError
from tauten.plan.plan import CachePlan, Plan, StagePlan
from tauten.run.contracts import Holdings, Kept, Sought
from tauten.run.engine import Engine

WORLD = {"state": "old"}
CALLS: list[str] = []
WORK_S = 1.0


@pytest.fixture(autouse=True)
def _old_world() -> None:
    WORLD["state"] = "old"
    CALLS.clear()


@tt.stage(pure=True)
async def look(name: str) -> str:
    """Reads the world first, and takes its time then: the worst that it may do."""
    CALLS.append(name)
    state = WORLD["state"]
    await asyncio.sleep(WORK_S)
    if name == "unknown" and state == "old":
        raise InputError("nothing of that name", help="another one")
    return f"{name} {state}"


@tt.stage(pure=True)
async def tell(name: str) -> AsyncIterator[str]:
    CALLS.append(name)
    state = WORLD["state"]
    await asyncio.sleep(WORK_S)
    yield name
    yield state


@tt.workflow
def looked(name: str) -> str:
    return look(name)


@tt.workflow
def told(name: str) -> tt.Stream[str]:
    return tell(name)


def cached(workflow: Workflow[..., Any], **rules: Any) -> Plan:
    assert workflow.graph is not None
    [step] = workflow.graph.stages
    return Plan(graph=workflow.graph.hash, stages={step: StagePlan(cache=CachePlan(**rules))})


async def asked(engine: Engine, name: str = "a", workflow: Workflow[..., Any] = looked) -> Any:
    return (await engine.run(workflow.bind(name))).value


def entries(engine: Engine, step: str = "look") -> int:
    return engine.deployments.caches.seen()[step, "results"].holdings.entries


async def change(engine: Engine) -> None:
    """The world changes, and who changed it says so."""
    WORLD["state"] = "new"
    await engine.deployments.caches.forget("tag:world")


@pytest.mark.parametrize("workflow", [looked, told], ids=["value", "stream"])
def test_what_was_under_way_is_given_and_not_kept(workflow: Workflow[..., Any]) -> None:
    async def body(engine: Engine) -> None:
        await engine.open(workflow, cached(workflow, tags=("world",)))
        first = asyncio.ensure_future(asked(engine, workflow=workflow))
        await asyncio.sleep(WORK_S / 2)
        await change(engine)
        assert "old" in await first, "it was asked before"
        assert "new" in await asked(engine, workflow=workflow)
        assert "new" in await asked(engine, workflow=workflow)
        assert CALLS == ["a", "a"], "the third was kept"

    virtual(body)


def test_an_error_of_the_input_that_was_under_way_is_not_kept_either() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(looked, cached(looked, negative_s=60.0, tags=("world",)))
        first = asyncio.ensure_future(asked(engine, "unknown"))
        await asyncio.sleep(WORK_S / 2)
        await change(engine)
        with pytest.raises(InputError):
            await first
        assert await asked(engine, "unknown") == "unknown new"

    virtual(body)


def test_what_is_computed_anew_behind_is_not_kept_when_something_is_forgotten_meanwhile() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(looked, cached(looked, ttl_s=10.0, stale_s=100.0, tags=("world",)))
        await asked(engine)
        await asyncio.sleep(20.0)
        assert await asked(engine) == "a old", "stale, and begun anew behind"
        await asyncio.sleep(WORK_S / 2)
        await change(engine)
        await asyncio.sleep(WORK_S)
        assert entries(engine) == 0
        assert await asked(engine) == "a new"

    virtual(body)


def test_clearing_everything_does_the_same() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(looked, cached(looked))
        first = asyncio.ensure_future(asked(engine))
        await asyncio.sleep(WORK_S / 2)
        await engine.deployments.caches.clear()
        await first
        assert entries(engine) == 0

    virtual(body)


def test_age_counts_from_when_the_step_began() -> None:
    async def body(engine: Engine) -> None:
        await engine.open(looked, cached(looked, ttl_s=3.0))
        assert await asked(engine) == "a old"
        WORLD["state"] = "new"  # and nobody says so
        await asyncio.sleep(3.0 - WORK_S - 0.01)
        assert await asked(engine) == "a old"
        await asyncio.sleep(0.02)
        assert await asked(engine) == "a new", "what it gave was read three seconds ago"

    virtual(body)


# -- tiers that are far ------------------------------------------------------------------------------------


class Slow:
    """A tier that takes a second for all that it does."""

    name: ClassVar[str] = "slow"
    exact: ClassVar[bool] = True

    def __init__(self, size_bytes: int) -> None:
        self.kept: dict[bytes, Kept] = {}

    async def get(self, sought: Sought) -> Kept | None:
        found = self.kept.get(sought.key)
        await asyncio.sleep(1.0)
        return found

    async def put(self, sought: Sought, kept: Kept) -> bool:
        await asyncio.sleep(1.0)
        self.kept[sought.key] = kept
        return True

    def resize(self, size_bytes: int) -> None:
        """It has no bound."""

    def holdings(self) -> Holdings:
        return Holdings(len(self.kept), 0, 1 << 20, 0, 0)

    async def clear(self) -> None:
        self.kept.clear()

    async def forget(self, label: str) -> int:
        gone = [key for key, kept in self.kept.items() if label in kept.labels]
        for key in gone:
            del self.kept[key]
        return len(gone)

    async def close(self) -> None:
        """Nothing is open."""


async def opened(engine: Engine) -> Slow:
    """The workflow with a slow tier behind the one in memory."""
    made: list[Slow] = []

    def make(size_bytes: int) -> Slow:
        made.append(Slow(size_bytes))
        return made[-1]

    engine.deployments.caches.offer("slow", make)
    await engine.open(looked, cached(looked, tiers=("memory", "slow"), tags=("world",)))
    return made[-1]


def test_a_put_that_waits_or_is_under_way_does_not_outlive_what_was_forgotten() -> None:
    async def body(engine: Engine) -> None:
        slow = await opened(engine)
        await asked(engine, "a")
        await asked(engine, "b")
        await asyncio.sleep(0.5)  # the put of one of them is under way, that of the other may wait
        await change(engine)
        await engine.deployments.caches.behind.settled()
        assert slow.kept == {}
        assert entries(engine) == 0

    virtual(body)


def test_what_a_far_tier_gave_meanwhile_does_not_go_into_memory() -> None:
    async def body(engine: Engine) -> None:
        slow = await opened(engine)
        await asked(engine)
        await engine.deployments.caches.behind.settled()
        await engine.deployments.caches.clear("memory")
        assert len(slow.kept) == 1
        before = asyncio.ensure_future(asked(engine))
        await asyncio.sleep(0.5)  # it is being read from the far tier
        await change(engine)
        assert await before == "a old", "it was asked before"
        assert entries(engine) == 0
        assert await asked(engine) == "a new"

    virtual(body)
