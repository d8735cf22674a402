"""`tauten cache`: what is kept on this machine's disk or by a running server, emptying it, and filling it beforehand."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.cache_prove import prove
from tauten.errors import InputError, MachineError, TautenError

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What caches keep, here or in a server.")
app.command()(prove)

PATIENCE_S = 30.0  # for a server to forget: a walk through a large file on disk takes seconds
Url = Annotated[
    str, typer.Option(help="A running server, as http://127.0.0.1:8080.", show_default="this machine")
]
KEY = "TAUTEN_API_KEY"  # an operator's: secrets come from the environment, never from a line that `ps` shows
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def stats(url: Url = "", as_json: AsJson = False) -> int:
    """What is kept: on this machine's disk, or in every tier of a running server."""
    if url:
        told = _asked(url, "/v1/admin/caches")
        shown: dict[str, Any] = {"caches": told["caches"], "gates": told.get("gates", [])}
    else:
        shown = {"disk": _on_disk(), "gates": _kept_gates()}
    if as_json:
        _print({"schema": "tauten.cache/1", **shown})
        return 0
    _show_server(shown["caches"]) if url else _show_disk(shown["disk"])
    _show_gates(shown["gates"])
    return 0


@app.command()
def clear(
    label: Annotated[str, typer.Option(help="Only step:NAME, model:NAME, tenant:NAME or tag:NAME.")] = "",
    tier: Annotated[str, typer.Option(help="Only this tier of a server.", show_default="all")] = "",
    workflow: Annotated[str, typer.Option(help="Only of this workflow of a server.")] = "",
    url: Url = "",
    as_json: AsJson = False,
) -> int:
    """Forget what is kept: on this machine's disk, or by a running server, which forgets it in all its tiers."""
    from tauten.serve.caching import check_label

    check_label(label)
    if url:
        asked = {"label": label, "tier": tier, "workflow": workflow}
        forgotten = _asked(url, "/v1/admin/caches/clear", asked)["forgotten"]
    elif tier or workflow:
        raise InputError(
            "--tier and --workflow are of a running server", help="give --url, or leave them out", code="E260"
        )
    else:
        forgotten = _forget(label)
    if as_json:
        _print({"schema": "tauten.cache.clear/1", "forgotten": forgotten})
    else:
        print(f"{forgotten} forgotten" if label or not url else "forgotten", file=sys.stderr)
    return 0


@app.command()
def warm(
    target: Annotated[str, typer.Argument(metavar="FILE.py:WORKFLOW", show_default=False)],
    plan: Annotated[Path, typer.Option(help="The plan; its caches have a tier beyond memory.")],
    recording: Annotated[
        str,
        typer.Option(help="A folder, or a split of the workflow's own recording.", show_default="its own"),
    ] = "",
    tenant: Annotated[
        str, typer.Option(help="For whom: a key's tenant, where the server has --keys.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> int:
    """Run a recording once, so that what it asks is there when the same tenant asks it again."""
    from tauten.cli.target import load_workflow
    from tauten.improve.labelled import WHOLE, open_recording
    from tauten.plan.plan import load_plan
    from tauten.run.ambient import run_async

    workflow, read = load_workflow(target), load_plan(plan)
    _check_tiers(read, plan)
    kept = open_recording(workflow, recording, usual=WHOLE)  # nothing is chosen by what is kept
    ran, failed, hits = run_async(_warm(workflow, read, kept, tenant))
    if as_json:
        _print({"schema": "tauten.cache.warm/1", "requests": ran, "failed": failed, "hits": hits})
    else:
        print(f"{ran} requests, {failed} failed, {hits} were there already", file=sys.stderr)
    return 0 if failed < ran or not ran else 5


def _check_tiers(plan: Any, path: Path) -> None:
    from tauten.plan.caching import cache_rules

    tiers = {tier for stage in plan.stages.values() if stage.cache for tier in cache_rules(stage.cache).tiers}
    if not tiers - {"memory"}:
        raise InputError(
            f"{path.name} keeps nothing beyond this process",
            help='write cache = {tiers = ["memory", "disk"]} for a stage',
            code="E260",
        )


async def _warm(workflow: Any, plan: Any, kept: Any, tenant: str) -> tuple[int, int, int]:
    """(requests, those that failed, steps of them that a tier had)."""
    from tauten.run.engine import Engine

    ran = failed = 0
    async with Engine() as engine:
        await engine.open(workflow, plan)
        caches = engine.deployments.caches
        for item in kept:
            ran += 1
            try:
                await engine.run(item.inputs, tenant=tenant)
            except TautenError as error:
                failed += 1
                print(f"{item.id}: {error.message}", file=sys.stderr)
            item.forget()
            await caches.settled()  # one at a time: nothing of it is left out
        hits = sum(seen.hits for seen in caches.seen().values())
    return ran, failed, hits


# -- this machine -----------------------------------------------------------------------------------------


def _on_disk() -> dict[str, Any]:
    from tauten.run.caching.encoding import Damaged, header
    from tauten.run.caching.semantic.remembered import MARK

    where, file = _file()
    if file is None:
        return {"folder": str(where), "entries": 0, "size_bytes": 0, "labels": {}, "damaged": 0}
    labels: Counter[str] = Counter()
    damaged = 0
    try:
        for _, content in file.walk():
            try:
                labels.update(label for label in header(content).labels if not label.startswith(MARK))
            except Damaged:
                damaged += 1
        held = file.content()
    finally:
        file.close()
    return {
        "folder": str(where),
        "entries": held.records,
        "size_bytes": held.size_bytes,
        "labels": dict(labels.most_common()),
        "damaged": damaged,
    }


def _forget(label: str) -> int:
    from tauten.run.caches.disk import labels_of

    _, file = _file()
    if file is None:
        return 0
    try:
        if label:
            return int(file.remove_where(lambda content: label in labels_of(content)))
        there = int(file.content().records)
        file.clear()
        return there
    finally:
        file.close()


def _file() -> tuple[Path, Any]:
    """(the folder, its file); no file where nothing was ever kept."""
    try:
        import lmdb

        from tauten.plan.caching import DISK_BYTES
        from tauten.run.caches.disk import folder
        from tauten.run.caching.kept_file import KeptFile
    except ImportError as error:
        raise MachineError(
            f"the tier on disk needs {error.name}, which is not installed",
            help="pip install 'tauten[serve]'",
            code="E315",
        ) from error
    where = folder()
    if not (where / "data.mdb").exists():
        return where, None
    try:
        return where, KeptFile(where, DISK_BYTES)
    except (lmdb.Error, OSError) as error:
        raise MachineError(
            f"cannot read {str(where)!r}: {error}",
            help="remove the folder: it holds copies only",
            code="E302",
        ) from error


def _show_disk(found: dict[str, Any]) -> None:
    print(f"{found['folder']}: {found['entries']} results, {found['size_bytes'] / 1e6:.1f} MB")
    for label, count in found["labels"].items():
        print(f"  {count:>8}  {label}")
    if found["damaged"]:
        print(f"  {found['damaged']:>8}  damaged: each is a miss, and goes when it is looked for")


def _kept_gates() -> list[dict[str, Any]]:
    """The gates of this machine's store."""
    from tauten.run.gating.gates import gate_names, open_gate
    from tauten.serve.caching import gates_shown

    return msgspec.to_builtins(gates_shown({name: open_gate(name) for name in gate_names()}))  # type: ignore[no-any-return]


def _show_gates(gates: list[dict[str, Any]]) -> None:
    for gate in gates:
        for scope in gate["scopes"]:
            seen = f"{scope['taken']} taken, " if scope["taken"] else ""
            seen += f"{scope['verified']} verified, {scope['verified_wrong']} of them wrong"
            print(f"gate {gate['gate']}  {scope['scope']}: {scope['why']}; {seen}")
        if not gate["scopes"]:
            print(
                f"gate {gate['gate']}: closed: {gate['learned']} labelled items of {gate['needed']} or more"
            )


# -- a server ---------------------------------------------------------------------------------------------


def _asked(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What a server answers; raises its error, or InputError E242 where there is none."""
    token = os.environ.get(KEY, "")
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    data = None if body is None else json.dumps(body).encode()
    if not url.startswith(("http://", "https://")):
        raise InputError(f"--url {url}", help="write http://HOST:PORT", code="E260")
    try:
        asked = urllib.request.Request(url.rstrip("/") + path, data, headers)
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read(4096).decode("utf-8", "replace")
        raise InputError(
            f"{url} answered {error.code}: {text}",
            help=f"an operator's key (tauten key new NAME --admin) in ${KEY}",
            code="E242",
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        # the last one: an address that is none, or somebody who speaks another protocol
        said = str(error) or error.__class__.__name__
        raise InputError(
            f"{url} does not answer: {said}",
            help="is it running there, and is that its HTTP port?",
            code="E242",
        ) from error
    if not (isinstance(told, dict) and told.keys() & {"caches", "forgotten"}):
        raise InputError(
            f"{url} is no server of Tauten", help="give the address that it announced", code="E242"
        )
    return told


def _show_server(caches: list[dict[str, Any]]) -> None:
    for cache in caches:
        asked = cache["hits"] + cache["misses"]
        share = cache["hits"] / asked if asked else 0.0
        print(
            f"{cache['workflow']}  {cache['stage']}  {cache['holds']}: {cache['hits']} of {asked} hit ({share:.0%}), "
            f"{cache['saved_s']:.1f} s saved"
        )
        for name, tier in cache["tiers"].items():
            held = tier["holdings"]
            events = ", ".join(f"{count} {event}" for event, count in tier["events"].items() if count)
            print(
                f"  {name:<10} {tier['hits']:>8} hits  {held['entries']:>8} results  {held['size_bytes'] / 1e6:.1f} MB"
                + (f"  {events}" if events else "")
            )
    if not caches:
        print("no plan that is served has a cache", file=sys.stderr)


def _print(record: dict[str, Any]) -> None:
    print(msgspec.json.format(msgspec.json.encode(record)).decode())
