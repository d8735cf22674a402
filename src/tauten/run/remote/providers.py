"""Who may be asked: providers as the user's own file names them. A plan names a provider, and knows nothing else of it.

[openai]                                  # ~/.config/tauten/providers.toml, or the file that TAUTEN_PROVIDERS names
url = "https://api.openai.com/v1"
key = "OPENAI_API_KEY"                    # the name of an environment variable, never a key
models = ["gpt-4o-mini"]
limits = { requests_per_minute = 500, tokens_per_minute = 200_000 }
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from tauten.errors import MachineError, PlanError, suggest

_SCHEMES: Final = ("http", "https", "grpc", "grpcs")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a key may do; 0 where it is not known. Answers' headers may lower it."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    concurrency: int = 0
    texts: int = 2048  # of one call for embeddings: OpenAI's bound; others take as few as 32


class Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file.

    `models` are the names that may be asked for, or a table from our names to theirs; none: any name goes as it
    is. `priced_as` is whom price lists know it as, where that is not `name`. `output_limit` is how the bound on
    an answer is called; `prefill` are further fields of a call that goes on from half an answer. `speaks` says by
    which of OpenAI's two protocols it is asked for answers; `streams` is false where it gives them in one piece.
    `without` are fields of a call that it refuses, and that are left out.
    """

    url: str
    key: str = ""
    region: str = ""
    models: list[str] | dict[str, str] = []
    limits: Limits = Limits()
    priced_as: str = ""
    output_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    prefill: dict[str, Any] = {}
    speaks: Literal["chat", "responses"] = "chat"
    streams: bool = True
    without: list[str] = []
    name: str = ""

    def model(self, asked: str) -> str:
        """Their name of a model; raises PlanError E145 for one that the file does not list."""
        if not self.models:
            return asked
        if asked not in self.models:
            raise PlanError(
                f"provider {self.name!r} lists no model {asked!r}",
                help=suggest(asked, self.models),
                code="E145",
            )
        return self.models[asked] if isinstance(self.models, dict) else asked

    def secret(self) -> str:
        """The key itself, from the environment; empty where the provider asks for none."""
        if not self.key:
            return ""
        secret = os.environ.get(self.key, "")
        if not secret:
            raise MachineError(
                f"provider {self.name!r} needs the key in {self.key}, which is not set",
                help=f"export {self.key}=... where Tauten runs",
                code="E348",
            )
        return secret


def providers_file() -> Path:
    """`$TAUTEN_PROVIDERS`, `$XDG_CONFIG_HOME/tauten/providers.toml` or the same below `~/.config`."""
    if chosen := os.environ.get("TAUTEN_PROVIDERS"):
        return Path(chosen)
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "tauten" / "providers.toml"


def read_providers(path: Path | None = None) -> dict[str, Provider]:
    """All providers of the file, none where there is no file; raises MachineError E348 for one that is wrong."""
    path = path or providers_file()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _wrong(path, str(error)) from error
    return {name: _read(path, name, table) for name, table in tables.items()}


def find_provider(name: str, path: Path | None = None) -> Provider:
    """The provider of that name; raises PlanError E145."""
    known = read_providers(path)
    if name not in known:
        raise PlanError(
            f"no provider is called {name!r} in {path or providers_file()}",
            help=suggest(name, known) if known else "write a table of that name with its url and key there",
            code="E145",
        )
    return known[name]


def _read(path: Path, name: str, table: Mapping[str, Any]) -> Provider:
    if not isinstance(table, dict):
        raise _wrong(path, f"{name} is no table")
    if "/" in name:
        raise _wrong(path, f"[{name}] holds a slash, which stands between provider and model in a plan")
    try:
        read = msgspec.convert({**table, "name": name}, Provider)
    except msgspec.ValidationError as error:
        raise _wrong(path, f"[{name}]: {error}") from error
    parts = urlsplit(read.url)
    if parts.scheme not in _SCHEMES or not parts.hostname or parts.username or parts.password or parts.query:
        raise _wrong(
            path, f"[{name}]: url is not SCHEME://HOST/PATH with {', '.join(_SCHEMES)} and no key in it"
        )
    if read.key and not _VARIABLE.fullmatch(read.key):  # what stands there may be a key: it is not shown
        raise _wrong(path, f"[{name}]: key is not the name of an environment variable")
    return read


def _wrong(path: Path, what: str) -> MachineError:
    return MachineError(
        f"{path}: {what}",
        help="a table a provider: url, key (the NAME of an environment variable), region, models, limits",
        code="E348",
    )
