"""Probes, the version and who may ask what."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio

import tauten as tt
from serve.kit_asgi import ask, site
from serve.kit_openai import synthetic, talking
from tauten.errors import BackendError
from tauten.plan.plan import Plan
from tauten.serve import probes
from tauten.serve.door import Caller, Door
from tauten.serve.safety.guard import Unauthorized
from tauten.serve.service import Service
from tauten.version import __version__

PATIENCE_S = 30.0  # a test that waits longer hangs


@tt.stage(pure=True)
async def work(text: str, *, mark: str = "") -> str:
    if mark == "broken":
        raise BackendError("this plan cannot run")
    return text + mark


@tt.workflow
def flow(text: str) -> str:
    return work(text)


@tt.workflow
def other(text: str) -> str:
    return work(text)


def nobody(_: object) -> Caller:
    raise Unauthorized("no API key")


def test_readiness_follows_every_service_and_the_drain() -> None:
    async def main() -> None:
        async with site(Service(flow), Service(other), apis=["operations"]) as app:

            async def states() -> tuple[int, int, int]:
                names = ("live", "startup", "ready")
                live, startup, ready = [(await ask(app, "GET", f"/health/{name}")).status for name in names]
                return live, startup, ready

            assert await states() == (200, 200, 200)
            app.site.services["other"].ready = False
            assert probes.unready(app.site) == ["other: closed"]
            assert await states() == (200, 200, 503)
            app.site.services.find("other").ready = True  # type: ignore[union-attr]
            app.site.draining = True
            assert await states() == (200, 200, 503)
            ready = await ask(app, "GET", "/health/ready")
            assert ready.json == {"ready": False, "reasons": ["draining"]}
            assert ready.headers["cache-control"] == "no-store"

    asyncio.run(main())


def test_a_service_that_is_opened_again_keeps_the_plan_that_it_went_over_to() -> None:
    async def main() -> None:
        service = Service(flow)
        assert flow.graph is not None
        await service.open()
        try:
            other = await service.swap(Plan(graph=flow.graph.hash, name="other"))
            await service.engine.retire(other)
            await service.open()
            assert (service.plan_id, list(service.engine.plans)) == (other, [other])
        finally:
            await service.close()

    asyncio.run(main())


def test_before_the_first_warm_up_nothing_has_started() -> None:
    async def main() -> None:
        async with site(Service(flow), apis=["operations"]) as app:
            service = app.site.services["flow"]
            service.ready = service.was_ready = False
            assert not probes.started(app.site)
            assert probes.unready(app.site) == ["flow: starting"]
        async with site(apis=["operations"]) as app:
            assert probes.unready(app.site) == ["nothing is served"]

    asyncio.run(main())


def test_probes_need_no_key_and_the_rest_does() -> None:
    async def main() -> None:
        async with site(Service(flow), door=Door(identify=nobody), apis=["operations"]) as app:
            for path in ("/health/live", "/health/ready", "/health/startup"):
                assert (await ask(app, "GET", path)).status == 200
            for method, path in (("GET", "/version"), ("GET", "/metrics"), ("POST", "/v1/admin/swap")):
                assert (await ask(app, method, path)).status == 401, path

    asyncio.run(main())


def test_the_version_names_the_plans() -> None:
    async def main() -> None:
        async with site(Service(flow), apis=["operations"]) as app:
            said = (await ask(app, "GET", "/version")).json
            assert said["tauten"] == __version__
            assert said["workflows"] == {"flow": app.site.services["flow"].plan_id}

    asyncio.run(main())


def test_a_new_plan_warms_up_before_it_takes_traffic() -> None:
    async def main() -> None:
        door = Door(identify=lambda _: Caller("me", admin=True))
        service = Service(flow, samples=[{"text": "warm"}])
        async with site(service, door=door, apis=["native", "operations"]) as app:
            before = service.plan_id

            async def swap(mark: str) -> int:
                text = f'tauten = "plan/1"\nname = "next"\n[stage.work]\nmark = "{mark}"\n'
                return (await ask(app, "POST", "/v1/admin/swap", {"plan": text})).status

            assert await swap("broken") >= 500
            assert (service.plan_id, list(service.engine.plans)) == (before, [before])
            assert await swap("!") == 200
            assert list(service.engine.plans) == [service.plan_id] != [before]
            done = await ask(app, "POST", "/v1/workflows/flow", {"inputs": {"text": "x"}})
            assert done.json["output"] == "x!"

    asyncio.run(main())


def test_a_new_plan_waits_for_room_to_warm_up() -> None:
    async def main() -> None:
        service = Service(flow, samples=[{"text": "warm"}])
        async with site(service, apis=["native"]):
            limit, before = service.engine.door.limit, service.plan_id
            crowd = limit.limit
            limit.count(crowd)  # so many are being served
            swap = asyncio.ensure_future(service.swap(Plan(name="next", graph=flow.graph.hash)))  # type: ignore[union-attr]
            await asyncio.sleep(0.1)
            assert (swap.done(), service.plan_id) == (False, before)
            limit.running -= crowd
            assert await swap == service.plan_id != before

    asyncio.run(main())


def test_a_swap_whose_client_leaves_frees_the_models_of_the_plan_before() -> None:
    async def main() -> None:
        service = talking(ms_per_token=50, tokens=500)
        async with site(service, apis=["native"]), asyncio.timeout(PATIENCE_S):
            engine, before = service.engine, service.plan_id
            asked = asyncio.create_task(engine.run({"messages": [{"role": "user", "content": "x"}]}))
            while not engine.plans[before].requests:
                await asyncio.sleep(0)
            after = synthetic(service.workflow, "chat", slots=3)
            swap = asyncio.create_task(service.swap(after))
            while before in engine.plans:
                await asyncio.sleep(0)
            assert service.plan_id == after.id, "requests draw it already"
            swap.cancel()
            await asyncio.gather(swap, return_exceptions=True)
            assert (swap.cancelled(), asked.done(), len(engine.deployments.views())) == (True, False, 2)
            asked.cancel()
            while len(engine.deployments.views()) > 1:
                await asyncio.sleep(0.001)

    asyncio.run(main())


def test_only_admins_swap() -> None:
    async def main() -> None:
        door = Door(identify=lambda _: Caller("me"))
        async with site(Service(flow), door=door, apis=["operations"]) as app:
            refused = await ask(app, "POST", "/v1/admin/swap", {"plan": ""})
            assert (refused.status, refused.json["error"]["code"]) == (403, "E263")

    asyncio.run(main())
