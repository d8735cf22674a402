"""HOW a workflow runs: a plan is data that people read, diff, edit and commit.

A plan file (TOML) says only what differs from the default, and why. It never holds secrets, hosts or
absolute paths. Structure is checked here; keys that belong to a stage kind or a backend are kept as they
are and checked when the plan is opened.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tauten.describe.graph import Graph
from tauten.describe.slo import Slo
from tauten.errors import InputError, PlanError, suggest
from tauten.plan.tables import table_of

FORMAT = "plan/1"

AtLeast0 = Annotated[int, msgspec.Meta(ge=0)]
AtLeast1 = Annotated[int, msgspec.Meta(ge=1)]
Span = Annotated[float, msgspec.Meta(ge=0.0)]


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How many items may share one run of a model; those that wait together leave together.

    `max` 0 leaves the limits to what the stage takes (`plan/batches.py`). `wait` is how long they may be held for others: by the deadline's slack and what waiting gains, never
    ("off"), or a fixed number of milliseconds. `weight` bounds a batch by its members' predicted cost, in
    the backend's unit (numbers of a tensor, seconds); 0 is no bound where `max` is said.
    """

    max: AtLeast0 = 0
    wait: Literal["slack", "off"] | Span = "slack"
    weight: Span = 0.0


class Choices(msgspec.Struct, frozen=True, omit_defaults=True):
    """What can be chosen for a model. Empty and zero mean the framework's plain default."""

    model: str = ""
    variant: str = ""
    backend: str = ""
    precision: str = ""
    threads: AtLeast0 = 0
    replicas: AtLeast1 = 1
    batch: Batch = Batch()
    cpus: tuple[str, ...] = ()  # processors of each replica in turn, as "0-3,8"
    nodes: tuple[int, ...] = ()  # or the NUMA node of each


class ModelChoice(Choices, frozen=True, omit_defaults=True):
    """How one model of a stage runs."""

    options: dict[str, Any] = {}


class SemanticPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How the tier `semantic` takes likeness for equality: what may be worded otherwise, what embeds it, and what is
    promised of its hits. Another promise is another gate's: what was proved for one says nothing of the other."""

    field: str = ""  # the input that may be worded otherwise; empty: the only text among them
    model: str = "minilm-l6-v2"  # that embeds it
    variant: str = ""
    backend: str = "onnx"
    precision: str = ""
    threads: int = 0
    epsilon: float = 0.02  # of the hits at most so many are wrong,
    confidence: float = 0.95  # with so much confidence
    shadow: float = 0.02  # of the would-be hits so many, at least, are answered by the step and compared
    agree: float = 1.0  # of their words that two answers share to be as good; 1 is all, in their order
    category: str = ""  # the input that says what kind of question it is; each kind is proved by itself
    gate: str = ""  # whose evidence opens it; empty: one of the workflow and the stage


class CachePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a stage's results are kept: where, how long, and what is done when they grow old.

    `refresh` is how eagerly what will soon be too old is computed anew (XFetch's beta: 1 is its authors', 0 is
    never). Where a shared tier is, no plan says: that is the machine's.
    """

    size: str = ""  # of the tier in memory; empty is the usual one
    tiers: tuple[str, ...] = ("memory",)  # looked through in this order
    disk: str = ""  # of the tier on disk
    ttl_s: float = 0.0  # 0: equal names mean equal results, so nothing grows old by itself
    refresh: float = 0.0
    stale_s: float = 0.0  # beyond its ttl that a result is still given, while it is computed anew behind
    negative_s: float = 0.0  # that an error is kept which is the input's fault
    replay: Literal["at once", "as made"] = "at once"  # of streams
    tags: tuple[str, ...] = ()  # by which results are forgotten, beside stage, model and tenant
    semantic: SemanticPlan | None = None  # of the tier of that name; None is the usual one


class StagePlan(Choices, frozen=True, omit_defaults=True):
    """How one stage runs. `settings` are the keys that its kind or its backend know."""

    route: RoutePlan | None = None  # several ways to run it, and who says which one a request goes

    beside: tuple[str, ...] = ()
    decode: Literal["thread", "process"] = "thread"
    view: dict[str, int | float | str | bool] = {}
    channel: AtLeast1 = 64  # increments that a streamed edge holds before its producer waits
    cache: bool | str | CachePlan = (
        False  # keeps what the stage gives: true, how much of it ("256MB"), or how
    )
    cache_view: bool | str = False  # keeps what it decodes
    locked: bool = False
    why: str = ""
    roles: dict[str, ModelChoice] = {}
    settings: dict[str, Any] = {}


class RouteOption(msgspec.Struct, frozen=True, omit_defaults=True):
    """One way to run a stage: what of its plan is different there. A price that nobody names is looked up."""

    name: str
    stage: StagePlan
    cents_per_token: float | None = None


class RoutePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Several ways to run one stage, in their order, and the policy that chooses; `settings` are the policy's."""

    options: tuple[RouteOption, ...]
    policy: str = "order"
    settings: dict[str, Any] = {}


class Rejected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change that was looked at and not taken."""

    change: str
    why: str


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A physical plan of one workflow. `graph` is the hash of the workflow it was made for."""

    name: str = "naive"
    workflow: str = ""
    graph: str = ""
    made_on: str = ""
    slo: Slo = Slo()
    result: dict[str, Any] = {}
    stages: dict[str, StagePlan] = {}
    rejected: tuple[Rejected, ...] = ()

    @property
    def content(self) -> bytes:
        """What runs, without reasons and results: equal for plans that do the same."""
        told = {"why", "locked"}
        content = {
            name: said
            for name, stage in sorted(self.stages.items())
            if (said := {key: value for key, value in msgspec.to_builtins(stage).items() if key not in told})
        }
        return msgspec.json.encode([self.graph, content], order="deterministic")

    @property
    def id(self) -> str:
        """``name@3f9a``: the name and a hash over what runs (not over reasons or results)."""
        return f"{self.name}@{hashlib.sha256(self.content).hexdigest()[:4]}"

    def stage(self, name: str) -> StagePlan:
        """The settings of a stage; the defaults where the plan says nothing."""
        return self.stages.get(name, _DEFAULT)

    def edit(self, stage: str, **changes: Any) -> Plan:
        """The plan with some settings of one stage changed."""
        changed = msgspec.structs.replace(self.stage(stage), **changes)
        return msgspec.structs.replace(self, stages={**self.stages, stage: changed})


_DEFAULT = StagePlan()
_STRUCTURE = frozenset(StagePlan.__struct_fields__) - {"roles", "settings", "route"}
_NOT_IN_A_ROUTE = (
    "route",
    "beside",
    "locked",
    "why",
    "channel",
)  # of the stage itself, whichever way it runs
_CHOICE = frozenset(ModelChoice.__struct_fields__) - {"options"}
_TOP = ("tauten", "name", "workflow", "graph", "made_on", "slo", "result", "stage", "rejected")


# -- reading -----------------------------------------------------------------------------------------


def load_plan(path: Path) -> Plan:
    """Read a plan file; raises PlanError with file, line and the closest known key."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no plan {str(path)!r}", help="check the path", code="E203") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {str(path)!r}: {error}", help="give a TOML file", code="E203"
        ) from error
    return parse_plan(text, where=path.name, name=path.name.removesuffix(".toml").removesuffix(".plan"))


def parse_plan(text: str, *, where: str = "plan", name: str = "plan") -> Plan:
    """Read a plan from TOML text."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"not TOML: {error}", help="mend the line named", where=where, code="E123") from error
    reader = _Reader(text, where)
    reader.check_keys(raw, _TOP)
    if raw.get("tauten") != FORMAT:
        raise PlanError(
            f"tauten = {raw.get('tauten')!r}; this version reads {FORMAT!r}",
            help=f'the first line of a plan is: tauten = "{FORMAT}"',
            where=where,
            code="E124",
        )
    stages = {key: reader.stage(key, table) for key, table in reader.tables(raw.get("stage", {})).items()}
    return Plan(
        name=reader.convert(raw.get("name", name), str, "name"),
        workflow=reader.convert(raw.get("workflow", ""), str, "workflow"),
        graph=reader.convert(raw.get("graph", ""), str, "graph"),
        made_on=reader.convert(raw.get("made_on", ""), str, "made_on"),
        slo=reader.convert(raw.get("slo", {}), Slo, "slo"),
        result=reader.convert(raw.get("result", {}), dict, "result"),
        stages=stages,
        rejected=reader.convert(raw.get("rejected", []), tuple[Rejected, ...], "rejected"),
    )


class _Reader:
    """Turns TOML tables into plan parts, with places in every complaint."""

    def __init__(self, text: str, where: str) -> None:
        self.lines = text.splitlines()
        self.where = where

    def place(self, key: str) -> str:
        bare = key.rsplit(".", 1)[-1]
        for number, line in enumerate(self.lines, 1):
            start = line.strip()
            if start.startswith((f"{bare} ", f"{bare}=", f'"{bare}"')) or start.strip('[]"') == key:
                return f"{self.where}:{number}"
        return self.where

    def check_keys(self, table: dict[str, Any], known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                raise PlanError(
                    f"unknown key `{key}`", help=suggest(key, known), where=self.place(key), code="E109"
                )

    def convert(self, value: Any, wanted: Any, key: str) -> Any:
        try:
            return msgspec.convert(value, wanted)
        except msgspec.ValidationError as error:
            raise PlanError(
                f"`{key}`: {error}", help="see `tauten plan show --full`", where=self.place(key), code="E109"
            ) from error

    def tables(self, value: Any) -> dict[str, dict[str, Any]]:
        return self.convert(value, dict[str, dict[str, Any]], "stage")  # type: ignore[no-any-return]

    def stage(self, name: str, table: dict[str, Any]) -> StagePlan:
        route = self.route(name, table["route"]) if "route" in table else None
        table = {key: value for key, value in table.items() if key != "route"}
        known = {key: value for key, value in table.items() if key in _STRUCTURE}
        rest = {key: value for key, value in table.items() if key not in _STRUCTURE}
        roles = {key: self.choice(name, key, value) for key, value in rest.items() if isinstance(value, dict)}
        settings = {key: value for key, value in rest.items() if not isinstance(value, dict)}
        self._no_paths(name, {**known, **settings})
        stage = self.convert(known | {"roles": roles, "settings": settings}, StagePlan, f"stage.{name}")
        return msgspec.structs.replace(stage, route=route)  # type: ignore[no-any-return]

    def route(self, stage: str, table: Any) -> RoutePlan:
        """The table `route` of a stage: its policy, the policy's settings, and a list of options."""
        told = self.convert(table, dict[str, Any], f"stage.{stage}.route")
        listed = self.convert(told.get("options", []), list[dict[str, Any]], f"stage.{stage}.route.options")
        settings = {key: value for key, value in told.items() if key not in ("policy", "options")}
        self._no_paths(f"{stage}.route", settings)
        policy = self.convert(told.get("policy", "order"), str, f"stage.{stage}.route.policy")
        return RoutePlan(tuple(self.option(stage, each) for each in listed), policy, settings)

    def option(self, stage: str, table: dict[str, Any]) -> RouteOption:
        """One of them: a name, perhaps a price, and the keys that a stage's own table may have."""
        where = f"stage.{stage}.route.options"
        for key in table:
            if key in _NOT_IN_A_ROUTE:
                help = "write it in the stage's own table"
                place = self.place(key)
                raise PlanError(f"`{key}` in {where}", help=help, where=place, code="E109")
        rest = {key: value for key, value in table.items() if key not in ("name", "cents_per_token")}
        price = self.convert(table.get("cents_per_token"), float | None, f"{where}.cents_per_token")
        return RouteOption(
            self.convert(table.get("name", ""), str, f"{where}.name"),
            self.stage(f"{stage}.route", rest),
            price,
        )

    def choice(self, stage: str, role: str, table: dict[str, Any]) -> ModelChoice:
        known = {key: value for key, value in table.items() if key in _CHOICE}
        options = {key: value for key, value in table.items() if key not in _CHOICE}
        self._no_paths(f"{stage}.{role}", table)
        return self.convert(known | {"options": options}, ModelChoice, f"stage.{stage}.{role}")  # type: ignore[no-any-return]

    def _no_paths(self, stage: str, table: dict[str, Any]) -> None:
        for key, value in table.items():
            if key != "why" and _holds_path(value):
                raise PlanError(
                    f"stage.{stage}.{key} = {value!r}: a plan holds no absolute paths or hosts",
                    help="name a model of the catalogue; hosts belong in tauten.toml",
                    where=self.place(key),
                    code="E125",
                )


def _holds_path(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_path(member) for member in value)
    if isinstance(value, dict):
        return any(_holds_path(member) for member in value.values())
    return isinstance(value, str) and _PATH.match(value) is not None


_PATH = re.compile(r"[/~]|\\\\|[A-Za-z]:[\\/]|.*://", re.DOTALL)


# -- writing -----------------------------------------------------------------------------------------


def format_plan(plan: Plan) -> str:
    """The plan as TOML: only what differs from the default; reading it gives the same plan."""
    import tomlkit

    document = tomlkit.document()
    document["tauten"] = FORMAT
    document["name"] = plan.name
    for key in ("workflow", "graph", "made_on"):
        if getattr(plan, key):
            document[key] = getattr(plan, key)
    for key in ("slo", "result"):
        table = msgspec.to_builtins(getattr(plan, key))
        if table:
            document[key] = table_of(table)
    if plan.stages:
        stages = tomlkit.table(is_super_table=True)
        for name, stage in plan.stages.items():
            stages[name] = table_of(stage_keys(stage))
        document["stage"] = stages
    if plan.rejected:
        listed = tomlkit.aot()
        for each in plan.rejected:
            listed.append(table_of(msgspec.to_builtins(each)))
        document["rejected"] = listed
    return tomlkit.dumps(document)


def stage_keys(stage: StagePlan) -> dict[str, Any]:
    """The keys of one stage as a plan file spells them: flat, roles as tables, the reason last."""
    keys = msgspec.to_builtins(msgspec.structs.replace(stage, route=None))
    settings, roles = keys.pop("settings", {}), keys.pop("roles", {})
    why = keys.pop("why", "")
    flat = {**keys, **settings}
    if stage.route is not None:
        flat["route"] = _route_keys(stage.route)
    for role, choice in roles.items():
        options = choice.pop("options", {})
        flat[role] = {**choice, **options}
    return {**flat, "why": why} if why else flat


def _route_keys(route: RoutePlan) -> dict[str, Any]:
    """The table `route` as a plan file spells it."""
    options = []
    for each in route.options:
        price = {} if each.cents_per_token is None else {"cents_per_token": each.cents_per_token}
        options.append({"name": each.name, **price, **stage_keys(each.stage)})
    return {"policy": route.policy, **route.settings, "options": options}


def staged(name: str, keys: dict[str, Any]) -> StagePlan:
    """One stage from the keys that a plan file spells: what `stage_keys` gives. Raises PlanError."""
    return _Reader("", name).stage(name, keys)


# -- fitting a plan to a workflow ----------------------------------------------------------------------


def check_fit(plan: Plan, graph: Graph, where: str = "") -> None:
    """Refuse a plan that was made for another graph or names stages that are not there."""
    missing = [name for name in plan.stages if name not in graph.stages]
    if missing:
        raise PlanError(
            f"the plan has a stage '{missing[0]}', which the workflow has not",
            help=f"{suggest(missing[0], graph.stages)}  `tauten plan rebase` keeps what still fits",
            where=where or plan.name,
            code="E110",
        )
    if plan.graph and plan.graph != graph.hash:
        raise PlanError(
            f"the plan was made for graph {plan.graph}, this workflow is {graph.hash}",
            help="run `tauten plan rebase`, which keeps what still fits",
            where=where or plan.name,
            code="E110",
        )
    for name, stage in plan.stages.items():
        for other in stage.beside:
            if other not in graph.stages:
                raise PlanError(
                    f"stage '{name}' runs beside '{other}', which the workflow has not",
                    help=suggest(other, graph.stages),
                    where=where or plan.name,
                    code="E110",
                )


def rebase(plan: Plan, graph: Graph) -> tuple[Plan, list[str]]:
    """Keep what still fits a changed workflow; returns the plan and what was dropped."""
    dropped = [f"stage '{name}' is gone" for name in plan.stages if name not in graph.stages]
    stages = {}
    for name, stage in plan.stages.items():
        if name in graph.stages:
            kept = tuple(other for other in stage.beside if other in graph.stages)
            dropped += [f"'{name}' beside '{other}'" for other in stage.beside if other not in kept]
            stages[name] = msgspec.structs.replace(stage, beside=kept)
    return msgspec.structs.replace(plan, stages=stages, graph=graph.hash, result={}), dropped


def diff_plans(old: Plan, new: Plan) -> list[tuple[str, str, Any, Any]]:
    """(stage, key, old value, new value) for each setting that differs; reasons are left out."""
    rows = []
    for name in dict.fromkeys([*old.stages, *new.stages]):
        before, after = stage_keys(old.stage(name)), stage_keys(new.stage(name))
        for key in dict.fromkeys([*before, *after]):
            if key != "why" and before.get(key) != after.get(key):
                rows.append((name, key, before.get(key), after.get(key)))
    return rows
