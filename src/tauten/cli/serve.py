"""`tauten serve`: workflows and models behind standard APIs, from warm-up to drained end."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from tauten.cli.target import load_workflow
from tauten.describe.payload import Audio, Image, Json, Pdf, Text, Video
from tauten.describe.slo import Slo, parse_slo
from tauten.errors import InputError, suggest
from tauten.plan.plan import load_plan

if TYPE_CHECKING:
    from tauten.describe.ports import PortType
    from tauten.serve.server import Server, Settings
    from tauten.serve.service import Service

app = typer.Typer(add_completion=False)

_MIB = 1024 * 1024
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#]+")
_SWITCH_S = 0.001  # beside two threads of Python answers left 7 ms late, and 20 with its own 0.005
_STOPPED = 128  # the shell's convention: 128 and the number of the signal


Targets = Annotated[
    list[str], typer.Argument(metavar="[NAME=]FILE.py:WORKFLOW|MODEL|FILE.onnx...", show_default=False)
]
Host = Annotated[str, typer.Option(help="Address to listen on; others than loopback need --keys.")]
GrpcPort = Annotated[str, typer.Option(help="Open Inference Protocol by gRPC; off: none.")]
NoKeys = Annotated[
    bool, typer.Option("--listen-without-keys", help="Any address, no keys: a proxy guards this server.")
]
Samples = Annotated[Path | None, typer.Option(help="A recording or folder of inputs to warm up on.")]
Drain = Annotated[float, typer.Option(help="How long requests may take to finish at the end.")]
Lead = Annotated[float, typer.Option(help="From not ready to not accepting, after SIGTERM.")]
LogSample = Annotated[float, typer.Option(help="Share of good answers that are logged.")]
Timing = Annotated[bool, typer.Option("--server-timing", help="Without keys: answers tell where time went.")]
Usage = Annotated[str, typer.Option(help="The book of usage: a file, postgresql://..., or off; the store's.")]
Prices = Annotated[list[Path] | None, typer.Option(help="A file of prices of your own; the first one wins.")]
Budgets = Annotated[Path | None, typer.Option(help="A file of budgets, by tenant, key, tag or workflow.")]
Content = Annotated[bool, typer.Option("--log-content", help="Log what errors say; it may quote inputs.")]


@app.command()
def serve(
    targets: Targets,
    plan: Annotated[list[str] | None, typer.Option(help="A plan file; NAME=FILE with several.")] = None,
    slo: Annotated[str, typer.Option(help="As p95<800ms,first<400ms; else each workflow's own.")] = "",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    grpc_port: GrpcPort = "8001",
    keys: Annotated[Path | None, typer.Option(help="API keys, made by `tauten key new`.")] = None,
    without_keys: NoKeys = False,
    cors: Annotated[list[str] | None, typer.Option(help="An origin whose pages may ask.")] = None,
    max_body_mb: Annotated[float, typer.Option(help="The largest body.")] = 32,
    max_in_flight: Annotated[int, typer.Option(help="Requests at a time; more get 429.")] = 4096,
    media_fetch: Annotated[str, typer.Option(help="on: http(s) addresses in requests are fetched.")] = "off",
    samples: Samples = None,
    drain_s: Drain = 30.0,
    drain_lead_s: Lead = 2.0,
    server: Annotated[str, typer.Option(help="thin | uvicorn | granian")] = "thin",
    log: Annotated[str, typer.Option(help="json | text")] = "text",
    access_log_sample: LogSample = 0.1,
    log_content: Content = False,
    server_timing: Timing = False,
    otlp: Annotated[str, typer.Option(help="OTLP/HTTP collector, as http://localhost:4318.")] = "",
    usage: Usage = "",
    prices: Prices = None,
    budgets: Budgets = None,
    as_json: Annotated[bool, typer.Option("--json", help="Say where it listens as one JSON object.")] = False,
) -> int:
    """Serve workflows and models until SIGTERM or Ctrl-C; then let requests finish."""
    from tauten.serve.server import Settings, check_bind

    settings = Settings(
        host=host,
        port=_port("--port", port),
        grpc_port=_grpc_port(grpc_port),
        keys=keys,
        without_keys=without_keys,
        origins=_origins(cors or ()),
        body_bytes=int(_positive("--max-body-mb", max_body_mb) * _MIB),
        in_flight=int(_positive("--max-in-flight", max_in_flight)),
        media_fetch=_one_of("--media-fetch", media_fetch, ("on", "off")) == "on",
        drain_s=_at_least("--drain-s", drain_s),
        lead_s=_at_least("--drain-lead-s", drain_lead_s),
        server=_one_of("--server", server, ("thin", "uvicorn", "granian")),  # type: ignore[arg-type]
        log=_one_of("--log", log, ("json", "text")),  # type: ignore[arg-type]
        log_sample=_share("--access-log-sample", access_log_sample),
        log_content=log_content,
        timing=server_timing,
        otlp=otlp,
        usage=_place(usage),
        prices=tuple(prices or ()),
        budgets=budgets,
    )
    check_bind(settings)  # before models load
    _warn(settings)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong is said by our errors, not twice
    services, files = build(targets, plan or [], parse_slo(slo) if slo else None, samples)

    return _run(services, settings, files, as_json)


def _run(services: Sequence[Service], settings: Settings, files: dict[str, Path], as_json: bool) -> int:
    """Serve until the end; gives the exit code."""
    from tauten.serve.server import Server

    async def main() -> int:
        whole = Server(services, settings, files)
        await whole.run(lambda: _announce(whole, as_json))
        if whole.forced.is_set():
            return _STOPPED + whole.signal
        return 1 if whole.cut else 0

    sys.setswitchinterval(_SWITCH_S)  # how soon a thread that computes lets the event loop in
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main())


def _loop_factory() -> Any:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


# -- what is served ------------------------------------------------------------------------------------------


def build(
    targets: Sequence[str], plans: Sequence[str], slo: Slo | None, samples: Path | None
) -> tuple[list[Service], dict[str, Path]]:
    """The services of a command line, and their plan files by name."""
    from tauten.serve.samples import nothing_in

    named = _plans(plans)
    if len(named) > 1 and "" in named:
        raise InputError("--plan without a name among several", help="write NAME=FILE.toml", code="E260")
    if samples is not None and not samples.is_dir():
        raise nothing_in(samples)  # a folder of several services may hold none for one of them
    alone = len(targets) == 1
    services = [service for target in targets for service in _services(target, named, slo, samples, alone)]
    names = [service.name for service in services]
    files: dict[str, Path] = {}
    for name, file in named.items():
        owner = name or (names[0] if len(names) == 1 else "")
        if owner not in names:
            raise InputError(
                f"--plan {name + '=' if name else ''}{file}: which workflow is it for?",
                help=f"write NAME={file}; {suggest(name, names)}",
                code="E260",
            )
        files[owner] = file
    return services, files


def _plans(given: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for each in given:
        name, equals, file = each.partition("=")
        name, file = (name, file) if equals else ("", each)
        if name in found:
            raise InputError(
                f"--plan {each}: another one is given{f' for {name}' if name else ''}",
                help="a workflow is served by one plan; with several workflows write NAME=FILE.toml for each",
                code="E260",
            )
        found[name] = Path(file)
    return found


def _services(
    target: str, plans: dict[str, Path], slo: Slo | None, samples: Path | None, alone: bool
) -> list[Service]:
    """What one target serves: an ONNX file, a model of the catalog (``model:variant`` raw), a workflow."""
    name, equals, rest = target.partition("=")
    name, place = (name, rest) if equals else ("", target)
    first, colon, _ = place.partition(":")
    if first.endswith(".py") or (colon and not _is_model(first) and not first.endswith(".onnx")):
        return [_of_workflow(place, name, plans, slo, samples, alone)]
    raw = bool(colon) or first.endswith(".onnx")
    if not raw and Path(place).is_file() and not _is_model(place):
        raise InputError(
            f"{place!r} cannot be served", help="give FILE.py:workflow or FILE.onnx", code="E260"
        )
    name = name or _called(place)
    file = plans.get(name, plans.get("") if alone else None)
    plan = load_plan(file) if file else None
    if samples is not None and (alone or (samples / name).is_dir()):
        said = f"{name} warms up on a sample of its own: --samples is for workflows"
        print(said, file=sys.stderr, flush=True)
    if raw:
        from tauten.serve.tensor_model import tensor_model

        service = tensor_model(Path(place) if first.endswith(".onnx") else place, name=name, plan=plan)
        service.promise(slo or service.slo)
        return [service]
    from tauten.serve.ready_made import ready_made

    return ready_made(place, name=name, plan=plan, slo=slo)


def _called(place: str) -> str:
    """What a model is called where nobody names it: as its file, as a variant's model, or by the whole of its name."""
    model, colon, _ = place.partition(":")
    if model.endswith(".onnx"):
        return Path(place).stem
    if colon:
        return model
    from tauten.serve.ready_made import known_as

    return known_as(place)


def _is_model(name: str) -> bool:
    from tauten.models.catalog import default_catalog

    return name in default_catalog().models


def _of_workflow(
    place: str, name: str, plans: dict[str, Path], slo: Slo | None, samples: Path | None, alone: bool
) -> Service:
    from tauten.serve.samples import given, made_up
    from tauten.serve.service import Service

    workflow = load_workflow(place)
    name = name or workflow.name
    file = plans.get(name, plans.get("")) if alone else plans.get(name)
    plan = load_plan(file) if file else None
    found = given(samples, workflow, name, alone=alone) if samples is not None else []
    if found:
        return Service(workflow, plan, name=name, slo=slo, samples=found)
    guesses, why = made_up(workflow, plan)
    said = "made-up samples" if guesses else f"nothing, for {why}"
    print(f"{name} warms up on {said}; --samples gives real ones", file=sys.stderr, flush=True)
    return Service(workflow, plan, name=name, slo=slo, made_up=guesses)


# -- flags ---------------------------------------------------------------------------------------------------


def _grpc_port(text: str) -> int | None:
    if text == "off":
        return None
    if not text.isdecimal():
        raise InputError(f"--grpc-port {text!r}", help="give a port, or off", code="E260")
    return _port("--grpc-port", int(text))


def _place(given: str) -> str:
    """Where the book is; empty where none is wanted."""
    from tauten.run.usage.book import default_place

    return "" if given == "off" else given or default_place()


def _port(flag: str, value: int) -> int:
    if not 0 <= value < 65536:
        raise InputError(f"{flag} {value}", help="give a port, 1 to 65535; 0: any free one", code="E260")
    return value


def _origins(given: Sequence[str]) -> tuple[str, ...]:
    """What a browser sends as `Origin`: a scheme and a host, never a path."""
    for origin in given:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise InputError(f"--cors {origin!r}", help="give it as https://desk.example:8443", code="E260")
    return tuple(given)


def _one_of(flag: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InputError(f"{flag} {value!r}", help=suggest(value, known), code="E260")
    return value


def _at_least(flag: str, value: float) -> float:
    if not value >= 0:
        raise InputError(f"{flag} {value:g}", help="give 0 or more", code="E260")
    return value


def _share(flag: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"{flag} {value:g}", help="give a share, from 0 to 1", code="E260")
    return value


def _positive(flag: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise InputError(f"{flag} {value:g}", help="give a finite number, more than 0", code="E260")
    return value


# -- what is said --------------------------------------------------------------------------------------------


def _announce(server: Server, as_json: bool) -> None:
    """Where it listens and how to try it: the command's result, on standard output."""
    settings = server.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    ports = {name: each.port for name, each in server.listening.items()}
    url = f"http://{host}:{ports['http']}"
    if as_json:
        workflows = [
            {"name": each.name, "plan": each.plan_id, "slo": msgspec.to_builtins(each.slo)}
            for each in server.services
        ]
        record = {"schema": "tauten.serve/1", "url": url, "ports": ports, "workflows": workflows}
        print(msgspec.json.encode(record).decode(), flush=True)
        return
    grpc = f"   gRPC {host}:{ports['grpc']}" if "grpc" in ports else ""
    print(f"serving {url}{grpc}   {_who(settings)}")
    width = max(20, *(len(each.name) for each in server.services))
    for service in server.services:
        limits = ", ".join(f"{name} {value:g}" for name, value in service.slo.limits().items())
        print(f"  {service.name:<{width}} plan {service.plan_id}   {limits or 'no SLO'}")
    print(f"try   {_curl(url, server.services[0], bool(settings.keys))}")
    print(f"see   {url}/docs   {url}/metrics   {url}/health/ready", flush=True)


def _who(settings: Settings) -> str:
    """Who may ask."""
    if settings.keys is not None:
        return "API keys"
    return "no keys: open to all who reach it" if _is_open(settings) else "no keys: this machine only"


def _warn(settings: Settings) -> None:
    """Say where logs are read that strangers may ask."""
    if _is_open(settings):
        place = settings.host or "every address"
        said = f"warning: no keys on {place}: who reaches it uses the models, unless a proxy in front checks"
        print(said, file=sys.stderr, flush=True)


def _is_open(settings: Settings) -> bool:
    """Whether strangers may ask: no keys, and an address that others reach."""
    from tauten.serve.safety.guard import is_loopback

    return settings.keys is None and not is_loopback(settings.host)


def _curl(url: str, service: Service, keyed: bool) -> str:
    """A line to try a service with; of a model that takes raw tensors, which tensors those are."""
    key = " -H 'authorization: Bearer KEY'" if keyed else ""
    if hasattr(service, "signature"):
        return f"curl {url}/v2/models/{service.name}{key}"
    inputs = {name: _like(name, port) for name, port in service.workflow.inputs.items() if not port.optional}
    place = f"curl {url}/v1/workflows/{service.name}{key}"
    if _FILE in inputs.values():
        return " ".join([place, *(f"-F {name}={value}" for name, value in inputs.items())])
    body = msgspec.json.encode({"inputs": inputs}).decode()
    return f"{place} -H 'content-type: application/json' -d '{body}'"


def _like(name: str, port: PortType) -> Any:
    """A value in the form that an input takes."""
    if name == "messages" and port.many:
        return [{"role": "user", "content": "..."}]
    found = next((_LIKE[kind] for kind in _LIKE if kind in port.kinds), "...")
    return [found] if port.many and found != _FILE else found


_FILE = "@FILE"
_LIKE: dict[Any, Any] = {
    Pdf: _FILE,  # before text: who takes both is best tried with a document
    **dict.fromkeys((Text, str), "..."),
    **dict.fromkeys((Image, Audio, Video), _FILE),
    Json: {},
    dict: {},
    int: 1,
    float: 1,
    bool: False,
}
