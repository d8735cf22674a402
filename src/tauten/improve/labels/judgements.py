"""Judgements: what a person said of two answers; kept beside the recording, one move a line, only added to.

A line holds the two answers by content hash, in the order shown. Which plan gave which is not in it: that is
known to the files of answers alone, so the labels stay blind, and stay valid for any two plans that answer so.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Final, Literal, get_args

import msgspec

from tauten.errors import InputError, MachineError
from tauten.models.locks import Locks

NAME: Final = "labels.jsonl"  # in the recording's folder

Choice = Literal["left", "right", "equal", "both bad"]
CHOICES: Final[tuple[Choice, ...]] = get_args(Choice)


class Judgement(msgspec.Struct, frozen=True, tag_field="move", tag="label", forbid_unknown_fields=True):
    """One choice of one person. `left` and `right` are content hashes, `at` is ISO 8601 in UTC."""

    item: str
    left: str
    right: str
    choice: Choice
    seconds: float
    labeller: str
    at: str

    @property
    def pair(self) -> frozenset[str]:
        """The two answers, whichever stood where."""
        return frozenset((self.left, self.right))


class Undo(msgspec.Struct, frozen=True, tag_field="move", tag="undo", forbid_unknown_fields=True):
    """Takes back the last judgement of a labeller that still stands."""

    labeller: str
    at: str


class _Header(msgspec.Struct):
    schema: Literal["tauten.labels/1"]


_decode = msgspec.json.Decoder(Judgement | Undo).decode


class Judgements:
    """The file of labels of a recording. Several labellers may write to it at the same time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._locks = Locks(folder / ".locks")

    def read(self) -> list[Judgement]:
        """All that stand, oldest first; a last line that a crash left unfinished was never acknowledged.

        Raises InputError for any other line that cannot be read.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is unfinished
        standing: list[Judgement] = []
        for number, line in enumerate(lines, 1):
            try:
                move = msgspec.json.decode(line, type=_Header) if number == 1 else _decode(line)
            except (ValueError, msgspec.MsgspecError) as error:
                raise self._unreadable(number, str(error)) from error
            if isinstance(move, Judgement):
                standing.append(move)
            elif isinstance(move, Undo):
                _take_back(standing, move.labeller)
        return standing

    def add(self, move: Judgement | Undo) -> None:
        """Append one move; once this returns it survives a crash. Raises MachineError when the disk refuses."""
        try:
            with self._locks.hold(self.path.name), self.path.open("a+b") as file:
                new = _drop_unfinished(file)
                head = msgspec.json.encode(_Header("tauten.labels/1")) + b"\n" if new else b""
                file.write(head + msgspec.json.encode(move) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if new:
                _sync_folder(self.path.parent)
        except OSError as error:
            raise MachineError(
                f"cannot keep a label in {self.path.name}: {error.strerror}",
                help="free some disk, or make the recording's folder writable; no label before it is lost",
                code="E302",
            ) from error

    def last(self, labeller: str) -> Judgement | None:
        """What an `Undo` of this labeller would take back."""
        return next((each for each in reversed(self.read()) if each.labeller == labeller), None)

    def _unreadable(self, number: int, reason: str) -> InputError:
        return InputError(
            f"line {number} of {self.path.name} is not a label: {reason}",
            help="delete that line, or restore the file; the other labels are whole",
            code="E257",
        )


def _take_back(standing: list[Judgement], labeller: str) -> None:
    for place in range(len(standing) - 1, -1, -1):
        if standing[place].labeller == labeller:
            del standing[place]
            return


def _drop_unfinished(file: IO[bytes]) -> bool:
    """Cut off what a crash left after the last newline; whether the file is empty then."""
    file.seek(0)
    data = file.read()
    if not data.endswith(b"\n"):
        file.truncate(data.rfind(b"\n") + 1)
    return b"\n" not in data


def _sync_folder(folder: Path) -> None:
    """A new file's name survives a crash, too."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
