"""What a deployment learns while it runs: how long batches take, and who is about to come back.

Durations are a line over the batch's weight, fitted with forgetting, times a distribution of what really
came out of it. Arrivals are seen twice: as a rate, and as clients that return after they were answered,
which a rate cannot see.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import deque

from tauten.run.deploy.scheduling import Forecast

MEMORY = 0.98  # of older runs' weight a run: about the last 50 count
RATIOS = 128  # runs whose spread is kept: the 99th percentile is the largest but one
RESORT = 16  # runs between two looks at the spread
SETTLED = 3  # runs: the first ones of a model carry its warm-up
STALE_S = 1.0  # without a run: then a refusal would never be found wrong
HIGH, LOW = 0.99, 0.05  # quantiles: what is promised, and what is surely too late
USUAL_CHARACTERS = 4.0  # a token, of English
LEAST_CHARACTERS, MOST_CHARACTERS = (
    0.25,
    16.0,
)  # a token: beyond it the count was of something else than the text
_OLD = 64  # groups answered since clients were seen to return undisturbed: a trial costs a part of one run
_SLOWER = 2.0  # times the usual: nobody is so slow because nothing runs; it was somebody else
_FEW = 2  # groups of clients that came back: before, nothing is said of them
MOST_HIGH = 4.0  # times the mean: a run beyond that was the machine's stall, no property of the model


class Durations:
    """How long a batch runs, by its number of items and its weight."""

    __slots__ = (
        "_next",
        "_per_item",
        "_ratios",
        "_s0",
        "_sx",
        "_sxx",
        "_sxy",
        "_sy",
        "fixed_s",
        "high",
        "last",
        "low",
        "middle",
        "runs",
        "slope_s",
        "stale_s",
    )

    def __init__(self) -> None:
        self.runs = 0
        self.last = -math.inf  # when the newest run ended
        self.fixed_s = 0.0  # of a batch of nothing
        self.slope_s = 0.0  # a unit of weight
        self.stale_s = -1.0  # after `last`, from when on nothing is refused by these estimates
        self.high = self.middle = self.low = 1.0  # quantiles of (measured / line)
        self._per_item = 1.0  # mean weight of an item
        self._ratios: deque[float] = deque(maxlen=RATIOS)
        self._next = RESORT
        self._clear()

    def _clear(self) -> None:
        self._s0 = self._sx = self._sy = self._sxx = self._sxy = 0.0

    def observe(self, count: float, weight: float, seconds: float, now: float) -> None:
        """Count one run of a batch."""
        self.last = now
        self.runs += 1
        if self.runs <= SETTLED:
            self._clear()  # the newer of the first runs replaces the older
            self._per_item = weight / count
        else:
            line = self.fixed_s + self.slope_s * weight
            if line > 0.0:
                self._ratios.append(seconds / line)
        self._per_item += (weight / count - self._per_item) * 0.05
        self._s0 = self._s0 * MEMORY + 1.0
        self._sx = self._sx * MEMORY + weight
        self._sy = self._sy * MEMORY + seconds
        self._sxx = self._sxx * MEMORY + weight * weight
        self._sxy = self._sxy * MEMORY + weight * seconds
        self._solve(seconds)
        if self.runs >= SETTLED:
            self.stale_s = max(STALE_S, 4 * seconds)
        if self.runs >= self._next:
            self._spread()

    def _solve(self, seconds: float) -> None:
        """The line of least squares; where only one weight was seen, all of a run's time is fixed."""
        s0, sx = self._s0, self._sx
        spread = s0 * self._sxx - sx * sx
        if spread > 1e-6 * s0 * self._sxx:
            slope = (s0 * self._sxy - sx * self._sy) / spread
            fixed = (self._sy - slope * sx) / s0
            if slope >= 0.0 and fixed >= 0.0:
                self.slope_s, self.fixed_s = slope, fixed
                return
            if slope > 0.0:  # through the origin: no cost of a batch by itself
                self.slope_s, self.fixed_s = self._sxy / self._sxx, 0.0
                return
        self.slope_s, self.fixed_s = 0.0, self._sy / s0

    def _spread(self) -> None:
        self._next = self.runs + RESORT
        ordered = sorted(self._ratios)
        if ordered:
            last = len(ordered) - 1
            self.high = min(MOST_HIGH, max(1.0, ordered[math.ceil(HIGH * last)]))
            self.middle = ordered[last // 2]
            self.low = min(1.0, ordered[int(LOW * last)])

    def fresh(self, now: float) -> bool:
        """Whether there is an estimate to refuse by."""
        return now - self.last < self.stale_s

    @property
    def settled(self) -> bool:
        """Whether enough runs were seen to say anything."""
        return self.runs >= SETTLED

    def of_weight(self, weight: float) -> float:
        """Mean seconds of a batch of that weight; 0.0 without any run."""
        return self.fixed_s + self.slope_s * weight

    def expected(self, count: int) -> float:
        """Mean seconds of a batch of so many items of the usual weight; 0.0 without any run."""
        return self.fixed_s + self.slope_s * self._per_item * count

    def high_of(self, weight: float) -> float:
        """Seconds that 99 of 100 batches of that weight do not exceed."""
        return self.high * (self.fixed_s + self.slope_s * weight)

    def usual_of(self, weight: float) -> float:
        """Seconds that every second batch of that weight does not exceed: stalls of the machine do not raise it."""
        return self.middle * (self.fixed_s + self.slope_s * weight)

    def low_of(self, weight: float) -> float:
        """Seconds that 95 of 100 batches of that weight exceed."""
        return self.low * (self.fixed_s + self.slope_s * weight)

    def quantiles_ms(self) -> dict[str, float]:
        """Quantiles of a run of one item, for metrics."""
        one = self.expected(1) * 1e3
        return {"p05": one * self.low, "mean": one, "p99": one * self.high}


class Returns:
    """How long it takes until all are back who were answered together, as TCP estimates its round trips."""

    __slots__ = ("deviation_s", "mean_s", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.mean_s = self.deviation_s = 0.0

    def see(self, seconds: float) -> None:
        self.seen += 1
        error = seconds - self.mean_s
        if self.seen <= 8:
            self.mean_s += error / self.seen
            self.deviation_s = self.mean_s / 2
        else:
            self.mean_s += error / 8
            self.deviation_s += (abs(error) - self.deviation_s) / 4

    @property
    def back_s(self) -> float:
        """Until they are almost surely all back."""
        return self.mean_s + 3 * self.deviation_s


class Arrivals:
    """Who comes: a rate, and clients that come back after they were answered.

    Each arrival is taken for the return of the client that was answered longest ago. In a closed loop
    that gives the time they need to return; among strangers it gives long, useless times, and then
    nobody is waited for.

    While a batch runs it takes cores from the clients, and they return late. Where batches always run, as with
    two crowds of clients in turn, that time says nothing of how soon they would be back if nothing ran: then it
    counts as unknown, and is tried.
    """

    __slots__ = ("_age", "_answered", "_quiet", "_quiet_since", "_recent", "_usual", "misses", "skip")

    def __init__(self) -> None:
        self._answered: deque[list[float]] = deque()  # [when, how many are not back]
        self._recent: deque[float] = deque(maxlen=64)  # arrivals; 64 give the rate to 25 %
        self._usual = Returns()
        self._quiet = Returns()  # of those who met no run on their way
        self._age = 0  # groups answered since the newest of them
        self._quiet_since = -math.inf  # when a replica became idle; inf while none is
        self.misses = 0  # waits in a row for which too few came
        self.skip = 0  # chances to wait that are let go, because of those

    def came(self, now: float, count: int = 1) -> None:
        recent, answered = self._recent, self._answered
        for _ in range(count):
            recent.append(now)
        while count and answered:
            group = answered[0]
            if group[1] > count:
                group[1] -= count
                return
            count -= int(group[1])
            answered.popleft()
            when = group[0]
            self._usual.see(now - when)
            if when >= self._quiet_since:
                self._undisturbed(now - when)

    def busy(self) -> None:
        """All replicas run from now on."""
        self._quiet_since = math.inf

    def idle(self, now: float) -> None:
        """One has nothing to run."""
        self._quiet_since = min(self._quiet_since, now)

    def _undisturbed(self, seconds: float) -> None:
        if self._age > _OLD:
            self._quiet = Returns()
        self._age = 0
        self._quiet.see(seconds)

    def went(self, now: float, count: int) -> None:
        """So many were answered."""
        self._age += 1
        self._answered.append([now, float(count)])
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Those who are long overdue have left for good."""
        answered = self._answered
        if self._usual.seen < _FEW:
            while len(answered) > 64:
                answered.popleft()
            return
        old = now - 4 * self._usual.back_s - 0.001
        while answered and answered[0][0] < old:
            answered.popleft()

    def rate(self, now: float) -> float:
        """Arrivals a second of late; 0.0 before there were a few."""
        recent = self._recent
        span = now - recent[0] if len(recent) > 7 else 0.0
        return (len(recent) - 1) / span if span > 0.0 else 0.0

    def forecast(self, now: float) -> Forecast:
        """Who is likely to come, as seen now."""
        rate = self.rate(now)
        usual, quiet, since = self._usual, self._quiet, self._quiet_since
        if usual.seen < _FEW or not self._answered:
            return Forecast(rate=rate)
        known = quiet.seen >= _FEW and self._age <= _OLD and quiet.mean_s < _SLOWER * usual.mean_s
        if known:
            self._miss(now)
        usual_s, quiet_s = usual.back_s, quiet.back_s
        count, left_s, latest_s = 0.0, 0.0, 0.0
        for when, many in self._answered:
            until = when + usual_s
            if known:
                until = min(until, max(when, since) + quiet_s)
            if until > now:
                count += many
                latest_s = until - now
                left_s = max(latest_s - 3 * quiet.deviation_s, latest_s / 3)
        return Forecast(int(count), left_s if known else None, latest_s, rate)

    def _miss(self, now: float) -> None:
        """Who is not back though nothing held him up has left, or is slower than was thought; arrivals are then
        those of others."""
        answered, since, back_s = self._answered, self._quiet_since, self._quiet.back_s
        while answered and max(answered[0][0], since) + back_s <= now:
            when = answered.popleft()[0]
            if when >= since:
                self._undisturbed(now - when)

    def held(self, enough: bool) -> None:
        """A wait is over: where too few came, the next chances are let go, twice as many each time."""
        if enough:
            self.misses = 0
        else:
            self.misses = min(self.misses + 1, 6)
            self.skip = (1 << self.misses) - 1

    def may_hold(self) -> bool:
        if self.skip:
            self.skip -= 1
            return False
        return True


class Streams:
    """How long a stream of a slot backend runs: its first token by the prompt, then by the token."""

    __slots__ = ("_seen", "characters_a_token", "first", "prompt", "token_s", "tokens")

    def __init__(self) -> None:
        self.first = Durations()  # by the prompt's size
        self.token_s = 0.0  # at the concurrency of late
        self.tokens = 0.0  # of an answer, mean
        self.prompt = 0.0  # its size, mean
        self.characters_a_token = USUAL_CHARACTERS  # of its prompts, until they were counted
        self._seen = 0

    def spelled(self, characters: float, tokens: float) -> None:
        """Count a prompt whose tokens the model has told."""
        if characters > 0 and tokens > 0:
            ratio = min(MOST_CHARACTERS, max(LEAST_CHARACTERS, characters / tokens))
            gain = max(0.05, 1.0 / (self._seen + 1))
            self.characters_a_token += (ratio - self.characters_a_token) * gain

    def observe(self, prompt: float, first_s: float, rest_s: float, tokens: float, now: float) -> None:
        """Count one stream that came to its end."""
        self.first.observe(1, prompt, first_s, now)
        self._seen += 1
        gain = max(0.05, 1.0 / self._seen)
        self.prompt += (prompt - self.prompt) * gain
        self.tokens += (tokens - self.tokens) * gain
        if tokens > 0:
            self.token_s += (rest_s / tokens - self.token_s) * gain

    def expected(self, prompt: float, most: float) -> float:
        """Mean seconds of a stream with that prompt and at most so many tokens; 0.0 without any."""
        if not self.first.runs:
            return 0.0
        return self.first.of_weight(prompt) + self.token_s * min(self.tokens, most)

    @property
    def settled(self) -> bool:
        """Whether enough streams were seen to say anything."""
        return self.first.runs >= SETTLED

    def fresh(self, now: float) -> bool:
        return self.settled and now - self.first.last < max(5.0, 4 * self.expected(self.prompt, math.inf))
