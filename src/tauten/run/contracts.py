"""All that can be plugged in, on one page: BatchBackend, SlotBackend, Codec, Cache, Router.

A plug-in is one file on its shelf; the file's name is its name in a plan, and the class in it has the
attribute `name`. Other packages add theirs by entry points (``tauten.backends``, ``tauten.codecs``, ``tauten.caches``,
``tauten.routers``).
Imported only when a plan names them, so heavy libraries may be imported at the top of `open`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from tauten.describe.payload import Payload
from tauten.errors import PlanError
from tauten.shelf import Shelf


class ModelSpec(msgspec.Struct, frozen=True):
    """What a backend opens: one form of a model and how to run it.

    `files` are verified local paths by name; `options` hold the backend's own keys, already checked
    against `option_keys`. `threads` 0 and `precision` "" mean the framework's plain default.
    """

    model: str
    variant: str = ""
    files: dict[str, Path] = {}
    threads: int = 0
    precision: str = ""
    options: dict[str, Any] = {}


class BatchBackend(Protocol):
    """Executes a list of items at once (tensor models, plain functions).

    A class may say what an optimizer can try: `precisions`, those it runs beside full precision, from the widest
    to the narrowest, and `turns`, options of its own (`describe/turn.py`).

    `open`, `run` and `close` are called from one dedicated thread per replica, never from the event
    loop, and never two at a time on one instance. They block. `group` and `weight` are called from
    the event loop and must be cheap. Where a plan gives the replica processors, that thread is bound to
    them before `open`: an engine that would count or choose processors itself is told how many there are.

    A backend may have `prepare(items)` and `run_prepared(prepared)`, which together do what `run` does:
    `prepare` is called from another thread while the engine still runs the batch before. One whose engine
    runs in any thread may say `inline = True`: a run that is predicted to take hardly longer than handing it
    to a thread is then called from the event loop, still never two at a time.

    One whose engine can be interrupted has `begin()` and `stop()`, which are short. `begin` is called before
    each `run` or `run_prepared`, by whoever calls that. `stop` is called from the event loop when nobody waits
    for any of the run's items: after its `begin`, maybe before it has started, never once it is over, and never
    at the same time as a `begin`. That run then ends as it likes, and the next one knows nothing of it.

    One whose engine runs only certain batch sizes has `sizes` once it is open: whole numbers, of places. `run`
    fills up what lies between them, however many items it is given, and gives back no more than it was asked
    for. `weight` is then how many places an item takes; batches are padded up or trimmed down to a size by
    what that costs, and are never larger than the largest.

    One that asks another machine says `local = False`: the time of its runs is then `remote`. It may have
    `account()`, which is asked after each run, in its thread: for each item of that run the calls (`Call`) that were
    made for it, by which it is booked; and `billed`, who would bill them and for which of their models: then budgets
    are asked for one call before an item is queued.

    One that can do nothing more until it is opened anew says so in one of two ways: by `dead = True` on the
    BackendError that `run` raises or gives in a member's place, or by `alive()`, which is asked, in the thread
    of the run, after one in which something failed, and then answers False: all that failed in it is lost. It
    is closed, and another instance is made and opened in its place, at once, then after pauses of up to 5 s
    until one opens. What was lost is run once more, by any replica, where items may run twice and there is
    time; what had not begun goes to the others. The rest gets the error.
    """

    name: ClassVar[str]
    option_keys: ClassVar[frozenset[str]]

    def __init__(self, spec: ModelSpec) -> None: ...

    def open(self) -> None:
        """Load; raises StoreError, MachineError or PlanError (an option it cannot honour)."""
        ...

    def group(self, item: Any) -> Hashable:
        """Items with equal keys may share a batch (same shapes, same options)."""
        ...

    def weight(self, item: Any) -> float:
        """Predicted relative cost of the item (pixels, seconds, tokens); 1.0 when unknown."""
        ...

    def run(self, items: Sequence[Any]) -> list[Any]:
        """One result per item, in order. A member that fails alone may be an exception instance."""
        ...

    def properties(self) -> Mapping[str, str]:
        """What is really in force: precision, threads, device; printed by EXPLAIN."""
        ...

    def close(self) -> None:
        """Free everything; may be called twice."""
        ...


class Chunk(msgspec.Struct, frozen=True):
    """One increment of a slot: text or a value, and what it took.

    `at` is when the engine made it (monotonic seconds of this machine); `tokens` how many it holds.
    The last chunk has `done` and the final counts in `usage` (input_tokens, cached_tokens,
    output_tokens) and `finish` (stop, length, cancel).
    """

    text: str = ""
    value: Any = None
    tokens: int = 0
    at: float = 0.0
    done: bool = False
    finish: str = ""
    usage: dict[str, float] = {}


class SlotBackend(Protocol):
    """Executes streams that it batches inside (language models, remotes). Lives on the event loop.

    `start` returns an iterator of Chunks, the last of them `done`. Closing the iterator (or cancelling
    the task in it) stops the work in the engine within one step, before any stream that is started
    later begins; it need not wait for that. A worker that dies raises BackendError in its open streams,
    and the backend restarts it for the next call. One that asks another machine says `local = False`.

    One that asks others over a network may have `start_for(request, step, item)`, which is then called in place of
    `start`: it keeps to what the request has left, writes the rows of its own time (`remote`, `limit`), asks
    its purse before each attempt, and books it in the request's trace. One whose models lie elsewhere says
    `needs_files = False`. One that somebody bills says by `billed` who would bill a call that begins now, and for
    which of their models.
    """

    name: ClassVar[str]
    option_keys: ClassVar[frozenset[str]]
    slots: int  # how many streams run at once before the deployment queues

    def __init__(self, spec: ModelSpec) -> None: ...

    async def open(self) -> None: ...

    def start(self, item: Mapping[str, Any]) -> AsyncIterator[Chunk]: ...

    def lingering(self) -> Collection[float]:
        """Since when (monotonic seconds) each stream is closed that the engine has yet to drop."""
        ...

    def properties(self) -> Mapping[str, str]: ...

    async def close(self) -> None: ...


class Prompted(NamedTuple):
    """What a language model is given, word for word: its chat template's own marks included. `ends` are the
    characters behind which each token ends, one a token; None where the tokenizer writes the text in another way."""

    text: str
    tokens: int
    ends: tuple[int, ...] | None


class PromptReader(Protocol):
    """A model's own tokenizer and chat template. A slot backend that has one says how to open it, without the model:
    `reader(files)`, a static method, given the files of `ModelSpec`."""

    context: int  # tokens of prompt and answer together

    def read(self, item: Mapping[str, Any]) -> Prompted:
        """The prompt of an item with `messages` or a `prompt`, as the engine makes it."""
        ...

    def count(self, text: str) -> int:
        """Tokens of a text by itself, without any marks."""
        ...


class Codec(Protocol):
    """Turns encoded bytes into a decoded view; pure, blocking, called in a thread or a process.

    Checks limits (pixels, seconds, bytes) from the header before it decodes, and raises MediaError.
    """

    name: ClassVar[str]
    param_keys: ClassVar[Mapping[str, type]]

    def accepts(self, payload: Payload) -> bool:
        """Whether this codec reads the payload; others (a Text where Audio may come) pass through."""
        ...

    def decode(self, data: bytes, media_type: str, params: Mapping[str, Any], name: str) -> Any:
        """Decode to Pixels, Samples, Frames or Sheets; `name` becomes the view's name."""
        ...


class Asker(Protocol):
    """Who looks into a cache: a step at work for a request. What a tier has computed for it is booked there."""

    @property
    def name(self) -> str: ...

    @property
    def request(self) -> Any: ...


class Sought(NamedTuple):
    """What is looked for in a cache.

    `key` names one result: what computes it, with its settings and models, the content of its inputs, and whose it
    is. `space` names the same without the inputs: a cache that takes likeness for equality looks among the
    `inputs` of one space, never across two.
    """

    key: bytes
    space: bytes
    inputs: Mapping[str, Any]
    tenant: str = ""  # who asks; in the names already
    ask: Asker | None = None  # for whom; None where nobody's time is counted


class Kept(NamedTuple):
    """A result in a cache; it is never changed. Of a stream the tuple of its increments."""

    value: Any
    size_bytes: int
    saved_s: float  # that it took to compute
    spent: tuple[tuple[str, float], ...] = ()  # (unit, amount) that who gets it books: tokens, as shared ones
    saved_cents: float = 0.0  # that it took as well
    made_at: float = 0.0  # seconds since 1970
    lives_s: float = 0.0  # that it may be given from then on, stale included; 0 is for ever
    modality: str = "other"  # whose quota it is in: text, embedding, image, audio, video, other
    labels: tuple[
        str, ...
    ] = ()  # by which it can be forgotten: `step:ocr`, `model:...`, `tenant:...`, `tag:...`
    times_s: tuple[float, ...] = ()  # of a stream: when each increment came, from its start


class Holdings(NamedTuple):
    """What a cache holds, and what became of the rest since it was made."""

    entries: int
    size_bytes: int
    bound_bytes: int
    evictions: int
    refused: int  # results that were not worth what they would have pushed out, or too large


class Cache(Protocol):
    """Keeps results, on the event loop. A tier on a disk or behind a network waits in `get` and `put` for as long
    as its answer is worth; it gives what it has, or None, and never raises because something is damaged or away.

    `put` may refuse, and replaces what is older. What `get` gives is what was put under that key, or, in a tier
    that takes likeness for equality (`exact = False`), under a key of the same space. How old it may be is
    asked by who gets it.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]

    def __init__(self, size_bytes: int) -> None: ...

    async def get(self, sought: Sought) -> Kept | None: ...

    async def put(self, sought: Sought, kept: Kept) -> bool:
        """Keep a result; says whether it is kept."""
        ...

    def resize(self, size_bytes: int) -> None:
        """Another bound from now on; what is beyond it goes at once. One that several share (`shared`) keeps the
        largest that was named."""
        ...

    def holdings(self) -> Holdings: ...

    async def clear(self) -> None:
        """Forget everything; raises Unavailable where what holds it is away, and will be back."""
        ...

    async def forget(self, label: str) -> int:
        """Forget what carries a label; says how many results that were. Raises as `clear`."""
        ...

    async def close(self) -> None:
        """Let go of files and connections; what is kept there stays."""
        ...


class Likeness(Cache, Protocol):
    """A cache that takes likeness for equality (`exact = False`). It is asked where nothing equal was kept, gives nothing
    that is too old, and is told every result, of the requests too that it gave nothing: by those it learns."""

    hits: int
    events: dict[str, int]


class Candidate(msgspec.Struct, frozen=True):
    """One way that a request may go, as it is foreseen now. Seconds; a price that nobody knows is None, never 0.

    `cents` are of this request, with the tokens that are foreseen; None, too, where nobody foresees any. Either all
    candidates of a choice whose price is known have them, or none.
    """

    name: str
    wait_s: float = 0.0  # until it begins there
    first_s: float = 0.0  # from then to its first output
    total_s: float = 0.0  # from then to its end
    cost_per_token: float | None = None  # cents
    load: float = 0.0  # requests that wait or run there, for each that can run at once
    outstanding: int = 0  # requests that this choice has sent there and that have not ended
    healthy: bool = True
    local: bool = True
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    cents: float | None = None
    priced_by: str = ""  # who says so: a file of prices, or the workflow

    @property
    def price(self) -> float | None:
        """What candidates are compared by: cents of this request, of one token where nobody knows how many."""
        return self.cost_per_token if self.cents is None else self.cents


class Ask(msgspec.Struct, frozen=True):
    """What a router is told of a request."""

    at: float = 0.0  # seconds on the line of the clock
    key: str = ""  # what shall stay together: a session, a tenant
    prefix: str = ""  # how its prompt begins
    tenant: str = ""
    category: str = ""
    priority: int = 0
    tokens: float = 0.0  # it will probably take, where it takes most of them; 0 where nobody knows
    first_left_s: float = math.inf  # until its first output is due
    left_s: float = math.inf  # until its end is due


class Route(NamedTuple):
    """Names of candidates in the order in which to try them, and why the first one is first."""

    order: tuple[str, ...]
    why: str


class Evidence(NamedTuple):
    """How sure a shortcut is of its answer: a score, and its lead over the next best where there is one."""

    score: float
    margin: float = math.inf


class Stand(NamedTuple):
    """Whether a shortcut's answer stands, and why or why not. One that does not `counts` was no candidate for the
    gate, whatever its score: a rule of the router refused it before."""

    stands: bool
    why: str
    counts: bool = True


class Outcome(msgspec.Struct, frozen=True):
    """What came of asking a candidate."""

    took_s: float
    first_s: float = 0.0  # 0 where it gave its result at once
    failed: bool = False
    tokens: float = 0.0
    score: float | None = None  # of a shortcut, and whether it was taken
    accepted: bool | None = None


Allows = Callable[[float, str, str], bool]
"""Whether a gate lets a score pass, of a tenant and a category."""


class Router(Protocol):
    """Says which candidate a request goes to. Pure over what it is told, and the same again with the same seed.

    One that `judges` asks its candidates one after another: each that answers before the last brings evidence, and
    `accepts` says whether that answer stands; it must not where `allows` does not. Keep it short: it runs on the
    event loop, once a request.
    """

    name: ClassVar[str]
    option_keys: ClassVar[Mapping[str, type]]
    judges: ClassVar[bool]

    def __init__(
        self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None
    ) -> None: ...

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        """An order of one candidate or more, those that are not healthy last or not at all while others are."""
        ...

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        """Whether a shortcut's answer stands. Asked only of those that judge."""
        ...

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """A candidate that was asked has answered or failed."""
        ...


def batches_itself(backend: str) -> bool:
    """Whether a backend takes streams into slots, and not batches."""
    return hasattr(find("backends", backend), "start")


def _shelf(name: str) -> Shelf:
    return Shelf(f"tauten.run.{name}", f"tauten.{name}")


@functools.cache
def names(shelf: str) -> tuple[str, ...]:
    """The names on a shelf (``backends``, ``codecs``, ...): its files, then other packages' entry points."""
    return _shelf(shelf).names()


@functools.cache
def find(shelf: str, name: str) -> type[Any]:
    """The class of that name on a shelf; raises PlanError with the closest name."""
    found: type[Any] | None = _shelf(shelf).added(name)
    if found is not None:
        return found
    if name not in names(shelf):
        close = difflib.get_close_matches(name, names(shelf), n=1)
        raise PlanError(
            f"no {shelf[:-1]} is called {name!r}",
            help=f"did you mean `{close[0]}`?" if close else f"known: {', '.join(names(shelf))}",
            code="E121",
        )
    for value in vars(_shelf(shelf).own(name)).values():
        if isinstance(value, type) and getattr(value, "name", None) == name:
            return value
    raise PlanError(
        f"tauten.run.{shelf}.{name} holds no class named {name!r}",
        code="E121",
        help=f"name the class of {shelf}/{name}.py after its file",
    )
