"""Whom a client of one's own asks: by its address, as `providers.toml` calls it, else the host, else its package."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from typing import Any, Final
from urllib.parse import urlsplit

from tauten.clock import Clock, real
from tauten.errors import MachineError
from tauten.run.remote.allowance import Allowance
from tauten.run.remote.circuit import Circuit
from tauten.run.remote.providers import Provider, read_providers

_ADDRESSES: Final = ("base_url", "_base_url", "api_base", "endpoint", "url")  # what clients call it
CIRCUITS: Final = 256  # models that one client is asked for; beyond that the oldest is forgotten


class Client:
    """One wrapped client: its provider, and the health of each model that it is asked for."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._clock: Clock = real
        self._circuits: dict[str, Circuit] = {}
        self._allowance: Allowance | None = None

    @functools.cached_property
    def provider(self) -> Provider:
        """Who it is, as books call him; asked once, when the first call is made."""
        address = _address(self.root)
        host = urlsplit(address).hostname or ""
        known = [each for each in _providers() if host and urlsplit(each.url).hostname == host]
        nearest = [each for each in known if address.rstrip("/").startswith(each.url.rstrip("/"))]
        found = next(iter([*nearest, *known]), None)
        return found or Provider(url=address, name=host or type(self.root).__module__.partition(".")[0])

    def circuit(self, model: str, clock: Clock) -> Circuit:
        """The health of a model there."""
        self._go_by(clock)
        found = self._circuits.get(model)
        if found is None:
            if len(self._circuits) >= CIRCUITS:
                del self._circuits[next(iter(self._circuits))]
            found = self._circuits[model] = Circuit(clock)
        return found

    def allowance(self, clock: Clock) -> Allowance:
        """What its table in `providers.toml` lets it send, and until when a refusal keeps it out."""
        self._go_by(clock)
        if self._allowance is None:
            limits = self.provider.limits
            self._allowance = Allowance(
                clock,
                requests_per_minute=limits.requests_per_minute,
                tokens_per_minute=limits.tokens_per_minute,
            )
        return self._allowance

    def _go_by(self, clock: Clock) -> None:
        """Instants of another clock, as that of a simulation, say nothing of this one's."""
        if clock != self._clock:
            self._clock, self._circuits, self._allowance = clock, {}, None


def _address(root: Any) -> str:
    for name in _ADDRESSES:
        found = str(getattr(root, name, None) or "")
        if "://" in found:
            return found
    return ""


def _providers() -> list[Provider]:
    try:
        return list(read_providers().values())
    except MachineError:  # said where a plan opens it; a client of one's own does not depend on it
        return []
