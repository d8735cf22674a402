"""Answers of a search, kept beside the evidence for those who want to see what flipped: user data, so only when asked.

They are noted as they are judged, so that what is shown later is what was judged. A bound of bytes holds for all of
them together; beyond it none are kept, because evidence speaks for all items or for none.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tauten.improve.labels.answers import Answer, kept_answer, size_of, write_answers
from tauten.improve.quality import Evidence

if TYPE_CHECKING:
    from tauten.improve.replay import Served

MOST_BYTES: Final = 256_000_000  # five hundred spoken answers of ten seconds, both sides
BEFORE, AFTER = "before.jsonl", "after.jsonl"

Told = Mapping[str, Answer | None]
"""By item what was answered; None where there was no room left."""


class Keeper:
    """Answers in a folder, whose media lie beside them by content hash. `kept_bytes` is what this search has added."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder = folder
        self.most_bytes = most_bytes
        self.kept_bytes = 0

    def told(self, served: Served) -> Answer | None:
        """Note what a request was answered; None once there is no room. Raises MachineError."""
        size = sum(size_of(value) for value in served.values)
        if self.kept_bytes + size > self.most_bytes:
            self.kept_bytes = self.most_bytes  # the next one is not kept either, however short
            return None
        self.kept_bytes += size
        return kept_answer(served, self.folder)

    def beside(self, evidence: Evidence, path: Path, told: tuple[Told, Told], recording: str) -> Evidence:
        """Write the answers of both plans, and the evidence of that path with their names in it; as it was where one
        of them was not kept. Raises MachineError."""
        before, after = ([side.get(id) for id in evidence.items] for side in told)
        old, new = ([each for each in side if each is not None] for side in (before, after))
        if min(len(old), len(new)) < len(evidence.items):
            self.forget()
            return evidence
        write_answers(self.folder / BEFORE, old, plan=evidence.plan_before, recording=recording)
        write_answers(self.folder / AFTER, new, plan=evidence.plan_after, recording=recording)
        self.forget({each.file for each in (*old, *new)})
        where = self.folder.relative_to(path.parent)
        return msgspec.structs.replace(
            evidence, answers_before=str(where / BEFORE), answers_after=str(where / AFTER)
        )

    def forget(self, but: Collection[str] = ()) -> None:
        """Delete the media of answers that were judged and are not told of; with none told the folders, too."""
        media = self.folder / "media"
        for path in media.iterdir() if media.is_dir() else ():
            if f"media/{path.name}" not in but:
                path.unlink()
        for folder in (media, self.folder):
            with contextlib.suppress(OSError):  # something lies in it, or it never was there
                folder.rmdir()


def folder_of(plan: Path) -> Path:
    """Where the answers lie that speak for a plan file.

    >>> folder_of(Path("tuned.toml")).name
    'tuned.answers'
    """
    return plan.with_suffix(".answers")
