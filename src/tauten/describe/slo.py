"""How well: the limits that a workflow must hold, and the quality it may spend to hold them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import re

import msgspec

from tauten.errors import InputError, suggest


class Slo(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Service-level objective of one workflow; an absent limit is no limit.

    Times in milliseconds, cost in cents a request, memory in bytes, `quality_loss` as a share of
    correct answers (0.01 = one point).
    """

    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    first_output_ms: float | None = None
    cost_cents: float | None = None
    memory_bytes: int | None = None
    quality_loss: float = 0.0

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            if not 0.0 < limit < math.inf:
                raise InputError(
                    f"nothing can hold {name} = {limit:g}",
                    help="give a limit above 0, or leave it out",
                    code="E204",
                )

    def limits(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {
            name: value
            for name in self.__struct_fields__
            if name != "quality_loss" and (value := getattr(self, name)) is not None
        }


_SHORT = {"first": "first_output", "memory": "memory", "cost": "cost"}
_UNITS: dict[str, tuple[str, float]] = {
    "ms": ("_ms", 1.0),
    "s": ("_ms", 1000.0),
    "c": ("_cents", 1.0),
    "MB": ("_bytes", 1e6),
    "GB": ("_bytes", 1e9),
    "pt": ("", 0.01),
    "": ("", 1.0),
}
_TERM = re.compile(r"(?a)\s*(\w+?)\s*<=?\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]*)\s*")


def parse_slo(text: str) -> Slo:
    """Read ``p95<800ms, first<400ms, quality_loss<1pt`` as it is written on a command line."""
    values: dict[str, float] = {}
    for term in filter(None, (part.strip() for part in text.split(","))):
        match = _TERM.fullmatch(term)
        if match is None or match[3] not in _UNITS:
            raise InputError(
                f"cannot read the SLO term {term!r}",
                help="write for example: p95<800ms, first<400ms, cost<0.2c, quality_loss<1pt",
                code="E204",
            )
        suffix, factor = _UNITS[match[3]]
        name = _SHORT.get(match[1], match[1])
        name += "" if name.endswith(suffix) else suffix  # p95_ms<800ms says it twice
        if name not in Slo.__struct_fields__:
            raise InputError(
                f"unknown SLO term {term!r}", help=suggest(name, Slo.__struct_fields__), code="E204"
            )
        if name in values:
            raise InputError(f"the SLO says {name} twice", help="give each limit once", code="E204")
        values[name] = float(match[2]) * factor
        if values[name] == math.inf:
            raise InputError(f"cannot read the SLO term {term!r}", help="give a number of use", code="E204")
    if "memory_bytes" in values:
        values["memory_bytes"] = math.ceil(values["memory_bytes"])
    return Slo(**values)  # type: ignore[arg-type]
