"""The page of `tauten label --browser`, asked by a real client on loopback: labels, undo, end, and blindness."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from improve.kit_labels import recorded, served, session
from tauten.describe.payload import Image
from tauten.improve.labels.answers import keep_answers
from tauten.improve.labels.session import Session
from tauten.serve.labels.app import serve_labels

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
PATIENCE_S = 20.0  # a test that waits longer hangs
Talk = Callable[[aiohttp.ClientSession, str], Awaitable[None]]


def serving(work: Session, talk: Talk) -> None:
    """Serve the page, talk to it, and end it as its labeller does."""

    async def main() -> None:
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(PATIENCE_S):
            running = asyncio.create_task(serve_labels(work, announce=address.set_result))
            async with aiohttp.ClientSession() as client:
                url = await address
                try:
                    await talk(client, url)
                    await told(client.post(f"{url}end", json={}))
                    await running
                finally:
                    running.cancel()

    asyncio.run(main())


async def told(asking: Any, status: int = 200) -> Any:
    """The JSON of a reply that has this status."""
    async with asking as reply:
        assert reply.status == status, await reply.text()
        return await reply.json()


def test_pairs_are_labelled_until_the_verdict_stands(tmp_path: Path) -> None:
    work = session(tmp_path, 60, 3, margin=0.05)

    async def talk(client: aiohttp.ClientSession, url: str) -> None:
        shown = await told(client.get(f"{url}pair"))
        assert shown["pair"] == 1
        assert [part["side"] for part in shown["parts"]] == ["question", "left", "right"]
        assert shown == await told(client.get(f"{url}pair"))  # loading the page again shows the same
        for number in (1, 2, 3):
            shown = await told(client.post(f"{url}label", json={"pair": number, "choice": "equal"}))
        assert (shown["pair"], shown["parts"]) == (None, [])
        assert shown["told"] == "3 labelled, at most 0 to go; enough for a verdict"

    serving(work, talk)
    assert work.progress.decision == "accept"
    assert [each.choice for each in work.judgements.read()] == ["equal"] * 3


def test_undo_brings_the_pair_back(tmp_path: Path) -> None:
    work = session(tmp_path, 60, 3, margin=0.05)

    async def talk(client: aiohttp.ClientSession, url: str) -> None:
        first = await told(client.get(f"{url}pair"))
        second = await told(client.post(f"{url}label", json={"pair": 1, "choice": "left"}))
        again = await told(client.post(f"{url}undo", json={}))
        assert again["parts"] == first["parts"] != second["parts"]
        await told(client.post(f"{url}label", json={"pair": again["pair"], "choice": "right"}))

    serving(work, talk)
    assert [each.choice for each in work.judgements.read()] == ["right"]


def test_nothing_that_the_page_gets_says_which_plan_gave_which(tmp_path: Path) -> None:
    work = session(tmp_path, 60, 30, margin=0.05)
    sides = set()

    async def talk(client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(url) as reply:
            page = await reply.text()
        seen = [page]
        for number in range(1, 9):
            shown = await told(client.get(f"{url}pair"))
            assert set(shown) == {"pair", "told", "parts"}
            for part in shown["parts"]:
                assert set(part) == {"side", "name", "type", "text"}
            left = next(part["text"] for part in shown["parts"] if part["side"] == "left")
            sides.add(left.split()[0])
            seen.append(str(shown))
            await told(client.post(f"{url}label", json={"pair": number, "choice": "left"}))
        for text in seen:
            assert not re.search(r"\b(naive|tuned|before|after)\b", text), text
            assert not re.search(r"[0-9a-f]{64}", text)

    serving(work, talk)
    assert sides == {"old", "new"}


def test_media_come_from_the_pair_that_is_shown_only(tmp_path: Path) -> None:
    recorded(tmp_path / "asked.rec", 1)
    sides = [
        keep_answers(tmp_path / name / "a.jsonl", [served("q0", Image(PNG + name.encode()))])
        for name in ("naive", "tuned")
    ]
    work = Session(tmp_path / "asked.rec", *sides, labeller="ada", margin=0.1)

    async def talk(client: aiohttp.ClientSession, url: str) -> None:
        shown = await told(client.get(f"{url}pair"))
        places = [part["medium"] for part in shown["parts"] if "medium" in part]
        assert places == ["pair/1/1", "pair/1/2"]
        bodies = set()
        for place in places:
            async with client.get(f"{url}{place}") as reply:
                assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
                assert reply.headers["content-disposition"] == "attachment"
                bodies.add(await reply.read())
        assert bodies == {PNG + b"naive", PNG + b"tuned"}
        for wrong in ("pair/2/1", "pair/1/3", "pair/1/-1", "pair/1/x"):
            await told(client.get(f"{url}{wrong}"), 404)

    serving(work, talk)


def test_a_second_press_and_nonsense_label_nothing(tmp_path: Path) -> None:
    work = session(tmp_path, 60, 30, margin=0.05)

    async def talk(client: aiohttp.ClientSession, url: str) -> None:
        await told(client.post(f"{url}label", json={"pair": 1, "choice": "left"}), 400)  # none is shown yet
        await told(client.get(f"{url}pair"))
        await told(client.post(f"{url}label", json={"pair": 1, "choice": "left"}))
        for body in ({"pair": 1, "choice": "left"}, {"pair": 2, "choice": "middle"}, {"choice": "left"}, 7):
            problem = await told(client.post(f"{url}label", json=body), 400)
            assert problem["error"]["code"] == "E257"
        await told(client.post(f"{url}label", data=b"x" * 5000), 413)

    serving(work, talk)
    assert len(work.judgements.read()) == 1


def test_only_who_has_the_address_may_come_in(tmp_path: Path) -> None:
    work = session(tmp_path, 60, 30, margin=0.05)

    async def talk(client: aiohttp.ClientSession, url: str) -> None:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{22}/", url)
        root = url[: url.index("/", 8)]
        for path in ("/", "/pair", f"{url.removeprefix(root)[:-2]}/pair", "/undo"):
            problem = await told(client.get(f"{root}{path}"), 404)
            assert url.split("/")[-2] not in str(problem)
        await told(client.get(f"{url}pair", headers={"host": "evil.example"}), 403)
        await told(client.post(f"{url}undo", json={}, headers={"origin": "http://evil.example"}), 403)
        await told(client.get(f"{url}label"), 405)
        async with client.put(f"{url}pair") as reply:
            assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")

    serving(work, talk)


def test_the_page_runs_its_own_script_and_loads_nothing_else(tmp_path: Path) -> None:
    work = session(tmp_path, 60, 30, margin=0.05)

    async def talk(client: aiohttp.ClientSession, url: str) -> None:
        async with client.get(url) as reply:
            assert reply.status == 200
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["referrer-policy"] == "no-referrer"
            policy, page = reply.headers["content-security-policy"], await reply.text()
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "://" not in page
        for key in ("a", "l", "=", "x", "u", "q"):
            assert f'data-key="{key}"' in page

    serving(work, talk)


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    from tauten.errors import MachineError

    work = session(tmp_path, 60, 3, margin=0.05)

    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(MachineError, match="cannot listen"):
                await serve_labels(work, port=port, announce=print)

    asyncio.run(main())
