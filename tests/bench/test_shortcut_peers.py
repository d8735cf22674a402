"""Caches that others make: a program is spoken to line by line, and what goes wrong with it is told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from bench.kit_shortcuts import ROOT

peers = importlib.import_module("bench.shortcuts.peers")
redis_server = importlib.import_module("bench.ground.redis_server")
asking = importlib.import_module("bench.ground.asking")

PROGRAM = """
import sys
from lines import answer, timed

def add(a, b):
    print("a library that talks")
    return {"sum": a + b, "calls": len(timed(lambda number: number, 5))}

def leave():
    print("out of memory", file=sys.stderr)
    sys.exit(3)

answer({"add": add, "leave": leave})
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A peer called `made`, whose packages are there already."""
    shutil.copy(ROOT / "bench" / "shortcuts" / "programs" / "lines.py", tmp_path)
    (tmp_path / "made.py").write_text(PROGRAM)
    monkeypatch.setattr(peers, "PROGRAMS", tmp_path)
    monkeypatch.setattr(peers.environments, "install", lambda *_: Path(sys.executable))
    settings = tmp_path / "peers.toml"
    settings.write_text('[made]\npackages = ["msgspec==0"]\nprogram = "made.py"\n')
    return settings


def within(program: Path, work: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        async with peers.started("made", program) as peer:
            return await work(peer)

    return asyncio.run(run())


def test_a_peer_is_asked_and_answers(program: Path) -> None:
    async def twice(peer: Any) -> Any:
        return peer.versions, [await peer.ask("add", a=1, b=each) for each in (2, 3)]

    versions, found = within(program, twice)
    assert found == [{"sum": 3, "calls": 5}, {"sum": 4, "calls": 5}], "what it prints besides is no answer"
    assert list(versions) == ["msgspec"]


def test_what_goes_wrong_in_a_peer_is_told_with_its_last_words(program: Path) -> None:
    async def wrong(peer: Any) -> None:
        await peer.ask("add", a=1)

    async def gone(peer: Any) -> None:
        await peer.ask("leave")

    with pytest.raises(peers.PeerFailed, match="TypeError: add"):
        within(program, wrong)
    with pytest.raises(peers.PeerFailed, match="ended: out of memory"):
        within(program, gone)
    assert issubclass(peers.PeerFailed, peers.CANNOT)


def test_every_peer_of_the_settings_has_its_program() -> None:
    for name, chosen in peers.settings().items():
        assert (peers.PROGRAMS / chosen["program"]).exists(), name
        assert chosen["packages"], name


def test_a_server_that_does_not_search_is_none(tmp_path: Path) -> None:
    async def found(programs: list[str]) -> None:
        async with peers.searching(programs, tmp_path):
            raise AssertionError("it searches")

    with pytest.raises(redis_server.NoServer, match="none is installed"):
        asyncio.run(found(["no-such-server"]))
    with pytest.raises(redis_server.NoServer, match="false: it ended with 1"):
        asyncio.run(found(["false"]))


def test_libraries_of_wheels_are_found_under_their_plain_names(tmp_path: Path) -> None:
    brought = tmp_path / "lib" / "python3.11" / "site-packages" / "some.libs"
    brought.mkdir(parents=True)
    (brought / "libssl-0331cfe8.so.1.1").write_text("ssl")
    for _ in range(2):
        plain, *rest = peers._libraries(tmp_path)
    assert (plain / "libssl.so.1.1").read_text() == "ssl"
    assert rest == [brought]
    assert peers._libraries(tmp_path / "lib") == []


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_redis_server_answers_and_is_gone_afterwards() -> None:
    async def run() -> tuple[int, bool]:
        async with redis_server.redis_server() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PING\r\n")
            said = await reader.readline()
            writer.close()
        return port, said == b"+PONG\r\n"

    port, answered = asyncio.run(run())
    assert answered
    with pytest.raises(OSError, match=r"refused|Connect"):
        asyncio.run(asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 5))


def test_a_client_without_a_server_has_no_figures() -> None:
    with pytest.raises(asking.NoFigures, match="ended with 1"):
        asyncio.run(asking.closed(1, b"GET / HTTP/1.1\r\n\r\n", 0.1))
