"""Measures what a machine can do at most: matrix products, copies, calls, and how neighbours slow one another.

Every figure is a number of equal pieces of work in a fixed time, repeated, of which the quietest rounds count.
Runs in the child process, where numpy computes in one thread; about a minute on two cores, once a machine.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from tauten.clock import Clock, real
from tauten.errors import MachineError, PlanError
from tauten.improve.measuring import graphs
from tauten.improve.measuring.prober import PROBE_S, Prober, probe_of
from tauten.improve.measuring.quiet import Settled, Watch, settled
from tauten.plan.hardware import Hardware
from tauten.plan.peaks import (
    Bandwidth,
    Bound,
    Cache,
    CoRun,
    Dispatch,
    Level,
    MatrixRate,
    Peaks,
    Probe,
)
from tauten.run.contracts import ModelSpec, find

Job = Callable[[], Any]

ROUND_S = 0.3  # thirty of the kernel's ticks: what others take of a round is then told to 3 %
_SIDE = 1024  # of a product: 2 Gflop, some tens of ms, so that starting threads is no part of it
_BEYOND = 4  # times the last cache, in each of the two arrays of a copy
_LEAST_BYTES, _MOST_BYTES = 128 << 20, 1 << 30  # where the system names no cache; where it names a huge one
_MARGIN = 4  # a copy within the last cache has this part of it in each array: others use it as well
_ENGINES = ("onnx", "openvino")
PRECISIONS = ("f32", "bf16", "int8")


class Peaker:
    """Measures one figure after another; `share` says what others had of the machine meanwhile."""

    def __init__(self, here: Hardware, clock: Clock = real, share: Callable[[], float] | None = None) -> None:
        self._here = here
        self._clock = clock
        self._share = share or Watch(here.cores, clock).share
        self.notes: list[str] = []

    def all(self, caches: tuple[Cache, ...], folder: Path) -> Peaks:
        """Every figure. `folder` holds the small models meanwhile."""
        last = max((cache.size_bytes for cache in caches), default=0)
        return Peaks(
            hardware=self._here,
            matrix=(*self.numpy_rates(), *self.engine_rates(folder)),
            bandwidth=tuple(self.copy_rates(last)),
            caches=caches,
            dispatch=tuple(self.calls(folder)),
            co_run=tuple(self.neighbours(last)),
            probe=self.probe(),
            notes=tuple(self.notes),
            measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def rate(self, name: str, jobs: Sequence[Job]) -> float:
        """Pieces a second that all the jobs do together."""
        return self._said(name, settled(lambda: sum(rates(jobs, ROUND_S, self._clock)), self._share))

    def _said(self, name: str, found: Settled) -> float:
        if note := found.note(name):
            self.notes.append(note)
        return found.value

    def threads(self) -> list[int]:
        """The counts that are measured: powers of two, and all cores."""
        cores = self._here.cores
        return sorted({*(1 << power for power in range(cores.bit_length()) if 1 << power <= cores), cores})

    def numpy_rates(self) -> Iterator[MatrixRate]:
        """As many products side by side as threads: what numpy's own stages can reach."""
        for count in self.threads():
            jobs = [product(_SIDE) for _ in range(count)]
            found = self.rate(f"numpy f32 with {count} threads", jobs)
            yield MatrixRate("numpy", "f32", count, found * product_flops(_SIDE))

    def engine_rates(self, folder: Path) -> Iterator[MatrixRate]:
        """One product spread by each engine over its threads, at each precision that the engine has here."""
        for engine in engines():
            for precision in PRECISIONS:
                for count in self.threads():
                    with engine_job(engine, precision, count, folder) as job:
                        if job is None:
                            break
                        found = self.rate(f"{engine} {precision} with {count} threads", [job])
                    yield MatrixRate(engine, precision, count, found * product_flops(_SIDE))

    def copy_rates(self, last_cache: int) -> Iterator[Bandwidth]:
        """Bytes read and written a second (the STREAM benchmark counts so too: McCalpin, 1995)."""
        for level, size in copy_sizes(last_cache).items():
            for count in self.threads():
                part = size // count
                found = self.rate(
                    f"copy in {level} with {count} threads", [copying(part) for _ in range(count)]
                )
                yield Bandwidth(level, count, found * 2.0 * part)

    def calls(self, folder: Path) -> Iterator[Dispatch]:
        """What a call costs that computes nothing."""
        for engine in engines():
            with engine_call(engine, folder) as job:
                if job is not None:
                    yield Dispatch(engine, 1.0 / self.rate(f"a call of {engine}", [job]))

    def neighbours(self, last_cache: int) -> Iterator[CoRun]:
        """Each kind of job beside each kind, with one thread each and with all cores each."""
        size = copy_sizes(last_cache)["memory"]
        for count in sorted({1, self._here.cores}):
            for job in get_args(Bound):
                for beside in get_args(Bound):
                    with spread(job, count, size) as ours, spread(beside, count, size) as theirs:
                        found = settled(partial(self._slowdown, ours, theirs), self._share)
                    slower = self._said(f"{job} beside {beside} with {count} threads", found)
                    yield CoRun(job, beside, count, slower)

    def _slowdown(self, ours: Job, theirs: Job) -> float:
        """Alone and beside the other one after the other, so that a slow minute is in both."""
        [alone] = rates([ours], ROUND_S, self._clock)
        together, _ = rates([ours, theirs], ROUND_S, self._clock)
        return alone / together

    def probe(self) -> Probe:
        """Two seconds of the fixed mixture."""
        prober, began = Prober(self._clock), self._clock()
        slices = [prober.slice()]
        while self._clock() - began < PROBE_S:
            slices.append(prober.slice())
        return probe_of(slices)


def measured_peaks(here: Hardware, clock: Clock = real) -> Peaks:
    """The peaks of this machine, measured now. For a process with nothing else to do."""
    with tempfile.TemporaryDirectory(prefix="tauten-peaks-") as folder:
        return Peaker(here, clock).all(caches(), Path(folder))


def rates(jobs: Sequence[Job], seconds: float, clock: Clock = real) -> list[float]:
    """Pieces a second that each job did while all of them ran, each in a thread of its own.

    A piece that is under way when the time is over is finished, and counts with the time it took.
    """
    if len(jobs) == 1:
        return [_pieces(jobs[0], seconds, clock)]
    together = threading.Barrier(len(jobs))

    def one(job: Job) -> float:
        together.wait()
        return _pieces(job, seconds, clock)

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(one, jobs))


def _pieces(job: Job, seconds: float, clock: Clock) -> float:
    done, began = 0, clock()
    while True:
        job()
        done += 1
        passed = clock() - began
        if passed >= seconds and passed > 0.0:
            return done / passed


def engines() -> tuple[str, ...]:
    """The engines that can be asked: none where the package that writes their models is not installed."""
    return _ENGINES if find_spec("onnx") is not None else ()


# -- jobs ------------------------------------------------------------------------------------------------------


def product(side: int) -> Job:
    """A matrix product in one thread of numpy's."""
    import numpy as np

    left = np.linspace(-1.0, 1.0, side * side, dtype=np.float32).reshape(side, side)
    out = np.empty_like(left)
    np.matmul(left, left, out=out)
    return lambda: np.matmul(left, left, out=out)


def product_flops(side: int) -> float:
    return 2.0 * side**3


def copying(size: int) -> Job:
    """A copy of so many bytes to elsewhere."""
    import numpy as np

    there = np.ones(max(1, size // 4), dtype=np.float32)
    here = np.zeros_like(there)
    return lambda: np.copyto(here, there)


@contextmanager
def spread(kind: Bound, threads: int, size: int) -> Iterator[Job]:
    """A job over so many threads that wait for one another after each piece, as an engine's do."""
    parts = [product(_SIDE // 2) if kind == "compute" else copying(size // threads) for _ in range(threads)]
    if threads == 1:
        yield parts[0]
        return
    with ThreadPoolExecutor(threads) as pool:
        yield lambda: list(pool.map(lambda part: part(), parts))


@contextmanager
def engine_job(engine: str, precision: str, threads: int, folder: Path) -> Iterator[Job | None]:
    """A product by an engine; None where the engine is not here, or would compute in another precision."""
    if not _computes(engine, precision):
        yield None
        return
    path = graphs.product(folder, _SIDE, quantised=precision == "int8")
    asked = precision if engine == "openvino" and precision != "int8" else ""
    spec = ModelSpec(path.stem, files={"model.onnx": path}, threads=threads, precision=asked, options=_WHOLE)
    with _open(engine, spec) as backend:
        yield None if backend is None else _called(backend, graphs.rows(_SIDE))


@contextmanager
def engine_call(engine: str, folder: Path) -> Iterator[Job | None]:
    """A call of an engine that hands one number through; None where the engine is not here."""
    path = graphs.same(folder)
    spec = ModelSpec(path.stem, files={"model.onnx": path}, threads=1, options=_WHOLE)
    with _open(engine, spec) as backend:
        yield None if backend is None else _called(backend, graphs.rows(1))


_WHOLE: dict[str, Any] = {"unbatched": True}  # arrays are passed as they lie


def _called(backend: Any, array: Any) -> Job:
    item = [{"x": array}]

    def call() -> None:
        [answer] = backend.run(item)
        if isinstance(answer, BaseException):
            raise answer

    call()
    return call


@contextmanager
def _open(engine: str, spec: ModelSpec) -> Iterator[Any]:
    """The backend as plans run it; None where its engine is not installed or refuses the precision."""
    backend = find("backends", engine)(spec)
    try:
        backend.open()
    except (MachineError, PlanError):
        backend = None
    try:
        yield backend
    finally:
        if backend is not None:
            backend.close()


def _computes(engine: str, precision: str) -> bool:
    """Whether the engine computes so here. ONNX Runtime takes f32 and int8; OpenVINO says what the processor
    has, and quietly uses f32 for the rest."""
    if engine != "openvino" or precision == "f32":
        return precision != "bf16"
    try:
        import openvino
    except ImportError:
        return False
    known = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return precision.upper() in [str(each) for each in known]


# -- caches ----------------------------------------------------------------------------------------------------


def copy_sizes(last_cache: int) -> dict[Level, int]:
    """Bytes of each array of a copy, by where it is to live.

    >>> copy_sizes(32 << 20)["memory"] >> 20, copy_sizes(32 << 20)["cache"] >> 20
    (128, 8)
    >>> list(copy_sizes(0))
    ['memory']
    """
    sizes: dict[Level, int] = {"memory": min(max(_BEYOND * last_cache, _LEAST_BYTES), _MOST_BYTES)}
    if last_cache:
        sizes["cache"] = last_cache // _MARGIN
    return sizes


def caches(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> tuple[Cache, ...]:
    """The data caches of the first core, as the system names them; none where it does not."""
    found = []
    for place in sorted(root.glob("index*")):
        told = {name: _text(place / name) for name in ("level", "type", "size", "shared_cpu_list")}
        size = told["size"].removesuffix("K")
        if told["type"] != "Instruction" and told["level"].isdigit() and size.isdigit():
            found.append(Cache(int(told["level"]), int(size) << 10, _count(told["shared_cpu_list"])))
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # a system that does not tell
        return ""


def _count(cpus: str) -> int:
    """How many processors a list like ``0-3,8`` names, 1 at the least."""
    total = 0
    for part in filter(None, cpus.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return max(1, total)
