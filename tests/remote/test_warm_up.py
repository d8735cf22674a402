"""What a server does before it is ready, where its models are a provider's: it pays nobody, and needs nobody to be there."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import tauten as tt
from remote.kit_provider import StandIn, providers_toml, says
from remote.test_remote_backend import plan, tell
from tauten.serve.samples import asks_elsewhere, made_up
from tauten.serve.service import Service

HELLO = {"question": tt.Text("Hello.")}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "providers.toml"
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_made_up_for_a_provider(file: Path, there: bool) -> None:
    async def scene() -> None:
        async with StandIn(says("yes")) as stand:
            file.write_text(providers_toml({"told": stand.url}))
            if not there:
                await stand.__aexit__()
            service = Service(tell, plan(provider="told"), made_up=[HELLO])
            await service.open()
            assert service.ready
            assert stand.calls == []
            await service.close()

    asyncio.run(scene())


def test_a_sample_that_was_given_is_sent(file: Path) -> None:
    async def scene() -> None:
        async with StandIn(says("yes")) as stand:
            file.write_text(providers_toml({"told": stand.url}))
            service = Service(tell, plan(provider="told"), samples=[HELLO])
            await service.open()
            assert len(stand.calls) == 1
            await service.close()

    asyncio.run(scene())


def test_why_nothing_is_made_up_is_said() -> None:
    there = plan(provider="told")
    assert made_up(tell, there) == ([], "stage 'generate' asks a provider, which costs money")
    assert made_up(tell)[0] == [HELLO]
    assert asks_elsewhere(there) == "generate"
    assert asks_elsewhere(None) == ""
