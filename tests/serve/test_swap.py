"""Going over to another plan under load: no error, and each answer by exactly one plan."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp

from serve.kit_process import Running, counted, post, ran, serving, summary
from tauten.serve.safety.keys import new_key

PATIENCE_S = 60.0  # a test that waits longer hangs


def plan(mark: str) -> str:
    return f'tauten = "plan/1"\nname = "p{len(mark)}"\n[stage.shout]\nmark = "{mark}"\n'


class Hammer:
    """Clients that ask again and again, and what they were told."""

    def __init__(self, client: aiohttp.ClientSession, server: Running) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.ended = False
        self._client, self._server = client, server
        self._told = asyncio.Condition()
        self._clients = [asyncio.create_task(self._ask()) for _ in range(4)]

    async def _ask(self) -> None:
        while not self.ended:
            answer = await ran(self._client, self._server)
            async with self._told:
                self.answers.append(answer)
                self._told.notify_all()

    async def answered_by(self, plan: str, times: int = 12) -> None:
        """Wait until a plan has answered somebody, and a few more."""
        async with asyncio.timeout(PATIENCE_S), self._told:
            await self._told.wait_for(
                lambda: sum(said.get("plan") == plan for _, said in self.answers) >= times
            )

    async def end(self) -> list[tuple[int, Any]]:
        self.ended = True
        await asyncio.gather(*self._clients)
        return self.answers


def test_swaps_under_load_cost_no_request_and_mix_no_plans(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "flow.toml").write_text(plan("!"))
        async with (
            serving(tmp_path, "--plan", "flow=flow.toml") as server,
            aiohttp.ClientSession() as client,
        ):
            first = server.said["workflows"][0]["plan"]
            hammer = Hammer(client, server)
            stream = asyncio.create_task(counted(client, server, 15))
            marks = {first: "!"}
            for mark in ["!!", "!!!"]:
                await hammer.answered_by(list(marks)[-1])
                body = {"workflow": "flow", "plan": plan(mark)}
                status, said = await post(client, f"{server.url}/v1/admin/swap", body)
                assert (status, said["was"]) == (200, list(marks)[-1])
                marks[said["plan"]] = mark
            await hammer.answered_by(list(marks)[-1])
            (tmp_path / "flow.toml").write_text(plan("!!!!"))
            server.signal(signal.SIGHUP)
            while not (swaps := [line for line in server.logged() if line["event"] == "plan"]):
                await asyncio.sleep(0.01)
            marks[swaps[0]["plan"]] = "!!!!"
            await hammer.answered_by(swaps[0]["plan"])
            answers = await hammer.end()
            assert len(answers) > 40
            assert {status for status, _ in answers} == {200}, next(
                each for each in answers if each[0] != 200
            )
            wrong = [said for _, said in answers if said["output"] != "X" + marks[said["plan"]]]
            assert wrong == []
            assert {said["plan"] for _, said in answers} == set(marks)
            assert summary(await stream) == (15, "done")
            async with client.get(f"{server.url}/version") as version:
                assert (await version.json())["workflows"]["flow"] == list(marks)[-1]

    asyncio.run(main())


def test_a_plan_that_does_not_open_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "flow.toml").write_text(plan("!"))
        async with (
            serving(tmp_path, "--plan", "flow=flow.toml") as server,
            aiohttp.ClientSession() as client,
        ):
            swap = f"{server.url}/v1/admin/swap"
            bad = [
                ({"workflow": "flow", "plan": "x ="}, 400, "E123"),
                ({"workflow": "flow", "plan": 'tauten = "plan/1"\n[stage.nowhere]\nthreads = 1'}, 400, "E"),
                ({"workflow": "flow", "plan": plan("!").replace("mark", "mrk")}, 400, "E"),
                ({"workflow": "nobody", "plan": plan("!")}, 404, "E201"),
                ({"plan": plan("!")}, 400, "E290"),
                ({"workflow": "flow"}, 400, "E290"),
            ]
            for body, wanted, code in bad:
                status, said = await post(client, swap, body)
                assert status == wanted, said
                assert said["error"]["code"].startswith(code), said
            (tmp_path / "flow.toml").write_text("x =")
            server.signal(signal.SIGHUP)
            while not any(line["event"] == "plan refused" for line in server.logged()):
                await asyncio.sleep(0.01)
            assert (await ran(client, server))[1]["output"] == "X!"

    asyncio.run(main())


def test_a_hang_up_without_plan_files_is_answered_in_the_log(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as server, aiohttp.ClientSession() as client:
            server.signal(signal.SIGHUP)
            while not (
                said := [line for line in server.logged() if line["event"] == "nothing to read again"]
            ):
                await asyncio.sleep(0.01)
            assert "--plan" in said[0]["why"]
            assert (await ran(client, server))[0] == 200

    asyncio.run(main())


def test_only_an_admin_key_may_swap(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    user = new_key(file, "user", created="2026-01-01")
    admin = new_key(file, "admin", created="2026-01-01", admin=True)

    async def main() -> None:
        async with (
            serving(tmp_path, "flow.py:flow", "--keys", str(file)) as server,
            aiohttp.ClientSession() as client,
        ):
            swap, body = f"{server.url}/v1/admin/swap", {"plan": plan("!")}
            statuses = []
            for key in ("", user, admin):
                headers = {"authorization": f"Bearer {key}"} if key else {}
                statuses.append((await post(client, swap, body, headers))[0])
            assert statuses == [401, 403, 200]

    asyncio.run(main())
