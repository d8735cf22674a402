"""Card: the measured facts of one variant of a model, as TOML or JSON.

A card claims nothing that was not measured: latency is a median with its interval, quality a rate with
its interval and count, and both name the hardware they come from.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
import tomllib
from typing import Any, Literal

import msgspec

from tauten.errors import PlanError, suggest

FORMAT = "card/1"


class CardLatency(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Time of one call with `batch` members: median with its 95 % interval, and p95 where n allows."""

    batch: int
    mid_ms: float
    low_ms: float
    high_ms: float
    n: int
    threads: int = 0  # 0: the framework's default
    p95_ms: float | None = None
    backend: str = ""  # the engine, where several read the format


class CardQuality(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a metric gave on n labelled items, with its 95 % interval; shares are 0..1."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    against: str = ""  # the variant it was compared with; empty: the labels alone


CardVerdict = Literal["", "accept", "reject", "cannot conclude"]


class Card(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One form of a model and what it costs and is worth on the hardware it names."""

    model: str
    variant: str
    format: str  # onnx, openvino, ct2, gguf ...
    size_bytes: int = 0  # on disk
    memory_bytes: int = 0  # resident, above the engine without it; of the backend in the first row
    load_ms: float | None = None  # of that backend, too
    latency: list[CardLatency] = []
    quality: list[CardQuality] = []
    verdict: CardVerdict = ""
    needed: int | None = None  # items that would conclude, when it cannot
    made_how: str = ""  # the conversion and its settings, enough to repeat it
    made_on: str = ""  # hardware, in its short form
    made_at: str = ""  # ISO 8601, UTC

    def latency_at(self, batch: int, threads: int = 0, backend: str = "") -> CardLatency | None:
        """The measured latency of that batch size and thread count; None means no data.

        Without a backend it is the first that was measured so.
        """
        rows = (row for row in self.latency if (row.batch, row.threads) == (batch, threads))
        return next((row for row in rows if backend in ("", row.backend)), None)

    def to_json(self) -> str:
        return msgspec.json.encode({"tauten": FORMAT, **msgspec.to_builtins(self)}).decode()

    def to_toml(self) -> str:
        import tomlkit

        return tomlkit.dumps({"tauten": FORMAT, **msgspec.to_builtins(self)})


def card_from_json(text: str | bytes, where: str = "") -> Card:
    """Read a card; raises PlanError with the place and the closest known key."""
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(str(error), where) from error
    return _card(raw, where)


def card_from_toml(text: str, where: str = "") -> Card:
    """Read a card; raises PlanError with the place and the closest known key."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(str(error), where) from error
    return _card(raw, where)


def _card(raw: Any, where: str) -> Card:
    if not isinstance(raw, dict) or raw.get("tauten") != FORMAT:
        seen = raw.get("tauten") if isinstance(raw, dict) else type(raw).__name__
        raise _unreadable(f'expected tauten = "{FORMAT}", seen {seen!r}', where)
    try:
        return msgspec.convert({key: value for key, value in raw.items() if key != "tauten"}, Card)
    except msgspec.ValidationError as error:
        raise _unreadable(str(error), where) from error


def _unreadable(reason: str, where: str) -> PlanError:
    unknown = re.search(r"unknown field `(\w+)`(?: - at `\$\.(\w+))?", reason)
    tables = {"latency": CardLatency, "quality": CardQuality}
    fields = tables.get(unknown[2] or "", Card).__struct_fields__ if unknown else ()
    help = suggest(unknown[1], fields) if unknown else "make the card again, or restore the file"
    return PlanError(f"cannot read the card: {reason}", help=help, where=where, code="E151")
