"""The deployments of an engine: opened once, shared by all plans and steps that agree on them, counted."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Protocol
from weakref import WeakValueDictionary

import msgspec

from tauten.clock import Clock
from tauten.errors import PlanError
from tauten.plan.plan import Batch, Choices, ModelChoice, StagePlan
from tauten.run.caching.caches import Caches
from tauten.run.contracts import BatchBackend, ModelSpec, batches_itself, find
from tauten.run.deploy.cpu_sets import cpu_sets
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.queueing import View
from tauten.run.deploy.scheduling import Wait
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.workers import in_thread


class Models(Protocol):
    """Where model files come from; the store implements it."""

    def files(self, model: str, variant: str | None = None) -> dict[str, Path]: ...


class Deployments:
    """Opens deployments and frees each when its last holder lets go.

    A holder is a list of keys: what it takes is added, and `release` takes it back.
    """

    batched: ClassVar[type[Deployment]] = Deployment
    slotted: ClassVar[type[SlotDeployment]] = SlotDeployment

    def __init__(self, store: Models | None, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._held: dict[str, tuple[Deployment | SlotDeployment, int]] = {}
        # locks are gone with the last who waits for them: a program may choose models without end
        self._opening: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.caches = Caches(clock=clock)  # of the steps before them; held as they are
        self._cold: list[Deployment] | None = None  # that were opened since the present warm-up began

    @property
    def clock(self) -> Clock:
        """What all times of it are read from."""
        return self._clock

    async def files(self, choice: ModelChoice) -> dict[str, Path]:
        """A model's files; the first time they may have to be pulled, which takes seconds to minutes."""
        if choice.backend and not getattr(find("backends", choice.backend), "needs_files", True):
            return {}
        if self._store is None:
            from tauten.models.store import Store

            self._store = Store()
        return await in_thread(self._store.files, choice.model, choice.variant or None)

    async def take(
        self, keys: list[str], choice: ModelChoice, files: Mapping[str, Path]
    ) -> Deployment | SlotDeployment:
        """The deployment of a choice, held once by each holder; raises what its backend raises, and then holds nothing."""
        key = _key(choice)
        lock = self._opening.setdefault(key, asyncio.Lock())
        async with lock:
            if key in self._held:
                deployment, holders = self._held[key]
            else:
                deployment, holders = self._make(choice, dict(files)), 0
                await self._open(deployment)
                self._note(deployment, choice)
            if key not in keys:
                holders += 1
                keys.append(key)
            self._held[key] = (deployment, holders)
        return deployment

    def _note(self, deployment: Deployment | SlotDeployment, choice: ModelChoice) -> None:
        """Let what is opened in a warm-up rehearse, unless its runs are a user's code, which runs once a sample."""
        if self._cold is not None and isinstance(deployment, Deployment) and "kind" not in choice.options:
            deployment.keep_back()
            self._cold.append(deployment)

    @asynccontextmanager
    async def warming_up(self) -> AsyncIterator[None]:
        """Of each model that is opened in here one replica runs what comes; in the end its others run the same."""
        cold: list[Deployment] = []
        self._cold, well = cold, False
        try:
            yield
            well = True
        finally:
            self._cold = None
            await asyncio.gather(*(deployment.rehearse(all=well) for deployment in cold))

    @staticmethod
    async def _open(deployment: Deployment | SlotDeployment) -> None:
        try:
            await deployment.open()
        except BaseException:
            await deployment.close()
            raise

    def _make(self, choice: ModelChoice, files: dict[str, Path]) -> Deployment | SlotDeployment:
        backend = find("backends", choice.backend)
        options = {key: value for key, value in choice.options.items() if key in backend.option_keys}
        spec = ModelSpec(choice.model, choice.variant, files, choice.threads, choice.precision, options)
        label = f"{choice.model}/{choice.backend}"
        if batches_itself(choice.backend):
            return self.slotted(backend(spec), label=label, clock=self._clock)
        kind = options.get("kind")  # a user's stage says itself whether it may run twice
        pure = getattr(kind, "effects", "pure") == "pure"
        return self._of_batches(choice, lambda: backend(spec), pure=pure)

    def _of_batches(
        self, choice: ModelChoice, make: Callable[[], BatchBackend], *, pure: bool = True
    ) -> Deployment:
        """A deployment with the settings of a choice."""
        return self.batched(
            make,
            label=f"{choice.model}/{choice.backend}",
            clock=self._clock,
            replicas=choice.replicas,
            max_batch=choice.batch.max,
            wait=_checked(choice),
            max_weight=choice.batch.weight or math.inf,
            cpus=cpu_sets(choice.cpus, choice.nodes),
            pure=pure,
        )

    async def release(self, keys: list[str]) -> None:
        """Let go of what a holder took; what nobody holds any more is closed."""
        self.caches.release(keys)
        given, keys[:] = list(keys), []
        for key in given:
            if key not in self._held:
                continue  # all were closed meanwhile
            deployment, holders = self._held[key]
            if holders > 1:
                self._held[key] = (deployment, holders - 1)
            else:
                del self._held[key]
                await deployment.close()

    async def close(self) -> None:
        """Close all, whoever holds them."""
        await self.caches.close()
        held, self._held = self._held, {}
        for deployment, _ in held.values():
            await deployment.close()

    def views(self) -> dict[str, View]:
        """What metrics show of each."""
        return {key: deployment.view() for key, (deployment, _) in self._held.items()}

    def zombies(self) -> int:
        """Work that still runs for requests that ended more than 100 ms ago."""
        return sum(deployment.zombies() for deployment, _ in self._held.values())

    def properties(self) -> dict[str, Mapping[str, str]]:
        """What is in force in each: precision, threads, device."""
        return {key: deployment.properties for key, (deployment, _) in self._held.items()}


def check_engines(stage: str, said: StagePlan, models: Mapping[str, ModelChoice]) -> None:
    """Refuse what a plan says of engines that batch by themselves, and only other backends do.

    What it says of a whole stage is for those of its models that can do it.
    """
    backends = {role: choice.backend for role, choice in models.items() if choice.backend}
    engines = {role: backend for role, backend in backends.items() if batches_itself(backend)}
    for role, backend in engines.items():
        _check_engine(f"stage '{stage}', role '{role}'", said.roles.get(role, Choices()), backend)
        if len(engines) == len(backends):
            _check_engine(f"stage '{stage}'", said, backend)


def _check_engine(where: str, said: Choices, backend: str) -> None:
    for key, default in (("replicas", 1), ("batch", Batch()), ("cpus", ()), ("nodes", ())):
        value = getattr(said, key)
        if value != default:
            slots = "; `slots` says how many streams run at a time"
            known = "slots" in find("backends", backend).option_keys
            raise PlanError(
                f"{where}: {backend} cannot do {key} = {msgspec.json.encode(value).decode()}, "
                "it is one engine that batches by itself",
                help=f"leave `{key}` out{slots if known else ''}",
                code="E122",
            )


def _checked(choice: ModelChoice) -> Wait:
    """How long batches may be held, as the plan says it; raises PlanError where it makes no sense."""
    wait, weight = choice.batch.wait, choice.batch.weight
    if choice.batch.max < 1 or weight < 0 or (not isinstance(wait, str) and wait < 0):
        raise PlanError(
            f"batch = {{ max = {choice.batch.max}, wait = {wait!r}, weight = {weight:g} }} of {choice.model}",
            help='max is 1 or more, wait is "slack", "off" or milliseconds, weight 0 means no limit',
            code="E122",
        )
    return wait


def _key(choice: ModelChoice) -> str:
    """What makes two choices the same deployment."""
    options = {
        name: value if isinstance(value, str | int | float | bool | list | type(None)) else id(value)
        for name, value in choice.options.items()
    }
    batch = (
        choice.batch if not batches_itself(choice.backend) else Batch()
    )  # a default by what the stage takes
    parts = [
        choice.model,
        choice.variant,
        choice.backend,
        choice.precision,
        choice.threads,
        choice.replicas,
        batch.max,
        batch.wait,
        batch.weight,
        choice.cpus,
        choice.nodes,
    ]
    return msgspec.json.encode([*parts, options], order="deterministic").decode()
