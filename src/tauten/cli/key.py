"""`tauten key`: API keys of a server, in a file that holds only their hashes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.errors import InputError
from tauten.run.request import HIGHEST, LOWEST

app = typer.Typer(add_completion=False, no_args_is_help=True, help="API keys of `tauten serve --keys FILE`.")

File = Annotated[Path, typer.Option("--file", help="The key file; only its owner may read it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What logs and metrics call it.")],
    file: File = Path("keys.toml"),
    tenant: Annotated[str, typer.Option(help="Whose it is; the name when left out.")] = "",
    priority: Annotated[int, typer.Option(help="The highest priority that it may ask for.")] = 0,
    rate: Annotated[float | None, typer.Option(help="Requests a second; no bound when left out.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once; a second's worth.")] = None,
    concurrent: Annotated[int, typer.Option(help="Requests at a time; 0: no bound.")] = 0,
    timing: Annotated[bool, typer.Option("--timing", help="May see Server-Timing.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="May swap plans and read errors whole.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make a key and print it, once."""
    from tauten.serve.safety.keys import is_name, new_key

    _check("--rate", rate, rate is None or rate > 0, "more than 0 requests a second")
    _check("--burst", burst, burst is None or burst >= 1, "1 request or more")
    _check("--concurrent", concurrent, concurrent >= 0, "0 or more; 0: no bound")
    _check("--tenant", repr(tenant), not tenant or is_name(tenant), "1 to 64 letters, digits, - and _")
    _check("--priority", priority, LOWEST <= priority <= HIGHEST, f"{LOWEST} to {HIGHEST}")
    today = datetime.now(UTC).date().isoformat()
    scopes: dict[str, Any] = {"rate_per_s": rate, "burst": burst, "concurrent": concurrent}
    token = new_key(
        file, name, created=today, tenant=tenant, priority=priority, timing=timing, admin=admin, **scopes
    )
    if as_json:
        _print({"schema": "tauten.key/1", "name": name, "key": token})
        return 0
    print(token)
    print(f"{file} keeps its hash; the key itself is not kept anywhere. Store it now.", file=sys.stderr)
    return 0


@app.command("list")
def list_keys(file: File = Path("keys.toml"), as_json: AsJson = False) -> int:
    """Names and scopes; never a key."""
    from tauten.serve.safety.keys import read_keys

    keys = read_keys(file)
    if as_json:
        shown = [{"name": name, **_scopes(key)} for name, key in keys.items()]
        _print({"schema": "tauten.keys/1", "keys": shown})
        return 0
    for name, key in keys.items():
        rest = "  ".join(f"{field} {value}" for field, value in _scopes(key).items() if field != "id")
        print(f"{name:<16} tt_{key.id}_...  {rest}")
    if not keys:
        print(f"no keys in {file}", file=sys.stderr)
    return 0


@app.command()
def revoke(name: Annotated[str, typer.Argument()], file: File = Path("keys.toml")) -> int:
    """Take a key away; a running server refuses it within a second."""
    from tauten.serve.safety.keys import revoke_key

    revoke_key(file, name)
    print(f"{name} is gone from {file}", file=sys.stderr)
    return 0


def _check(flag: str, value: Any, fits: bool, wanted: str) -> None:
    if not fits:
        raise InputError(f"{flag} {value}", help=f"give {wanted}", code="E260")


def _scopes(key: Any) -> dict[str, Any]:
    return {field: value for field, value in msgspec.to_builtins(key).items() if field != "sha256"}


def _print(record: dict[str, Any]) -> None:
    print(msgspec.json.format(msgspec.json.encode(record)).decode())
