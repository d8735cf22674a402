"""One labeller at work: the pair to look at, the choice, the undo, and what may be told without a hint."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tauten.clock import Clock, real
from tauten.describe.payload import Payload, Text
from tauten.errors import InputError
from tauten.improve.labels.answers import Answer, Answers, paired
from tauten.improve.labels.judgements import Choice, Judgement, Judgements, Undo
from tauten.improve.labels.pairs import Comparison, Pair
from tauten.improve.labels.progress import Progress
from tauten.improve.quality import check_margin
from tauten.improve.recording import Recording

TOLD_EVERY = 10  # labels; a figure that moved with each would tell what the last one did to the verdict


def now() -> str:
    """This instant in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Part(NamedTuple):
    """Something to look at: `side` is question, left or right; `name` that of the input, else the side."""

    side: str
    name: str
    payload: Payload


class Session:
    """Labels pairs of answers for one person. Every choice is on disk before the next pair is shown."""

    def __init__(
        self,
        folder: Path,
        before: Answers,
        after: Answers,
        *,
        labeller: str,
        margin: float,
        confidence: float = 0.95,
        seed: int = 0,
        clock: Clock = real,
        date: Callable[[], str] = now,
    ) -> None:
        check_margin(margin)
        self.recording = Recording.load(folder)
        self.judgements = Judgements(folder)
        self.labeller = labeller
        self.margin = margin
        self.confidence = confidence
        self.seed = seed
        self._before = before
        self._after = after
        self._pairs = paired(before, after)
        self._items = {item.id: item for item in self.recording}
        self._clock = clock
        self._date = date
        self._shown: tuple[Pair, float] | None = None
        self._foreseen: tuple[int, int | None] = (-1, None)  # at how many labels, how many more
        _check_items(self._pairs, self.recording)
        self._refresh()

    def _refresh(self) -> None:
        """Read what everybody has said by now."""
        self.progress = self._progress(self.judgements.read())
        said = self.progress.comparison.judgements
        kept = len(said) - len(said) % TOLD_EVERY
        if kept != self._foreseen[0]:
            self._foreseen = kept, self._progress(said[:kept]).more

    def _progress(self, judgements: list[Judgement]) -> Progress:
        return Progress(Comparison(self._pairs, judgements), self.margin, self.confidence)

    # -- the work -----------------------------------------------------------------------------------------

    def pair(self) -> Pair | None:
        """The pair to judge now; None when the verdict stands or nothing is left. Asked again, the same one."""
        if self._shown is None and self.progress.decision == "cannot conclude":
            comparison = self.progress.comparison
            queue = comparison.queue(self.labeller, self.seed)
            if queue:
                pair = comparison.pair(queue[0], self.labeller, self.seed)
                self._shown = pair, self._clock()
        return self._shown[0] if self._shown is not None else None

    def choose(self, choice: Choice) -> None:
        """Keep the choice for the pair that is shown; raises InputError when none is."""
        if self._shown is None:
            raise InputError("no pair is shown", help="ask for the next pair first", code="E257")
        pair, since = self._shown
        seconds = round(self._clock() - since, 1)
        hashes = (pair.left.content, pair.right.content)
        self.judgements.add(Judgement(pair.item, *hashes, choice, seconds, self.labeller, self._date()))
        self._shown = None
        self._refresh()

    def undo(self) -> bool:
        """Take back this labeller's last choice, whose pair is then shown again.

        False when there is none, or when it was about the answers of other plans.
        """
        last = self.judgements.last(self.labeller)
        if last is None or last not in self.progress.comparison.judgements:
            return False
        self.judgements.add(Undo(self.labeller, self._date()))
        self._refresh()
        self._shown = self.progress.comparison.pair(last.item, self.labeller, self.seed), self._clock()
        return True

    # -- what is shown ------------------------------------------------------------------------------------

    def parts(self, pair: Pair) -> list[Part]:
        """All that there is to see of a pair, in the order in which one looks at it."""
        asked = self._items[pair.item].inputs
        shown = [Part("question", name, payload) for name, payload in asked.items()]
        for side, answer in (("left", pair.left), ("right", pair.right)):
            shown += [Part(side, side, payload) for payload in self._payloads(answer)]
        return shown

    def _payloads(self, answer: Answer) -> list[Payload]:
        if answer.error:
            return [Text(f"(no answer: {answer.error})")]
        home = self._before if self._before.by_item[answer.id] is answer else self._after
        text: list[Payload] = [Text(answer.text)] if answer.text or not answer.file else []
        return text + ([home.medium(answer)] if answer.file else [])

    def told(self) -> str:
        """How far it is, without a hint which side a choice helped: the figure moves every ten labels."""
        comparison = self.progress.comparison
        mine = sum(each.labeller == self.labeller for each in comparison.judgements)
        left = len(comparison.queue(self.labeller, self.seed))
        return f"{mine} labelled, at most {left} to go; {self._outlook()}"

    def _outlook(self) -> str:
        if self.progress.decision != "cannot conclude":
            return "enough for a verdict"
        foreseen, more = self._foreseen
        if more is None:
            return "probably too few items for a verdict"
        since = len(self.progress.comparison.judgements) - foreseen
        return f"about {max(1, more - since)} more for a verdict"


def _check_items(items: Iterable[str], recording: Recording) -> None:
    strange = sorted(set(items) - {item.id for item in recording})
    if strange:
        raise InputError(
            f"{len(strange)} answered items are not in the recording {recording.name!r}: {strange[0]}",
            help="give the recording that the answers were made of",
            code="E249",
        )
