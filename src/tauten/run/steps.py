"""The steps of one plan, each bound to its models: those that a drawing announced, and those met on the way."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from tauten.describe.stage import StageKind
from tauten.errors import PlanError, suggest
from tauten.plan.caching import RESULTS_BYTES, VIEWS_BYTES, cache_bytes, cache_rules, check_caches
from tauten.plan.likeness import likeness_rules
from tauten.plan.lower import Step, model_choices, step_params
from tauten.plan.plan import Batch, CachePlan, ModelChoice, Plan, StagePlan
from tauten.run.bound import BoundStep, Dynamic
from tauten.run.caching.keeper import Keeper, Told
from tauten.run.caching.likes import Liked
from tauten.run.caching.place import Place as CachePlace
from tauten.run.caching.spaces import VIEWS, space_of
from tauten.run.contracts import find
from tauten.run.decode.decoders import Decoders
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.deployments import Deployments, check_engines
from tauten.run.deploy.slots_deployment import SlotDeployment
from tauten.run.door.known_steps import Place
from tauten.run.request import Request
from tauten.run.routing.foresight import open_readers
from tauten.run.routing.policy import setting_keys
from tauten.run.usage.book import Book
from tauten.run.usage.prices import Prices
from tauten.run.workers import Workers, in_thread

MET = 1024  # steps that no drawing announced: programs have tens, but names may be made up at run time
FUNCTION_THREADS = 2  # one waits for a disk or a peer while the other computes; a plan may say more or less


class PlanSteps(Dynamic):
    """Binds steps under one plan; what they open is held by `keys`."""

    def __init__(
        self,
        plan: Plan,
        keys: list[str],
        deployments: Deployments,
        workers: Workers,
        decoders: Decoders,
        workflow: str = "",
        told: Told | None = None,
        book: Book | None = None,
    ) -> None:
        self.decoders = decoders
        self._told = told  # of what was computed behind requests
        self.prices = book.prices if book is not None else Prices()
        self._workflow = workflow  # whose steps they are: evidence is kept by that name
        self._plan = plan
        self._keys = keys
        self._deployments = deployments
        self._workers = workers
        self._drawn: dict[str, BoundStep] = {}
        self._bound: dict[tuple[Any, ...], BoundStep] = {}
        self._plain: dict[str, BoundStep] = {}  # calls that write no settings
        self._models: dict[str, Mapping[str, ModelChoice]] = {}  # by step, as it was bound last
        self._places: dict[str, list[list[Place]]] = {}
        self._bindings: dict[str, set[tuple[Any, ...]]] = {}  # those of which the places are known

    def models_of(self, step: str) -> Mapping[str, ModelChoice]:
        """The models of a step by role; none of one that was not met."""
        return self._models.get(step, {})

    def places(self, name: str) -> list[list[Place]]:
        """Where a step waits: the places of each of its bindings, those to come included."""
        return self._places.setdefault(name, [])

    def waits(self, step: str, place: Place) -> None:
        """Note that a step waits at a place beside its deployments, whichever they are."""
        bindings = self.places(step)
        if not bindings:
            bindings.append([])
        for binding in bindings:
            if place not in binding:
                binding.append(place)

    def ready(self, name: str, kind: StageKind[..., Any], params: Mapping[str, Any]) -> BoundStep | None:
        if not params:
            found = self._plain.get(name)
            if found is not None and found.kind is kind:
                return found
        return self._bound.get((name, kind, params.get("model"), params.get("backend")))

    async def bound(
        self, name: str, kind: StageKind[..., Any], params: dict[str, Any], run: Request
    ) -> BoundStep:
        """Open the models of a step met for the first time; its time is `load`."""
        started = run.clock()
        chosen = self._plan.stage(name)
        if chosen.route is not None:
            raise PlanError(
                f"stage '{name}' has a route, and is met only while a request runs",
                help="draw it: a `def` workflow knows its stages before, and what each would take",
                code="E141",
            )
        check_caches(name, kind, chosen, {**kind.params, **chosen.settings, **params})
        models = model_choices(kind, chosen, params)
        check_settings(name, kind, chosen, models)
        bound = await self._open(name, kind, step_params(kind, {}, chosen, name), models, chosen)
        bound.decode, bound.view = chosen.decode, chosen.view
        self._bound[name, kind, params.get("model"), params.get("backend")] = bound
        if not params:
            self._plain[name] = bound
        if len(self._bound) > MET:
            self._forget()
        run.trace.rows.append((name, "load", started, run.clock()))
        return bound

    def _forget(self) -> None:
        """Let the older half of the steps go that were met on the way: one that comes again is bound anew."""
        old = list(self._bound)[: len(self._bound) // 2]
        for key in old:
            del self._bound[key]
        gone = {key[0] for key in old} - {key[0] for key in self._bound} - self._drawn.keys()
        tables: tuple[dict[str, Any], ...] = (self._plain, self._models, self._bindings)
        for table in tables:
            for name in gone & table.keys():
                del table[name]
        # what is decoded for a step waits, too
        for name in [each for each in self._places if not gone.isdisjoint((each, each.rpartition(".")[0]))]:
            del self._places[name]

    async def bind(self, step: Step) -> BoundStep:
        """Open the models of a step that a drawing announced."""
        assert step.kind is not None  # decode steps have no models
        check_settings(step.name, step.kind, step.plan, step.models, str(step.params.get("policy") or ""))
        bound = await self._open(step.name, step.kind, step.params, step.models, step.plan)
        self._drawn[step.name] = bound
        if step.params.get("policy"):
            await open_readers(step, self._drawn)
        return bound

    async def _open(
        self,
        name: str,
        kind: StageKind[..., Any],
        params: Mapping[str, Any],
        models: dict[str, ModelChoice],
        chosen: StagePlan,
    ) -> BoundStep:
        self._models[name] = models
        taken: dict[str, Deployment | SlotDeployment] = {}
        files: dict[str, Mapping[str, Path]] = {}
        for role, choice in models.items():
            files[role] = await self._deployments.files(choice)
            if choice.backend:
                taken[role] = await self._deployments.take(self._keys, choice, files[role])
        if kind.deployed:
            body = _body(kind, chosen, alone=not models)
            taken["body"] = await self._deployments.take(self._keys, body, {})
        binding, known = tuple(taken.values()), self._bindings.setdefault(name, set())
        if binding not in known:
            known.add(binding)
            self.places(name).append([*binding])
        bound = BoundStep(name, kind, params, self._workers, taken, files)
        await self._give_caches(bound, chosen, models)
        return bound

    async def _give_caches(
        self, bound: BoundStep, chosen: StagePlan, models: Mapping[str, ModelChoice]
    ) -> None:
        """Put in front of a step the caches that the plan gives it."""
        name, caches = bound.name, self._deployments.caches
        size, rules = cache_bytes(chosen.cache, RESULTS_BYTES), cache_rules(chosen.cache)
        if size and (place := caches.take(self._keys, name, "results", size, rules)):
            # files that nobody has hashed yet are read whole
            space = await in_thread(space_of, name, bound.kind, bound.params, models, bound.files)
            labels = labels_of(name, rules, models)
            liked = await self._liked(bound, rules, size, place, space)
            bound.results = Keeper(place, space, bound.params, rules, labels, self._over, liked)
        size = cache_bytes(chosen.cache_view, VIEWS_BYTES)
        if size and (place := caches.take(self._keys, name, "views", size)):
            bound.views = Keeper(place, VIEWS, {})

    def _over(self, request: Request, error: BaseException | None) -> None:
        """What a cache had computed behind a request is over: the books hear of it, and whoever else wants to."""
        if self._told is not None:
            self._told(request, error)
        self._deployments.caches.told_behind(request)

    async def _liked(
        self, bound: BoundStep, rules: CachePlan, size_bytes: int, place: CachePlace, space: bytes
    ) -> Liked | None:
        """The tier that takes likeness for equality, where the plan asks for one: its model opened, its gate read."""
        like, caches = likeness_rules(rules), self._deployments.caches
        if like is None or not caches.likens():
            return None
        from tauten.run.caching.semantic import opening  # NumPy, for those who ask for it
        from tauten.run.caching.semantic.remembered import mark_of

        gate = opening.gate_of(self._workflow, bound.name, like)
        maker = await opening.opened(self._deployments, self._keys, bound.kind, like, gate)
        make = partial(maker, size_bytes, place.tiers)
        return caches.likes.take(self._keys, bound.name, like, make, size_bytes, mark_of(space))


def labels_of(step: str, rules: CachePlan, models: Mapping[str, ModelChoice]) -> tuple[str, ...]:
    """By what the results of a step can be forgotten; the tenant's is added to each."""
    used = dict.fromkeys(f"model:{each.model}" for each in models.values() if each.model)
    return (f"step:{step}", *used, *(f"tag:{tag}" for tag in rules.tags))


def _body(kind: StageKind[..., Any], chosen: StagePlan, *, alone: bool) -> ModelChoice:
    """How the stage's own code runs; the plan's replicas are those of its models, where it has some."""
    batch = Batch(max=kind.max_batch)
    choice = ModelChoice(model=kind.name, backend="python", options={"kind": kind}, batch=batch)
    plain = not kind.is_class and kind.max_batch == 1  # several may run at once: there is no instance
    if alone:
        batch = replace(chosen.batch, max=kind.max_batch)
        choice = replace(choice, replicas=chosen.replicas, batch=batch, cpus=chosen.cpus, nodes=chosen.nodes)
    threads = chosen.threads if alone else 0
    return replace(choice, replicas=threads or max(choice.replicas, FUNCTION_THREADS)) if plain else choice


def check_settings(
    name: str,
    kind: StageKind[..., Any],
    chosen: StagePlan,
    models: Mapping[str, ModelChoice],
    policy: str = "",
) -> None:
    """The second phase of reading a plan: every key must be known to the stage kind, a backend or the policy."""
    options = {
        role: find("backends", choice.backend).option_keys if choice.backend else frozenset()
        for role, choice in models.items()
    }
    if policy:
        options["policy"] = setting_keys(policy)
    _check_keys(f"stage '{name}'", chosen.settings, frozenset(kind.params).union(*options.values()))
    for role, own in chosen.roles.items():
        _check_keys(f"stage '{name}', role '{role}'", own.options, options[role])
    check_engines(name, chosen, models)


def _check_keys(where: str, settings: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in settings:
        if key not in known:
            raise PlanError(
                f"{where}: unknown key `{key}`", help=suggest(key, known | _STAGE_KEYS), code="E109"
            )


_STAGE_KEYS = frozenset(
    {"model", "variant", "backend", "precision", "threads", "replicas", "batch", "beside", "view"}
    | {"cpus", "nodes", "cache", "cache_view"}
)
