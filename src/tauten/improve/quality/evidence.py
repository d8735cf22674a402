"""Evidence: the scores behind a verdict, in a file beside the plan that it speaks for; checked when it is read.

Nothing in it has to be believed: the verdict is reached again from the scores, by the same method.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from statistics import fmean
from typing import Final, Self

import msgspec

from tauten.errors import InputError
from tauten.improve.quality.verdict import Verdict, compare
from tauten.plan.files import replace

SCHEMA: Final = "tauten.evidence/1"
ALIKE = 1e-6  # two figures that differ by less are the same: sums of floats in another order


class Scored(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One item's scores (0..1), the hashes of the two answers, and the cluster that it belongs to.

    `alike`: what differs between the plans gave it the same, so it was not run to its end; its scores are equal, and
    stand for no answer.
    """

    before: float
    after: float
    answer_before: str = ""
    answer_after: str = ""
    cluster: str = ""
    alike: bool = False


class Evidence(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="schema",
    tag=SCHEMA,
):
    """What was compared, on which items, and what follows from it: margin, method and flips are the verdict's.

    `confidence` is what was asked for, that of the verdict what was left of it after the correction for
    `candidates`. Plans and recording are named and, where they have one, given by their content hash.
    `answers_before` and `answers_after` are files of answers, relative to the evidence.
    """

    metric: str
    confidence: float
    items: dict[str, Scored]
    verdict: Verdict
    candidates: int = 1
    seed: int = 0
    recording: str = ""
    recording_hash: str = ""
    plan_before: str = ""
    plan_after: str = ""
    answers_before: str = ""
    answers_after: str = ""
    labels: int = 0  # human judgements behind the scores; 0 where a metric gave them
    made_at: str = ""  # ISO 8601, UTC
    seal: str = ""  # SHA-256 of all the rest; `save` puts it there

    @property
    def hash(self) -> str:
        """SHA-256 of all but the seal, in hex; what a plan may name it by."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, seal=""))).hexdigest()

    @property
    def means(self) -> tuple[float, float] | tuple[None, None]:
        """The mean score of all items, before and after; None where some were not run to their end."""
        items = self.items.values()
        if any(each.alike for each in items):
            return None, None
        return fmean(each.before for each in items), fmean(each.after for each in items)

    def save(self, path: Path) -> Path:
        """Seal it and write the file whole; raises MachineError when the disk refuses."""
        sealed = msgspec.structs.replace(self, seal=self.hash)
        replace(path, msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check: the schema, the seal, and that the scores lead to the verdict. Raises InputError."""
        try:
            found = msgspec.json.decode(path.read_bytes(), type=cls)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise _refused(path, f"is not evidence: {error}") from error
        if found.seal != found.hash:
            raise _refused(path, "was changed after it was written")
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        held = self.verdict.confidence
        if held < self.confidence - ALIKE:
            raise _refused(
                path, f"claims a confidence of {self.confidence:g}; its verdict was held to {held:g}"
            )
        again = compare(
            {item: scored.before for item, scored in self.items.items()},
            {item: scored.after for item, scored in self.items.items()},
            self.verdict.margin,
            held,
            clusters=self._clusters(),
            seed=self.seed,
        )
        same = again.decision == self.verdict.decision and all(
            math.isclose(a, b, abs_tol=ALIKE)
            for a, b in zip(_figures(again), _figures(self.verdict), strict=True)
        )
        if not same or again.flips != self.verdict.flips:
            raise _refused(path, f"says `{self.verdict}`, but its scores say `{again}`")

    def _clusters(self) -> dict[str, str] | None:
        """The clusters that the items were judged in; None where they stood alone."""
        if not any(each.cluster for each in self.items.values()):
            return None
        return {item: each.cluster or item for item, each in self.items.items()}


def _figures(verdict: Verdict) -> tuple[float, ...]:
    return (verdict.loss, verdict.loss_low, verdict.loss_high, float(verdict.n))


def scored(
    before: Mapping[str, bool | float],
    after: Mapping[str, bool | float],
    *,
    hashes: Mapping[str, tuple[str, str]] | None = None,
    clusters: Mapping[str, str] | None = None,
    alike: Collection[str] = (),
) -> dict[str, Scored]:
    """What `compare` was given, as evidence keeps it; `hashes` are those of the two answers, by item, `alike` those that
    were not run to their end."""
    groups, pairs = clusters or {}, hashes or {}
    return {
        item: Scored(
            float(score),
            float(after[item]),
            *pairs.get(item, ("", "")),
            groups.get(item, ""),
            item in alike,
        )
        for item, score in before.items()
    }


def evidence_path(plan: Path) -> Path:
    """Where the evidence of a plan file lies.

    >>> evidence_path(Path("tuned.toml")).name
    'tuned.evidence.json'
    """
    return plan.with_suffix(".evidence.json")


def _refused(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path.name} {reason}", help="judge the plan again; evidence is never mended by hand", code="E258"
    )
