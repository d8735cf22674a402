"""Names are looked up beside everything: who asks is told, and a name server that hangs keeps nothing from ending."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest

from tauten.run.lookup import lookup
from tauten.run.remote.line import Names


def test_a_name_has_its_addresses() -> None:
    async def main() -> list[str]:
        return [str(address[0]) for *_, address in await lookup("localhost", 80, socket.AF_INET)]

    assert asyncio.run(main()) == ["127.0.0.1"]


def test_a_name_that_is_none_is_told() -> None:
    with pytest.raises(UnicodeError):
        asyncio.run(lookup("x" * 70 + ".test", 80))


def test_connections_are_made_to_the_numbers_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(*asked: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 443)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 443, 0, 2)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", told)

    async def main() -> list[tuple[str, int, int]]:
        found = await Names().resolve("provider.test", 443, socket.AddressFamily.AF_UNSPEC)
        assert {each["hostname"] for each in found} == {"provider.test"}
        return [(each["host"], each["port"], each["family"]) for each in found]

    assert asyncio.run(main()) == [("127.0.0.1", 443, socket.AF_INET), ("fe80::1%2", 443, socket.AF_INET6)]


HANGS = """
import asyncio, socket, sys, threading
from tauten.run.remote.line import Content, HttpLine
from tauten.run.remote.phases import Phases

socket.getaddrinfo = lambda *asked: threading.Event().wait()

async def main():
    line = HttpLine("http://provider.test")
    try:
        async with asyncio.timeout(0.05):
            await line.send("/", Content(b"{}"), Phases(lambda: 0.0))
    except TimeoutError:
        print("gave up")
    await line.close()

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_process_ends_although_a_look_up_hangs(loop: str) -> None:
    """It would be waited for until the test is given up."""
    done = subprocess.run(
        [sys.executable, "-c", HANGS, loop], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "gave up\n"
