"""The answers of one plan to a recording, kept as a file: JSON lines, media beside it by content hash."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from tauten.describe.payload import Json, Payload, Text
from tauten.errors import InputError, MediaError
from tauten.improve.quality import Evidence
from tauten.plan.files import replace

if TYPE_CHECKING:
    from tauten.improve.replay import Served

EVIDENCE: Final = b'"tauten.evidence/1"'  # stands early in a file of evidence
EARLY: Final = 200  # bytes; the schema is the first field
MEDIA_TYPE: Final = r"\A(?:[\w.+-]+/[\w.+-]+)?\Z"  # it becomes a header, and part of a file's name


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one request got: text, one medium, both, or the error that ended it."""

    id: str
    text: str = ""
    file: str = ""  # the medium, by its path from the answers file
    type: Annotated[str, msgspec.Meta(pattern=MEDIA_TYPE)] = ""  # its media type
    hash: str = ""  # of its bytes and type, as `Payload.hash`
    error: str = ""

    @property
    def content(self) -> str:
        """SHA-256, in hex, of what a reader could tell apart: two answers with one content are identical."""
        told = [self.text, self.type, self.hash, self.error]
        return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


class _Header(msgspec.Struct, omit_defaults=True):
    schema: Literal["tauten.answers/1"]
    plan: str = ""
    recording: str = ""


class Answers:
    """Answers by item, and where they came from. Media lie beside the file at `path`."""

    def __init__(
        self, answers: Iterable[Answer], *, plan: str = "", recording: str = "", path: Path = Path()
    ) -> None:
        self.by_item = {answer.id: answer for answer in answers}
        self.plan = plan
        self.recording = recording
        self.path = path

    def __len__(self) -> int:
        return len(self.by_item)

    def medium(self, answer: Answer) -> Payload:
        """The medium of an answer; raises MediaError when it is gone or not what was kept."""
        folder = self.path.parent
        path = folder / answer.file
        inside = path.resolve().is_relative_to(folder.resolve())
        if not inside or not path.is_file():
            raise MediaError(f"the answers lack {answer.file}", help="copy the whole folder", code="E247")
        payload = Payload(path.read_bytes(), answer.type)
        if payload.hash != answer.hash:
            raise MediaError(
                f"{answer.file} holds other bytes than were answered", help="run the plan again", code="E247"
            )
        return payload

    @classmethod
    def load(cls, path: Path) -> Answers:
        """Read a file of answers, or one of evidence: that names the answers of the plan it speaks for."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, str(error)) from error
        return _of_evidence(path) if EVIDENCE in data[:EARLY] else _parsed(path, data)


def _parsed(path: Path, data: bytes) -> Answers:
    try:
        first, *rest = data.splitlines()
        header = msgspec.json.decode(first, type=_Header)
        answers = [msgspec.json.decode(line, type=Answer) for line in rest if line]
    except (ValueError, msgspec.MsgspecError) as error:
        raise _unreadable(path, str(error)) from error
    if len({answer.id for answer in answers}) < len(answers):
        raise _unreadable(path, "an item is answered twice")
    return Answers(answers, plan=header.plan, recording=header.recording, path=path)


def _of_evidence(path: Path) -> Answers:
    """The answers that evidence was made of; raises InputError when they have changed since."""
    evidence = Evidence.load(path)
    if not evidence.answers_after:
        raise _unreadable(path, "this evidence names no file of answers")
    named = path.parent / evidence.answers_after
    found = _parsed(named, named.read_bytes()) if named.is_file() else Answers([])
    for item, scored in evidence.items.items():
        answer = found.by_item.get(item)
        if answer is None or scored.answer_after not in ("", answer.content):
            raise _unreadable(path, f"{named.name} does not hold the answer to {item} that was judged")
    return found


def _unreadable(path: Path, reason: str) -> InputError:
    return InputError(
        f"cannot read answers from {str(path)!r}: {reason}",
        help="give a file that keep_answers wrote, or the evidence of a plan whose answers were kept",
        code="E249",
    )


def keep_answers(path: Path, served: Iterable[Served], *, plan: str = "", recording: str = "") -> Answers:
    """Write what each request of a replay yielded; a failed one is kept as its error. Raises MachineError."""
    return write_answers(
        path, [kept_answer(each, path.parent) for each in served], plan=plan, recording=recording
    )


def write_answers(path: Path, answers: Iterable[Answer], *, plan: str = "", recording: str = "") -> Answers:
    """Write answers whose media lie beside the file already. Raises MachineError."""
    every = list(answers)
    head = msgspec.json.encode(_Header("tauten.answers/1", plan, recording))
    replace(path, b"\n".join([head, *map(msgspec.json.encode, every)]) + b"\n")
    return Answers(every, plan=plan, recording=recording, path=path)


def kept_answer(served: Served, folder: Path) -> Answer:
    """What a request yielded; its medium is written into the folder. Raises MachineError."""
    id, error = served.id, served.error
    if error is not None:  # what came before it was no answer
        return Answer(id, error=str(getattr(error, "code", type(error).__name__)))
    media = media_of(served.values)
    words = [_words(value) for value in served.values if not any(value is each for each in media)]
    if not media:
        return Answer(id, "".join(words))
    whole = Payload(b"".join(each.data for each in media), media[0].type)
    name = f"media/{whole.hash}.{whole.type.split('/')[-1].removeprefix('x-')}"
    replace(folder / name, whole.data)
    return Answer(id, "".join(words), name, whole.type, whole.hash)


def media_of(values: Iterable[Any]) -> list[Payload]:
    """What of an answer is no text."""
    return [each for each in values if isinstance(each, Payload) and not isinstance(each, Text | Json)]


def size_of(value: Any) -> int:
    """Bytes that an increment of an answer takes where it is kept, words by their letters."""
    media = media_of([value])
    return media[0].size_bytes if media else len(_words(value))


def _words(value: Any) -> str:
    """A value as a reader sees it: its own words where it has any, else JSON."""
    if isinstance(value, Json):
        value = value.value
    elif isinstance(value, Text | str) or any("__str__" in vars(base) for base in type(value).__mro__[:-1]):
        return str(value)
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=str)).decode()


def paired(before: Answers, after: Answers) -> Mapping[str, tuple[Answer, Answer]]:
    """Both answers of each item; raises InputError when one side lacks an item."""
    lonely = sorted(before.by_item.keys() ^ after.by_item.keys())
    if lonely or not len(before):
        raise InputError(
            f"{len(lonely)} items were answered by one side only: {', '.join(lonely[:5])}"
            if lonely
            else "no answers to compare",
            help="run the same recording through both plans; a failed request is an answer, too",
            code="E254",
        )
    return {item: (answer, after.by_item[item]) for item, answer in before.by_item.items()}
