"""A slot backend's queue: at most `slots` streams run, the rest wait by slack, priority and tenant."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any

from tauten.clock import Clock
from tauten.run.contracts import Chunk, SlotBackend
from tauten.run.deploy.core_share import CoreShare
from tauten.run.deploy.estimates import Streams
from tauten.run.deploy.queueing import QUEUE_BOUND, WORK_S, ZOMBIE_S, Entry, Queued, View
from tauten.run.request import Request

CHARACTERS_A_TOKEN = 4.0  # of a prompt, about; only ratios between prompts matter
MANY = 16  # streams, one after the other with all slots: work is averaged over no less, or it jumps


class SlotDeployment(Queued):
    """A slot backend's queue. The engine behind it batches; here is decided who may enter it."""

    kind = "slots"

    def __init__(self, backend: SlotBackend, *, label: str, clock: Clock, bound: int = QUEUE_BOUND) -> None:
        super().__init__(label, clock, bound)
        self.backend = backend
        self.streams = Streams()
        self._open: dict[Entry, float] = {}  # running streams, and when each is predicted to end
        self._cores = CoreShare(lambda: getattr(backend, "worker_pid", None))

    async def open(self) -> None:
        await self.backend.open()

    @property
    def capacity(self) -> int:
        """Streams that run at once."""
        return self.backend.slots

    @property
    def at_work(self) -> int:
        """Open streams."""
        return len(self._open)

    @property
    def properties(self) -> Mapping[str, str]:
        return self.backend.properties()

    async def stream(self, request: Request, step: str, item: Mapping[str, Any]) -> AsyncIterator[Chunk]:
        """Yield a stream's chunks; records queue, prefill, tokens and loop rows and books the usage.

        Raises Overloaded when the queue is full or the deadline could not be met.
        """
        prompt = _prompt_tokens(item)
        most = float(item.get("max_tokens") or math.inf)
        entry = await self._enter(request, step, prompt, most)
        rows = request.trace.rows
        told = getattr(self.backend, "start_for", None)  # writes its own rows for the time between the chunks
        started = last = self.clock()
        rows.append((step, "queue", entry.queued, started))
        mark = self._cores.enter()
        first_s = tokens = cached = 0.0
        read = prompt
        first = True
        chunks = self.backend.start(item) if told is None else told(request, step, item)
        try:
            async for chunk in chunks:
                seen = self.clock()
                made = min(max(chunk.at or seen, last), seen)
                if told is None:
                    rows.append((step, "prefill" if first else "tokens", last, made))
                rows.append((step, "loop", made, seen))
                if first:
                    first_s, first = made - started, False
                last = made
                tokens += chunk.tokens
                for unit, amount in chunk.usage.items():
                    if amount:
                        request.trace.spent.append((step, unit, amount))
                cached = chunk.usage.get("cached_tokens", cached)
                read = chunk.usage.get("input_tokens", read)
                if chunk.done:
                    self.done += 1
                    self._was_in_time(entry)
                    self.streams.spelled(prompt * CHARACTERS_A_TOKEN, chunk.usage.get("input_tokens", 0.0))
                    self.streams.observe(prompt, first_s, last - started - first_s, tokens, seen)
                yield chunk
        finally:
            entry.left = self.clock()
            core_s = self._cores.leave(mark)
            call = (step, self.label, entry.queued, started, last, entry.left)
            request.trace.calls.append((*call, read, None, 1, "", started + first_s, tokens, cached, core_s))
            if entry.left >= entry.deadline:
                self._was_late(entry)
            try:
                if hasattr(chunks, "aclose"):
                    await chunks.aclose()  # a reader that leaves stops the engine before its slot is given on
            finally:
                self._leave(entry)

    # -- slots -------------------------------------------------------------------------------------------------

    async def _enter(self, request: Request, step: str, prompt: float, most: float) -> Entry:
        """Admit a stream, and wait for its slot."""
        now = self.clock()
        if request.coming:
            self.came(request)
        own_s = self.streams.expected(prompt, most)
        after_s = 0.0
        if request.after:
            after_s = request.after.get(step.partition("[")[0] if "[" in step else step, 0.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = Entry(request, own_s or 1.0, now, turn)
        entry.after, entry.due = after_s, entry.due - own_s - after_s
        if request.deadline != math.inf and own_s and not request.admitted and self._known(now):
            self._check_time(request, entry, own_s, now)
        waits = self.queue.live or len(self._open) >= self.backend.slots
        if waits:
            if self.closed:
                raise self.gone()
            self._check_room(request, self.bound)
            self.queue.push(entry)
        self._note(request, own_s / self.backend.slots, now)
        if waits:
            await self._turn(entry, turn)
        self._begin(entry, own_s, self.clock())
        return entry

    async def _turn(self, entry: Entry, turn: asyncio.Future[None]) -> None:
        """Wait until a slot is given; raises what ended it before."""
        try:
            await turn
        except BaseException:
            if entry.taken:
                self._leave(entry)  # the turn came as the request left: pass it on
            else:
                if entry.error is None:  # else it left the queue when it was given up
                    self.queue.left(entry)
                if self.clock() >= entry.deadline:
                    self._was_late(entry)
            raise
        if entry.error is not None:
            raise entry.error

    def _begin(self, entry: Entry, own_s: float, now: float) -> None:
        entry.taken = True
        entry.started = now
        self._open[entry] = now + own_s
        self.batches += 1

    def _leave(self, entry: Entry) -> None:
        """A slot is free: the most urgent who can still be in time takes it."""
        self._open.pop(entry, None)
        while len(self._open) < self.backend.slots:
            now = self.clock()
            following = self.queue.pop()
            if following is None:
                return
            first_s = self.streams.first.low_of(0.0)
            if self.streams.fresh(now) and now + first_s + following.after > following.deadline:
                self._was_late(following)
                following.fail(self._hopeless(first_s + following.after, following.deadline - now))
                continue
            following.taken = True
            self._open[following] = now
            following.settle()

    # -- predictions -------------------------------------------------------------------------------------------

    def _usual_s(self) -> float:
        return 0.0  # nothing of its own was added

    def _span_s(self) -> float:
        mean_s = self.streams.expected(self.streams.prompt, math.inf)
        return max(WORK_S, MANY * mean_s / self.backend.slots)

    def _known(self, now: float) -> bool:
        return self.streams.fresh(now) or (self.streams.settled and len(self._open) >= self.backend.slots)

    def _wait_for(self, ahead: int, now: float) -> float:
        """The slots free one after the other; each of those ahead takes one for a mean stream."""
        free = self.backend.slots - len(self._open)
        if free > ahead:
            return 0.0
        mean_s = self.streams.expected(self.streams.prompt, math.inf)
        ends = sorted(abs(end - now) for end in self._open.values())  # overdue: as long again
        rounds, place = divmod(ahead - free, max(len(ends), 1))
        return (ends[min(place, len(ends) - 1)] if ends else 0.0) + rounds * mean_s

    def zombies(self) -> int:
        """Streams that still run, here or in the engine, for requests that ended more than 100 ms ago."""
        late = self.clock() - ZOMBIE_S
        here = sum(1 for entry in self._open if entry.left and entry.left < late)
        return here + sum(1 for since in self.backend.lingering() if since < late)

    def view(self) -> View:
        """What metrics show of it."""
        slots = self.backend.slots
        streams = self.streams
        now = self.clock()
        duration_ms = {
            "first": streams.first.of_weight(streams.prompt) * 1e3,
            "token": streams.token_s * 1e3,
            "mean": streams.expected(streams.prompt, math.inf) * 1e3,
        }
        running = len(self._open)
        return self._view(running, slots, slots - running, duration_ms, lambda: self.wait_s(0, now))

    async def close(self) -> None:
        """Fail what waits for a slot, then stop the engine."""
        self.closed = True
        for entry in list(self.queue):
            self._drop(entry, self.gone())
        await self.backend.close()


def _prompt_tokens(item: Mapping[str, Any]) -> float:
    """The size of a prompt, about."""
    if "prompt" in item:
        return len(str(item["prompt"])) / CHARACTERS_A_TOKEN
    messages = item.get("messages") or ()
    return sum(_characters(each.get("content", "")) for each in messages) / CHARACTERS_A_TOKEN


def _characters(content: Any) -> int:
    """Of a message; of one in parts those of its texts: pictures and sound have no characters."""
    if isinstance(content, list):
        return sum(len(each["text"]) for each in content if isinstance(each, Mapping) and "text" in each)
    return len(str(content))
