"""Sessions over HTTP and sockets: made, named, pinned to a plan, ended, and nobody else's."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_stream import Client, Talk
from serve.kit_workflows import remember
from tauten.errors import NotFound
from tauten.plan.plan import Plan
from tauten.serve.door import Caller, Door
from tauten.serve.kept.kept import Kept
from tauten.serve.kept.sessions import Sessions
from tauten.serve.service import Service

PATH = "/v1/workflows/remember"


def say(text: str) -> dict[str, Any]:
    return {"inputs": {"text": text}}


def test_a_session_is_made_named_used_again_and_ended() -> None:
    async def main() -> None:
        async with site(Service(remember), apis=["native"]) as app:
            first = await ask(app, "POST", PATH, say("one"))
            session = first.headers["x-tauten-session"]
            assert first.json["session"] == session
            again = await ask(app, "POST", PATH, say("two"), {"x-tauten-session": session})
            assert again.json["output"] == "one two"
            assert again.headers["x-tauten-session"] == session
            stream = Client(app, "POST", f"{PATH}?stream=1", say("three"), {"x-tauten-session": session})
            await stream.done()
            assert stream.events[0][1]["output"] == "one two three"
            other = await ask(app, "POST", PATH, say("new"))
            assert other.json["output"] == "new"
            assert other.headers["x-tauten-session"] != session
            ended = await ask(app, "DELETE", f"/v1/sessions/{session}")
            assert ended.json == {"id": session, "ended": True}
            for method, path, body, headers in (
                ("DELETE", f"/v1/sessions/{session}", b"", {}),
                ("POST", PATH, say("more"), {"x-tauten-session": session}),
            ):
                gone = await ask(app, method, path, body, headers)
                assert (gone.status, gone.json["error"]["code"]) == (404, "E283")

    asyncio.run(main())


def test_a_session_is_its_tenants_alone() -> None:
    door = Door(identify=lambda exchange: Caller(tenant=exchange.headers["who"]))

    async def main() -> None:
        async with site(Service(remember), door=door, apis=["native"]) as app:
            mine = await ask(app, "POST", PATH, say("secret"), {"who": "a"})
            session = mine.headers["x-tauten-session"]
            stolen = await ask(app, "POST", PATH, say("tell"), {"who": "b", "x-tauten-session": session})
            assert stolen.status == 404
            assert b"secret" not in stolen.body
            assert (await ask(app, "DELETE", f"/v1/sessions/{session}", b"", {"who": "b"})).status == 404
            kept = await ask(app, "POST", PATH, say("again"), {"who": "a", "x-tauten-session": session})
            assert kept.json["output"] == "secret again"

    asyncio.run(main())


def test_a_session_stays_with_its_plan_until_that_plan_is_retired() -> None:
    async def main() -> None:
        service = Service(remember)
        async with site(service, apis=["native"]) as app:
            first = await ask(app, "POST", PATH, say("one"))
            headers = {"x-tauten-session": first.headers["x-tauten-session"]}
            graph = remember.graph
            assert graph is not None
            other = Plan("other", graph=graph.hash)
            await service.engine.open(remember, other, weight=1e9)
            drawn = [(await ask(app, "POST", PATH, say("x"))).json["plan"] for _ in range(3)]
            assert drawn == [other.id] * 3
            kept = await ask(app, "POST", PATH, say("two"), headers)
            assert kept.json["plan"] == first.json["plan"] != other.id
            await service.engine.retire(first.json["plan"])
            moved = await ask(app, "POST", PATH, say("three"), headers)
            assert (moved.json["plan"], moved.json["output"]) == (other.id, "one two three")

    asyncio.run(main())


def test_a_socket_keeps_its_session() -> None:
    async def main() -> None:
        async with site(Service(remember), apis=["native"]) as app:
            talk = Talk(app, f"{PATH}/ws")
            assert await talk.hear() == "websocket.accept"
            heard = []
            for text in ("one", "two"):
                talk.say(say(text))
                while (message := await talk.hear())["type"] != "done":
                    heard.append(message)
            assert [each["output"] for each in heard if each["type"] == "output"] == ["one", "one two"]
            assert len({each["session"] for each in heard if each["type"] == "started"}) == 1
            await talk.leave()

    asyncio.run(main())


def test_a_socket_whose_session_is_over_hears_it_once_and_begins_another() -> None:
    async def main() -> None:
        async with site(Service(remember), apis=["native"]) as app:
            first = await ask(app, "POST", PATH, say("before"))
            session = first.headers["x-tauten-session"]
            talk = Talk(app, f"{PATH}/ws", {"x-tauten-session": session})
            assert await talk.hear() == "websocket.accept"

            async def answer(text: str) -> list[dict[str, Any]]:
                talk.say(say(text))
                heard = [await talk.hear()]
                while heard[-1]["type"] not in ("done", "error"):
                    heard.append(await talk.hear())
                return heard

            for text, output in (("one", "before one"), ("two", "two"), ("three", "three")):
                started, said, _ = await answer(text)
                assert said["output"] == output
                assert (await ask(app, "DELETE", f"/v1/sessions/{started['session']}")).status == 200
                [over] = await answer("lost")
                assert over["error"]["code"] == "E283"
            await talk.leave()

    asyncio.run(main())


def test_sessions_expire_when_idle_and_are_bounded() -> None:
    now = [0.0]
    sessions = Sessions(most=4, idle_s=60, clock=lambda: now[0])
    first = sessions.open("a")
    now[0] = 50
    assert sessions.open("a", first.id) is first
    now[0] = 100
    assert sessions.open("a", first.id) is first  # used 50 s ago
    now[0] = 161
    with pytest.raises(NotFound):
        sessions.open("a", first.id)
    greedy = [sessions.open("greedy") for _ in range(9)]
    modest = sessions.open("modest")
    assert len(sessions) == 4
    assert sessions.open("modest", modest.id) is modest
    assert sessions.open("greedy", greedy[-1].id) is greedy[-1]
    with pytest.raises(NotFound):
        sessions.open("greedy", greedy[0].id)


def test_histories_are_bounded_together_and_the_longest_tenant_loses_its_oldest() -> None:
    sessions = Sessions(most_bytes=100)

    def said(tenant: str, text: str) -> Any:
        session = sessions.open(tenant)
        session.say("user", text)
        sessions.rest(session)
        return session

    modest = said("modest", "x" * 20)
    greedy = [said("greedy", "x" * 30) for _ in range(3)]  # the third has no room beside the first
    assert (len(sessions), sessions.ended["evicted"]) == (3, 1)
    with pytest.raises(NotFound):
        sessions.open("greedy", greedy[0].id)
    modest.say("user", "y" * 30)
    modest.history.append("of its own making")
    sessions.rest(modest)
    assert sessions.open("modest", modest.id) is modest
    assert (len(sessions), sessions.ended["evicted"]) == (2, 2)
    sessions.end("modest", modest.id)
    sessions.end("greedy", greedy[2].id)
    assert (len(sessions), sessions._kept.size_bytes) == (0, 0)


def test_a_session_is_idle_from_the_end_of_its_last_request() -> None:
    now = [0.0]

    @tt.workflow
    async def slowly(text: str, session: tt.Session) -> str:
        now[0] += 50
        session.say("user", text)
        return " ".join(turn["content"] for turn in session.history)

    async def main() -> None:
        door = Door()
        door.sessions = Sessions(idle_s=60, clock=lambda: now[0])
        async with site(Service(slowly), door=door, apis=["native"]) as app:
            first = await ask(app, "POST", "/v1/workflows/slowly", say("one"))
            now[0] += 40  # 90 s after it was begun
            headers = {"x-tauten-session": first.headers["x-tauten-session"]}
            again = await ask(app, "POST", "/v1/workflows/slowly", say("two"), headers)
            assert again.json["output"] == "one two"
            now[0] += 60
            gone = await ask(app, "POST", "/v1/workflows/slowly", say("three"), headers)
            assert gone.status == 404
        named = door.sessions.named("a", "4", begin=True)
        now[0] += 50
        door.sessions.rest(named, "4")
        now[0] += 50
        assert door.sessions.named("a", "4", begin=False) is named

    asyncio.run(main())


def test_what_is_kept_is_bounded_in_bytes_and_fair() -> None:
    gone: list[str] = []
    kept: Kept[str] = Kept(100, most_bytes=10, gone=lambda value, _: gone.append(value))
    kept.put("a", "1", "a1", 4)
    kept.put("b", "1", "b1", 2)
    kept.put("a", "2", "a2", 4)
    kept.put("b", "2", "b2", 2)  # too much: the tenant with the most loses its oldest
    assert gone == ["a1"]
    assert sorted(kept.values()) == ["a2", "b1", "b2"]
    kept.put("a", "2", "a3", 1)  # in place
    assert (kept.size_bytes, len(kept)) == (5, 3)
    kept.put("c", "1", "too large", 11)
    assert kept.get("c", "1") is None
    assert kept.get("b", "2") == "b2"
    assert kept.pop("b", "1") == "b1"
    assert kept.pop("b", "1") is None
