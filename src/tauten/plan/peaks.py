"""Peaks: what this machine can do at most, measured once, and the probe that compares two machines.

Pure data. `tauten.improve.measuring.peaks` measures them; the roofline and the simulator read them. The
file is JSON, ``peaks/1``, beside the measurements, and is valid for the hardware that it names.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from tauten.errors import MachineError, PlanError
from tauten.plan.files import replace
from tauten.plan.hardware import Hardware, hardware

FORMAT = "peaks/1"

Bound = Literal["compute", "memory"]
Level = Literal["cache", "memory"]
Above0 = Annotated[float, msgspec.Meta(gt=0.0)]
"""A speed, or a time: others are divided by it. Checked where a file is read."""


class MatrixRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Operations a second (a multiply and an add are two) of a large matrix product."""

    engine: str
    precision: str
    threads: int
    flops_s: Above0


class Bandwidth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes a second, read and written, of a copy that lives in the last cache, or in memory."""

    level: Level
    threads: int
    bytes_s: Above0


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level of data cache, as the system names it, and how many cores share one."""

    level: int
    size_bytes: int
    shared_by: int = 1


class Dispatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a call that computes nothing."""

    engine: str
    seconds: Above0


class CoRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many times longer a job takes beside another that never pauses, both with so many threads."""

    job: Bound
    beside: Bound
    threads: int
    slowdown: Above0


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two seconds of a fixed mixture, as two speeds: 1e9 operations and 1e9 bytes a second, on one core.

    >>> then, now = Probe(100.0, 10.0), Probe(50.0, 10.0)
    >>> now.slowness(then)
    (1.0, 2.0)
    """

    compute: Above0
    memory: Above0

    def slowness(self, other: Probe) -> tuple[float, float]:
        """How many times longer work takes here than where `other` was taken: at least, at most.

        Whether arithmetic or memory bounds a model is not known of it, so the truth is somewhere between.
        """
        ratios = self.stretch(other, 0.0), self.stretch(other, 1.0)
        return min(ratios), max(ratios)

    def stretch(self, other: Probe, memory: float) -> float:
        """How many times longer work takes here that moves bytes for that share of its time there.

        >>> Probe(50.0, 10.0).stretch(Probe(100.0, 10.0), memory=0.25)
        1.75
        """
        return (1.0 - memory) * other.compute / self.compute + memory * other.memory / self.memory


class Peaks(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The most that one machine was seen to do. `notes` say which figures were disturbed, and by how much."""

    hardware: Hardware
    matrix: tuple[MatrixRate, ...] = ()
    bandwidth: tuple[Bandwidth, ...] = ()
    caches: tuple[Cache, ...] = ()
    dispatch: tuple[Dispatch, ...] = ()
    co_run: tuple[CoRun, ...] = ()
    probe: Probe | None = None
    notes: tuple[str, ...] = ()
    measured_at: str = ""  # ISO 8601, UTC

    def matrix_rate(self, precision: str = "f32", threads: int = 0, engine: str = "") -> float | None:
        """Operations a second at that precision; 0 threads are all, no engine is the best of them.

        Between two thread counts that were measured it is read off the line; None means no data.
        """
        rates = [rate for rate in self.matrix if rate.precision == precision and engine in ("", rate.engine)]
        return _at_threads(((rate.threads, rate.flops_s) for rate in rates), threads)

    def copy_rate(self, level: Level = "memory", threads: int = 0) -> float | None:
        """Bytes a second at that level; 0 threads are all. None means no data."""
        rows = ((row.threads, row.bytes_s) for row in self.bandwidth if row.level == level)
        return _at_threads(rows, threads)

    def call_s(self, engine: str = "") -> float:
        """Seconds that a call costs before it computes; the cheapest engine when none is named, 0.0 unknown."""
        found = [row.seconds for row in self.dispatch if engine in ("", row.engine)]
        return min(found, default=0.0)

    def slowdown(self, job: Bound, beside: Bound, threads: int = 1) -> float | None:
        """How many times longer `job` takes beside the other; None means no data."""
        rows = (row for row in self.co_run if (row.job, row.beside, row.threads) == (job, beside, threads))
        return next((row.slowdown for row in rows), None)

    @property
    def last_cache_bytes(self) -> int:
        """Size of the largest data cache; 0 when the system does not say."""
        return max((cache.size_bytes for cache in self.caches), default=0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file in one move; a crash leaves the old one. Raises MachineError."""
        data = {"tauten": FORMAT, **msgspec.to_builtins(self)}
        replace(Path(path), msgspec.json.format(msgspec.json.encode(data), indent=1))


def load_peaks(path: str | os.PathLike[str], here: Hardware | None = None) -> Peaks | None:
    """The peaks of this machine; None where none were kept, or only another machine's. Raises PlanError."""
    try:
        raw = msgspec.json.decode(Path(path).read_bytes())
        if not isinstance(raw, dict) or raw.pop("tauten", None) != FORMAT:
            raise msgspec.ValidationError(f"expected {FORMAT}")
        peaks = msgspec.convert(raw, Peaks)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MachineError(
            f"cannot read {path}: {error.strerror}", help="check its permissions", code="E302"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PlanError(
            f"cannot read the peaks: {error}",
            help="delete the file; they are measured again when they are needed",
            where=str(path),
            code="E150",
        ) from error
    return peaks if peaks.hardware.matches(here or hardware()) else None


def _at_threads(rows: Iterable[tuple[int, float]], threads: int) -> float | None:
    """The best rate at that many threads: on the line between its neighbours, the last one beyond them.

    >>> _at_threads([(1, 10.0), (4, 40.0)], 2)
    20.0
    >>> _at_threads([(1, 10.0), (2, 18.0), (2, 19.0)], 0)
    19.0
    """
    best: dict[int, float] = {}
    for count, rate in rows:
        best[count] = max(rate, best.get(count, 0.0))
    if not best:
        return None
    counts = sorted(best)
    wanted = threads or counts[-1]
    above = next((count for count in counts if count >= wanted), counts[-1])
    below = max((count for count in counts if count <= wanted), default=counts[0])
    if above <= below:
        return best[above]
    share = (wanted - below) / (above - below)
    return best[below] + share * (best[above] - best[below])
