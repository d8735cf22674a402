"""The books against a provider's own count: its export read, and the differences unit by unit."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tauten.errors import InputError
from tauten.run.usage.report import Usage

SCHEMA: Final = "tauten.usage.reconcile/1"
_UNITS: Final[Mapping[str, tuple[str, ...]]] = {
    "input_tokens": ("input_tokens", "prompt_tokens", "n_context_tokens_total", "context_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens", "n_generated_tokens_total", "generated_tokens"),
    "cached_tokens": ("cached_tokens", "input_cached_tokens", "cache_read_tokens", "cache_read_input_tokens"),
    "cache_write_tokens": ("cache_write_tokens", "cache_creation_input_tokens"),
    "reasoning_tokens": ("reasoning_tokens", "output_reasoning_tokens"),
    "input_audio_tokens": ("input_audio_tokens",),
    "output_audio_tokens": ("output_audio_tokens",),
    "image_tokens": ("image_tokens", "input_image_tokens"),
    "audio_seconds": ("audio_seconds", "num_seconds"),
    "characters": ("characters", "num_characters"),
    "calls": ("requests", "num_model_requests", "n_requests", "calls"),
}
"""Our units, and what exports call them."""

_MODEL: Final = ("model", "model_name", "snapshot_id", "model_version")
_DAY: Final = ("day", "date", "usage_date_utc", "start_time_iso", "timestamp")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider counts of a unit, and what the books do."""

    model: str
    day: str
    unit: str
    theirs: float
    ours: float

    @property
    def missing(self) -> float:
        """What the provider counts and the books do not; below 0 where these count more."""
        return self.theirs - self.ours


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an export, in our units."""

    model: str
    day: str = ""
    units: dict[str, float]


def read_export(path: Path) -> list[Counted]:
    """A provider's CSV; columns are known by their names. Raises InputError E243."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = _columns(path, reader.fieldnames or ())
            return [_counted(path, number, line, columns) for number, line in enumerate(reader, 2)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad(path, str(error)) from error


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Of each thing that is known here the column that holds it."""
    plain = {name.strip().lower().replace(" ", "_"): name for name in names}
    wanted = {"model": _MODEL, "day": _DAY, **_UNITS}
    found = {what: plain[word] for what, words in wanted.items() for word in reversed(words) if word in plain}
    if "model" not in found or not found.keys() & _UNITS.keys():
        raise _bad(path, f"no column of a model and of its tokens among: {', '.join(names)[:200]}")
    return found


def _counted(path: Path, number: int, line: Mapping[str, str | None], columns: Mapping[str, str]) -> Counted:
    units = {}
    for unit in columns.keys() & _UNITS.keys():
        text = (line.get(columns[unit]) or "0").replace(",", "").strip() or "0"
        try:
            units[unit] = float(text)
        except ValueError:
            raise _bad(
                path, f"line {number}: {columns[unit]} is {text[:40]!r}, and a number was expected"
            ) from None
    day = (line.get(columns["day"]) or "")[:10] if "day" in columns else ""
    return Counted(model=(line.get(columns["model"]) or "").strip(), day=day, units=units)


def compare(lines: Iterable[Counted], books: Iterable[Usage]) -> list[Difference]:
    """Unit by unit, in order of models and days; what only one side has is compared with nothing."""
    theirs: dict[tuple[str, str], dict[str, float]] = {}
    for line in lines:
        _add(theirs.setdefault((line.model, line.day), {}), line.units)
    told = {unit for units in theirs.values() for unit in units}
    ours: dict[tuple[str, str], dict[str, float]] = {}
    for usage in books:
        units = {**usage.units, "calls": usage.calls}
        place = ours.setdefault((usage.by["model"], usage.by.get("day", "")), {})
        _add(place, {unit: amount for unit, amount in units.items() if unit in told})
    found = []
    for model, day in sorted({*theirs, *ours}):
        a, b = theirs.get((model, day), {}), ours.get((model, day), {})
        for unit in sorted(told):
            if a.get(unit) or b.get(unit):
                pair = (a.get(unit, 0.0), b.get(unit, 0.0))
                found.append(Difference(model=model, day=day, unit=unit, theirs=pair[0], ours=pair[1]))
    return found


def _add(sums: dict[str, float], units: Mapping[str, float]) -> None:
    for unit, amount in units.items():
        sums[unit] = sums.get(unit, 0.0) + amount


def _bad(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} is no export of usage: {why}",
        help="a CSV file with a column `model` and columns of tokens, as input_tokens and output_tokens",
        code="E243",
    )
