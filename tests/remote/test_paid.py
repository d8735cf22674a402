"""Budgets and books of remote calls: many at once, answers that end in every way, and the provider's own count."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from remote.kit_provider import StandIn, cuts, providers_toml, says, status, stops
from tauten.clock import real
from tauten.errors import TautenError
from tauten.run.backends.remote import RemoteBackend
from tauten.run.contracts import ModelSpec
from tauten.run.request import Request
from tauten.run.usage.budgets import Budgets, Purse
from tauten.run.usage.limits import read_limits
from tauten.run.usage.payer import NOBODY
from tauten.run.usage.sqlite import Sqlite
from usage.kit_usage import prices

WORDS = ("The ", "sea ", "is ", "deep")
ITEM = {"messages": [{"role": "user", "content": "How is the sea?"}], "max_tokens": 4}
TOKENS = 1200  # a hundred whole answers of 8 + 4: half of those who ask


def tokens(text: str) -> str:
    return f'tauten = "budgets/1"\n[budget.all]\ntokens = {text}\nperiod = "day"\n'


def made(folder: Path, text: str) -> Budgets:
    (folder / "budgets.toml").write_text(text)
    limits = read_limits(folder / "budgets.toml")
    return Budgets(limits, prices(folder), lambda: Sqlite(folder / "book.db"))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "providers.toml"
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


@pytest.mark.parametrize("speaks", ["chat", "responses"])
def test_two_hundred_calls_at_once_keep_to_the_budget_and_the_books_are_the_providers(
    file: Path, tmp_path: Path, speaks: str
) -> None:
    whole, cut, silent = says(*WORDS), cuts(*WORDS[:2]), stops(*WORDS[:1])
    acts = [whole, whole, whole, cut, whole, whole, whole, silent, whole, status(400)] * 20

    async def scene() -> None:
        budgets = made(tmp_path, tokens(str(TOKENS)))
        ends: Counter[str] = Counter()
        requests: list[Request] = []

        async def one() -> None:
            request = Request(real)
            request.purse = Purse(budgets, "", NOBODY, "flow")
            requests.append(request)
            try:
                async for _ in backend.start_for(request, "ask", ITEM):
                    pass
                ends["ok"] += 1
            except TautenError as error:
                ends[error.code] += 1

        async with StandIn(*acts, whole) as stand:
            file.write_text(providers_toml({"told": stand.url}, [f'speaks = "{speaks}"']))
            options = {"provider": "told", "patience_ms": 2000}
            backend = RemoteBackend(ModelSpec("words", options=options))
            await backend.open()
            try:
                await asyncio.gather(*(one() for _ in range(200)))
            finally:
                await backend.close()
            [state] = budgets.states()
            budgets.close()
            booked = [call for request in requests for call in request.trace.provider_calls]
            assert state.held == 0
            assert state.spent <= TOKENS
            assert state.spent == sum(stand.billed())
            assert state.spent == sum(
                call.units["input_tokens"] + call.units["output_tokens"] for call in booked
            )
            assert len(booked) == len(stand.calls)
            assert ends["E451"] > 0  # the budget's word for no more room
            assert ends["ok"] + ends["E461"] + ends["E230"] == len(stand.calls)
            assert min(ends["ok"], ends["E461"], ends["E230"]) > 0

    asyncio.run(scene())


def test_a_call_that_no_budget_has_room_for_is_not_made(file: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        budgets = made(tmp_path, tokens("10"))
        request = Request(real)
        request.purse = Purse(budgets, "", NOBODY, "flow")
        async with StandIn(says(*WORDS)) as stand:
            file.write_text(providers_toml({"told": stand.url}))
            backend = RemoteBackend(ModelSpec("words", options={"provider": "told"}))
            await backend.open()
            with pytest.raises(TautenError) as caught:
                await anext(backend.start_for(request, "ask", ITEM))
            assert caught.value.code == "E451"
            assert backend._route is not None
            [endpoint] = backend._route.endpoints
            assert (endpoint.room.taken, stand.calls) == (0.0, [])
            assert request.trace.provider_calls == []
            await backend.close()
        budgets.close()

    asyncio.run(scene())
