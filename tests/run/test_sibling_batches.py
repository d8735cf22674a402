"""Members of one map share a batch: in drawings, in programs, and where maps stand in maps."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.describe.workflow import Workflow
from tauten.run.backends.python import PythonBackend
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.deployment import Deployment
from tauten.run.engine import Engine
from tauten.run.request import Request
from tauten.run.siblings import Family, family_of

RUN_S = 0.020
APART_S = 0.0004  # between two members of a map: much less than a run
WARM = 4  # requests from which runs and gaps are learned


@tt.stage(max_batch=16)
def embed(words: list[int]) -> list[int]:
    return words


@tt.stage
async def late(q: int) -> int:
    """Comes to the batched stage a moment after the member before it."""
    await asyncio.sleep(q * APART_S)
    return await embed(q)  # type: ignore[misc,arg-type,no-any-return]


@tt.stage
async def outer(q: int) -> list[int]:
    return await tt.map(late, [0, 1, 2])  # type: ignore[no-any-return]


@tt.workflow
def drawn(q: list[int]) -> list[int]:
    return tt.map(embed, q)  # type: ignore[no-any-return]


@tt.workflow
def drawn_calls(q: list[int]) -> list[int]:
    return tt.map(late, q)  # type: ignore[no-any-return]


@tt.workflow
def drawn_nested(q: list[int]) -> Any:
    return tt.map(outer, q)


@tt.workflow
async def program(q: list[int]) -> Any:
    return await tt.map(embed, q)


@tt.workflow
async def program_calls(q: list[int]) -> Any:
    return await tt.map(late, q)


@tt.workflow
async def program_nested(q: list[int]) -> Any:
    return await tt.map(outer, q)


@pytest.fixture(autouse=True)
def _lasting() -> Iterator[None]:
    """Runs take that long on the virtual clock, whatever they hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PythonBackend, "duration", lambda *_: RUN_S, raising=False)
        patch.setattr(PythonBackend, "answer", PythonBackend.run, raising=False)
        yield


def batches(workflow: Workflow[..., Any], q: list[int]) -> list[tuple[str, int, str]]:
    """Which steps of a request ran in batches of which size, and why those left."""

    async def body(engine: Engine) -> Any:
        await engine.open(workflow)
        for _ in range(WARM):
            await engine.run({"q": q})
            await asyncio.sleep(1.0)  # nobody who was just answered is expected
        return (await engine.run({"q": q})).trace.batches

    found: list[tuple[str, int, str]] = virtual(body)
    return found


@pytest.mark.parametrize(
    ("workflow", "steps"),
    [
        (drawn, ["embed[0]", "embed[1]", "embed[2]", "embed[3]"]),
        (drawn_calls, ["late[0]/embed", "late[1]/embed", "late[2]/embed", "late[3]/embed"]),
        (program, ["embed", "embed[1]", "embed[2]", "embed[3]"]),
        (program_calls, ["late/embed", "late[1]/embed", "late[2]/embed", "late[3]/embed"]),
    ],
)
def test_the_members_of_a_map_leave_together(workflow: Workflow[..., Any], steps: list[str]) -> None:
    seen = batches(workflow, [0, 1, 2, 3])
    assert sorted(step for step, _, _ in seen) == sorted(steps)
    assert Counter((size, reason) for _, size, reason in seen) == {(4, "siblings"): 4}


@pytest.mark.parametrize("workflow", [drawn_nested, program_nested])
def test_the_members_of_maps_in_a_map_leave_together(workflow: Workflow[..., Any]) -> None:
    seen = batches(workflow, [0, 0])
    assert Counter((size, reason) for _, size, reason in seen) == {(6, "siblings"): 6}


def test_a_step_belongs_to_the_innermost_map_around_it() -> None:
    first, second, whole = Family(), Family(), Family()
    families = {"outer": whole, "outer/late": first, "outer[1]/late": second}
    for step in ("outer/late", "outer/late[2]", "outer/late[1]/embed", "outer/late[1]/a/b[3]"):
        assert family_of(families, step) is first
    for step in ("outer[1]/late", "outer[1]/late[2]", "outer[1]/late/embed[1]"):
        assert family_of(families, step) is second
    for step in ("outer", "outer[2]", "outer/other", "outer[1]/other[1]", "outer[2]/late"):
        assert family_of(families, step) is whole
    for step in ("late", "embed[1]", "else/outer", "outermost", ""):
        assert family_of(families, step) is None


def test_what_is_downstream_is_known_of_every_visit_of_a_step() -> None:
    async def body(engine: Engine) -> None:
        spec = ModelSpec("synthetic")
        place = Deployment(lambda: SyntheticBackend(spec), label="s", clock=engine.clock, max_batch=4)
        await place.open()
        for step in ("late/embed", "late[1]/embed", "late[1]/embed[2]"):
            request = Request(engine.clock, deadline=10.0)
            request.after = {"late": 1.0, "late/embed": 2.0}
            job = place.submit(request, step, 1, asyncio.get_running_loop().create_future())
            assert job.after == 2.0, step
        await asyncio.sleep(1.0)
        await place.close()

    virtual(body)
