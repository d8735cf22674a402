"""Several requests that wait as one item: what is counted of those that left when the others run anew."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tauten.clock import run_virtual
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.job import Job
from tauten.run.request import Request

RUN_S = 1.0
POISON = -1


class Picky(SyntheticBackend):
    """Items are lists; a batch that holds the poison fails as a whole."""

    def answer(self, items: Sequence[Any]) -> list[Any]:
        if any(POISON in item for item in items):
            raise ValueError("poison")
        return list(items)


class Together(Request):
    """Requests that came as one, some of which have left."""

    def __init__(self, deployment: Deployment, members: list[int]) -> None:
        super().__init__(asyncio.get_running_loop().time)
        self.deployment = deployment
        self.left_early: set[int] = set()
        self.over = False
        self.count = len(members)
        self.job = Job(members, float(len(members)), self, self.clock(), self)

    @property
    def gone(self) -> int:
        return sum(member in self.left_early for member in self.job.item)

    def split(self, count: int) -> Job:
        members = self.job.item
        other = Together(self.deployment, members[count:])
        other.left_early = self.left_early
        rest = self.job.split(count, members[:count], members[count:])
        other.job, rest.waiter = rest, other
        if other.gone == len(members) - count:
            asyncio.get_running_loop().call_soon(other.leave)
        return rest

    def leave(self) -> None:
        self.over = True
        self.deployment.leave(self.job)

    def unfit(self, value: Any) -> None:
        return None

    def done(self) -> bool:
        return self.over

    def set_result(self, _: None, /) -> None:
        self.over = True

    def lose(self, member: int) -> None:
        self.left_early.add(member)
        assert not self.deployment.lessen(self.job, None), "it runs on for the others"


@pytest.mark.parametrize(
    ("members", "gone", "counted"),
    [
        ([POISON, 1, 2, 3], (2, 3), 0),  # the half that runs anew is of those who wait
        ([POISON, 1, 2, 3], (1, 3), 2),  # each half runs for one that waits and one that left
        ([0, 1, 2, POISON], (0, 2), 2),
    ],
)
def test_who_left_is_counted_with_the_half_that_still_runs_for_him(
    members: list[int], gone: tuple[int, ...], counted: int
) -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        spec = ModelSpec("picky", options={"ms_per_batch": RUN_S * 1e3})
        deployment = Deployment(lambda: Picky(spec), label="picky", clock=clock, max_batch=4)
        await deployment.open()
        party = Together(deployment, members)
        deployment.push(party, "s", party.job)
        await asyncio.sleep(RUN_S / 2)
        for member in gone:
            party.lose(member)
        await asyncio.sleep(RUN_S / 4)
        assert deployment.zombies() == len(gone), "so long after they left"
        await asyncio.sleep(RUN_S / 2)  # the whole has failed, its halves run
        assert deployment.zombies() == counted
        await asyncio.sleep(8 * RUN_S)
        assert (deployment.zombies(), deployment.waiting, deployment._groups) == (0, 0, {})
        await deployment.close()

    run_virtual(main())
