"""Operations: probes, metrics, the version, plan swaps, and caches."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import platform
from typing import TYPE_CHECKING

import msgspec

from tauten.errors import InputError, NotFound
from tauten.plan.plan import parse_plan
from tauten.run.gating.gates import opened_gates
from tauten.serve import probes
from tauten.serve.caching import Clear, cleared, gates_shown, shown
from tauten.serve.door import Call
from tauten.serve.exchange import Reply, failure
from tauten.serve.routes import Route
from tauten.serve.safety.guard import Forbidden
from tauten.version import __version__

if TYPE_CHECKING:
    from tauten.serve.app import Site


class Swap(msgspec.Struct, forbid_unknown_fields=True):
    """A plan to go over to: TOML text as a plan file holds it."""

    plan: str
    workflow: str = ""  # may be left out where one workflow is served


class Api:
    """`/health`, `/metrics`, `/version`, `/v1/admin`."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/health/live", self.live, failure, "live", open=True),
            Route("GET", "/health/ready", self.ready, failure, "ready", open=True),
            Route("GET", "/health/startup", self.startup, failure, "startup", open=True),
            Route("GET", "/metrics", self.metrics, failure, "metrics"),
            Route("GET", "/version", self.version, failure, "version"),
            Route("POST", "/v1/admin/swap", self.swap, failure, "swap"),
            Route("GET", "/v1/admin/caches", self.caches, failure, "caches"),
            Route("POST", "/v1/admin/caches/clear", self.clear, failure, "clear"),
        ]

    async def live(self, call: Call) -> Reply:
        return _probe("live", [])

    async def ready(self, call: Call) -> Reply:
        return _probe("ready", probes.unready(self.site))

    async def startup(self, call: Call) -> Reply:
        return _probe("started", [] if probes.started(self.site) else ["starting"])

    async def metrics(self, call: Call) -> Reply:
        if self.site.exposition is None:
            raise NotFound("this server keeps no metrics", help="start it with tauten serve")
        pieces, media_type = self.site.exposition(call.exchange.headers.get("accept", ""))
        body = []
        for piece in pieces:
            body.append(piece)
            await asyncio.sleep(0)  # requests go on between the families of a large page
        return Reply(b"".join(body), media_type=media_type)

    async def version(self, call: Call) -> Reply:
        workflows = {service.name: service.plan_id for service in self.site.services}
        python = platform.python_version()
        return Reply.json({"tauten": __version__, "python": python, "workflows": workflows})

    async def swap(self, call: Call) -> Reply:
        """Go over to another plan; answers when the plan before has drained."""
        _operator(call, "swap plans")
        asked = await call.read(Swap)
        names = self.site.services.names
        if not asked.workflow and len(names) != 1:
            raise InputError("which workflow?", help=f"give `workflow`: {', '.join(names)}", code="E290")
        service = self.site.services[asked.workflow or names[0]]
        before = service.plan_id
        after = await service.swap(parse_plan(asked.plan, where="plan"))
        return Reply.json({"workflow": service.name, "plan": after, "was": before})

    async def caches(self, call: Call) -> Reply:
        """What every cache did and holds, and how the gates stand."""
        _operator(call, "see caches")
        return Reply.json({"caches": shown(self.site), "gates": gates_shown(opened_gates())})

    async def clear(self, call: Call) -> Reply:
        """Forget results: all, of a workflow, of a tier, or those that carry a label."""
        _operator(call, "clear caches")
        asked = await call.read(Clear)
        if asked.workflow and asked.workflow not in self.site.services.names:
            raise NotFound(
                f"no workflow {asked.workflow!r}", help=f"served: {', '.join(self.site.services.names)}"
            )
        return Reply.json({"forgotten": await cleared(self.site, asked)})


def _operator(call: Call, what: str) -> None:
    if not call.caller.admin:
        raise Forbidden(f"this key may not {what}", help="make one: tauten key new NAME --admin")


def _probe(word: str, reasons: list[str]) -> Reply:
    """A probe answers by its status; the body is for people."""
    headers = [("cache-control", "no-store")]
    return Reply.json(
        {word: not reasons, "reasons": reasons}, status=503 if reasons else 200, headers=headers
    )
