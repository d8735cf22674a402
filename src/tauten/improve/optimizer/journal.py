"""What an optimisation has measured so far, on the disk: who asks again for the same gets the same, so that a search
that was interrupted goes on where it was, and ends where it would have ended.

One JSON object a line, written as soon as it is known. What a crash cut off is passed over, and measured again.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tauten.describe.graph import FromStage, Graph, Listed, Source
from tauten.describe.payload import Text
from tauten.describe.slo import Slo
from tauten.improve.labelled import Mark
from tauten.improve.labels.answers import Answer
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.optimizer.testbed import Items, Runs, Scored, Testbed, Together
from tauten.improve.simulate.capture import Captured
from tauten.improve.simulate.costs import STILL, Moving
from tauten.improve.simulate.library import Held
from tauten.improve.simulate.tape import Tape, Visit
from tauten.plan.files import append
from tauten.plan.lower import lower
from tauten.plan.plan import Plan
from tauten.run.caching.holding import NotKept, held
from tauten.run.caching.naming import Nameless, content_name

LONGEST: Final = 20_000  # letters of a text that is kept: prompts and answers are whole, books are not


class Journal:
    """Answers by the question, in a file that only grows; without a path only in memory."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.known: dict[str, Any] = {}
        for line in path.read_bytes().splitlines() if path is not None and path.exists() else ():
            self._read(line)

    def _read(self, line: bytes) -> None:
        try:
            key, value = msgspec.json.decode(line, type=tuple[str, Any])
        except msgspec.DecodeError:  # cut off by a crash
            return
        self.known[key] = value

    def told(self, question: Any) -> Any:
        """The answer that is known; None where there is none yet."""
        return self.known.get(self._key(question))

    @staticmethod
    def _key(question: Any) -> str:
        return hashlib.sha256(msgspec.json.encode(question, order="deterministic")).hexdigest()

    def forget(self, question: Any) -> None:
        """Whoever asks next is told anew."""
        self.known.pop(self._key(question), None)

    def ask(self, question: Any, answer: Callable[[], Any]) -> Any:
        """The answer that is known, or the one that is found now, which is kept. Plain values only."""
        key = self._key(question)
        if key not in self.known:
            line = msgspec.json.encode((key, answer()))
            if self.path is not None:
                append(self.path, line)
            self.known[key] = msgspec.json.decode(line)[1]  # what is read later is what is used now
        return self.known[key]


class Remembered:
    """A testbed that asks a journal first. `answers` is where it keeps what was answered, if anywhere: what was judged
    without, or has gone from there, is judged again then. `marks` tells what an item's answers hang on beside the plan:
    what was answered or judged by something else is not the answer."""

    def __init__(
        self,
        testbed: Testbed,
        journal: Journal,
        graph: Graph,
        answers: str = "",
        *,
        marks: Callable[[str], Mark] = lambda id: Mark(""),
    ) -> None:
        self.testbed = testbed
        self.journal = journal
        self.graph = graph
        self.answers = answers
        self.marks = marks
        self.read = attributes(graph)

    def capture(self, plan: Plan, items: Items, only: Collection[str] = ()) -> Captured:
        asked = ["capture", plan.content.decode(), [id for id, _ in items], *sorted(only)]
        kept = self.journal.ask(asked, lambda: _kept(self.testbed.capture(plan, items, only), self.read))
        return _captured(kept, self.graph, plan, dict(items))

    def runs(self, plan: Plan, step: str, role: str, items: Items) -> Runs:
        asked = ["runs", plan.content.decode(), step, role, [id for id, _ in items]]
        found = self.journal.ask(asked, lambda: self.testbed.runs(plan, step, role, items))
        return [(weight, seconds) for weight, seconds in found]

    def streams(self, plan: Plan, step: str, role: str, items: Items) -> Together:
        asked = ["streams", plan.content.decode(), step, role, [id for id, _ in items]]
        found = self.journal.ask(asked, lambda: self.testbed.streams(plan, step, role, items))
        return tuple((int(streams), float(times)) for streams, times in found)

    def moving(self, plan: Plan, step: str, role: str, items: Items) -> Moving:
        """Not remembered where nothing is known: the machine's peaks may be by the next time."""
        asked = ["moving", plan.content.decode(), step, role, [id for id, _ in items]]
        known = self.journal.told(asked)
        found = Moving(*known) if known is not None else self.testbed.moving(plan, step, role, items)
        return Moving(*self.journal.ask(asked, lambda: found)) if found != STILL else STILL

    def held(self, plan: Plan, step: str, role: str, items: Items) -> Held:
        asked = ["held", plan.content.decode(), step, role, [id for id, _ in items]]
        found = self.journal.ask(asked, lambda: self.testbed.held(plan, step, role, items))
        return tuple((int(batch), int(held)) for batch, held in found)

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        """One question an item, so that more items later ask for these alone."""
        content = plan.content.decode()
        wanted = [id for id in ids if self._lacks(self._question(content, id))]
        fresh = self.testbed.scores(plan, wanted) if wanted else {}
        return {
            id: _scored(*self.journal.ask(self._question(content, id), lambda id=id: fresh[id]))  # type: ignore[misc]
            for id in ids
        }

    def alike(self, before: Plan, after: Plan, ids: Sequence[str]) -> dict[str, bool]:
        """One question an item, as for scores; that it cannot be told is not remembered."""
        contents = before.content.decode(), after.content.decode()
        questions = {id: ["alike", *contents, id, self.marks(id).inputs] for id in ids}
        wanted = [id for id, question in questions.items() if self.journal.told(question) is None]
        fresh = self.testbed.alike(before, after, wanted) if wanted else {}
        if wanted and not fresh:
            return {}
        return {
            id: bool(self.journal.ask(question, lambda id=id: fresh[id]))  # type: ignore[misc]
            for id, question in questions.items()
        }

    def bench(self, plans: Sequence[Plan], items: Items, load: Load, rounds: int, slo: Slo) -> list[Run]:
        """Never remembered: what is promised of a plan was measured just now."""
        return self.testbed.bench(plans, items, load, rounds, slo)

    def _question(self, content: str, id: str) -> list[str]:
        about = [content, id, *self.marks(id)]
        return ["answer", self.answers, *about] if self.answers else ["score", *about]

    def _lacks(self, question: list[str]) -> bool:
        """Whether a score has to be found; one whose answer was kept and has gone is forgotten."""
        known = self.journal.told(question)
        if known is None:
            return True
        told = _scored(*known).told
        if not self.answers or told is None or not told.file or (Path(self.answers) / told.file).is_file():
            return False
        self.journal.forget(question)
        return True


def _scored(score: float, answer: str, told: Any = None) -> Scored:
    return Scored(score, answer, None if told is None else msgspec.convert(told, Answer))


# -- tapes as plain values -----------------------------------------------------------------------------------


def attributes(graph: Graph) -> dict[str, set[str]]:
    """By step the attributes of its result that others take."""
    found: dict[str, set[str]] = {}

    def note(source: Source) -> None:
        if isinstance(source, Listed):
            for member in source.members:
                note(member)
        elif isinstance(source, FromStage) and source.attribute:
            found.setdefault(source.name, set()).add(source.attribute)

    for stage in graph.stages.values():
        for source in stage.inputs.values():
            note(source)
    return found


def _kept(seen: Captured, read: Mapping[str, set[str]]) -> dict[str, Any]:
    return {
        "tapes": [[_tape(tape, read) for tape in tapes] for tapes in seen.tapes],
        "slots": [[step, role, slots] for (step, role), slots in seen.slots.items()],
        "firsts": seen.firsts,
    }


def _tape(tape: Tape, read: Mapping[str, set[str]]) -> dict[str, Any]:
    return {
        "id": tape.id,
        "visits": {name: msgspec.to_builtins(visit, enc_hook=repr) for name, visit in tape.visits.items()},
        "values": {name: _value(value, read.get(name, ())) for name, value in tape.values.items()},
        "seconds": tape.seconds,
        "first_s": tape.first_s,
    }


def _captured(
    kept: Mapping[str, Any], graph: Graph, plan: Plan, inputs: Mapping[str, Mapping[str, Any]]
) -> Captured:
    tapes = [[_read(tape, inputs) for tape in each] for each in kept["tapes"]]
    slots = {(step, role): count for step, role, count in kept["slots"]}
    firsts = [(id, seconds) for id, seconds in kept.get("firsts", ())]
    return Captured(lower(graph, plan), tapes, slots, firsts)


def _read(kept: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]]) -> Tape:
    visits = {name: _visit(visit) for name, visit in kept["visits"].items()}
    values = {name: _stand_in(value) for name, value in kept["values"].items()}
    return Tape(kept["id"], inputs[kept["id"]], visits, values, kept["seconds"], kept["first_s"])


def _visit(kept: Any) -> Visit:
    for level in kept["levels"]:
        for chain in level["chains"]:
            for event in chain:
                event["group"] = _hashable(event.get("group"))
    return msgspec.convert(kept, Visit)


def _hashable(group: Any) -> Any:
    return tuple(_hashable(each) for each in group) if isinstance(group, list) else group


class Stand:
    """What stands for a value of which only its truth matters, and the attributes that other steps take.

    To a cache it is the value that it stands for: as large, and of the same content.
    """

    def __init__(self, truth: bool, fields: Mapping[str, Any], revision: str, size_bytes: int) -> None:
        self.truth = truth
        self.revision = revision or None
        self.size_bytes = size_bytes
        self.__dict__.update(fields)

    def __bool__(self) -> bool:
        return self.truth


def _value(value: Any, read: Iterable[str] = ()) -> Any:
    """A step's result as far as others hang on it: whether it is there, true, how long, which words."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | Text):
        text = value if isinstance(value, str) else value.text
        return {"text": text[:LONGEST], "kind": type(value).__name__}
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    return {
        "truth": _truth(value),
        "fields": {name: _value(getattr(value, name, None)) for name in sorted(read)},
        "content": _content(value),
    }


def _content(value: Any) -> tuple[str, int]:
    """The name and the size by which a cache knows it; empty where none would keep it."""
    try:
        return content_name(value).hex(), held(value)[1]
    except (Nameless, NotKept):
        return "", 0


def _truth(value: Any) -> bool:
    try:
        return bool(value)
    except (TypeError, ValueError):  # an array of several numbers: no condition can be made of it
        return True


def _stand_in(kept: Any) -> Any:
    if isinstance(kept, list):
        return [_stand_in(each) for each in kept]
    if isinstance(kept, dict):
        if "text" in kept:
            return Text(kept["text"]) if kept["kind"] == "Text" else kept["text"]
        fields = {name: _stand_in(field) for name, field in kept["fields"].items()}
        return Stand(kept["truth"], fields, *kept.get("content", ("", 0)))
    return kept
