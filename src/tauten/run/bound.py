"""A step with everything it needs, shared by all requests of an opened plan."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from tauten.describe.stage import StageKind
from tauten.run.caching.keeper import Keeper
from tauten.run.contracts import PromptReader
from tauten.run.decode.decoders import Decoders
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.door.known_steps import Place
from tauten.run.request import Request
from tauten.run.usage.prices import Prices
from tauten.run.workers import Workers

DecodeMode = Literal["thread", "process"]


class BoundStep:
    """A step with everything it needs, shared by all requests of an opened plan."""

    __slots__ = (
        "decode",
        "deployments",
        "files",
        "kind",
        "name",
        "params",
        "readers",
        "results",
        "view",
        "views",
        "workers",
    )

    def __init__(
        self,
        name: str,
        kind: StageKind[..., Any],
        params: Mapping[str, Any],
        workers: Workers,
        deployments: dict[str, Deployment | SlotDeployment] | None = None,
        files: dict[str, Mapping[str, Path]] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.params = params
        self.workers = workers
        self.deployments = deployments or {}
        self.files = files or {}
        self.readers: dict[str, PromptReader] = {}  # tokenizers by role, where a choice counts prompts
        self.decode: DecodeMode = (
            "thread"  # where views of running code are decoded, and the plan's wishes for them
        )
        self.view: Mapping[str, Any] = {}
        self.results: Keeper | None = None  # where the plan caches what the stage gives, and what it decodes
        self.views: Keeper | None = None


class Dynamic(Protocol):
    """Where running code finds steps that no drawing announced; `engine` implements it per plan."""

    decoders: Decoders
    prices: Prices

    async def bound(
        self, name: str, kind: StageKind[..., Any], params: dict[str, Any], run: Request
    ) -> BoundStep: ...

    def ready(self, name: str, kind: StageKind[..., Any], params: Mapping[str, Any]) -> BoundStep | None: ...

    def waits(self, step: str, place: Place) -> None: ...
