"""What this machine's processors have drawn, where the kernel tells (RAPL); and a request's part of it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tauten.run.kernel import busy_seconds

_ZONES: Final = Path("/sys/class/powercap")
_MICRO: Final = 1e-6


class Seen(NamedTuple):
    """What was read at an instant."""

    zones: dict[str, int]  # microjoules by zone; each counter begins anew at its range
    busy_s: float  # of all cores


class Meter:
    """Joules a core-second, from one look to the next. Where nothing can be read, nothing is said."""

    def __init__(self, zones: Path = _ZONES, busy: Callable[[], float | None] = busy_seconds) -> None:
        self._packages = sorted(path for path in _glob(zones) if _read(path / "energy_uj") is not None)
        self._ranges = {path.name: _read(path / "max_energy_range_uj") or 0 for path in self._packages}
        self._busy = busy
        self._last = self._look()
        self._joules_a_core_s: float | None = None

    @property
    def readable(self) -> bool:
        return self._last is not None

    def joules(self, core_s: float) -> float | None:
        """What so many core-seconds have drawn, by what all cores drew since the look before; None if unknown."""
        rate = self._joules_a_core_s
        return None if rate is None else rate * core_s

    def look(self) -> None:
        """Read the counters again; a look in which hardly anything worked tells nothing, and the last rate stays."""
        before = self._last
        if before is None:
            return
        now = self._look()
        if now is None:
            return
        busy_s = now.busy_s - before.busy_s
        if busy_s < _LEAST_S:
            return
        drawn = sum(self._drawn(name, before.zones[name], now.zones[name]) for name in now.zones)
        self._joules_a_core_s, self._last = drawn * _MICRO / busy_s, now

    def _drawn(self, name: str, before: int, now: int) -> int:
        return now - before if now >= before else now - before + self._ranges[name]

    def _look(self) -> Seen | None:
        zones: dict[str, int] = {}
        for path in self._packages:
            value = _read(path / "energy_uj")
            if value is None:
                return None
            zones[path.name] = value
        busy_s = self._busy() if zones else None
        return None if busy_s is None else Seen(zones, busy_s)


_LEAST_S: Final = 0.1  # the kernel counts busy time in steps of 10 ms: ten of them are a tenth off at most


def _glob(zones: Path) -> list[Path]:
    """The packages; their parts (`intel-rapl:0:0`) are in them."""
    return [path for path in zones.glob("*-rapl:*") if path.name.count(":") == 1]


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # there is none, or only root may read it
        return None
