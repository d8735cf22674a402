"""Numbers with their units: both questions name the same amounts, whatever units they are written in."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

from tauten.run.caching.semantic.wording import Wording

_ONES: Final = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
).split()
_TENS: Final = "thirty forty fifty sixty seventy eighty ninety".split()
_SPELLED: Final[dict[str, int]] = {
    **{word: value for value, word in enumerate(_ONES) if word != "one"},  # "one" is a pronoun as often
    **{word: 10 * value for value, word in enumerate(_TENS, 3)},
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "dozen": 12,
}
_TIMES: Final = {"once": 1, "twice": 2, "thrice": 3}
_NUMBER = re.compile(r"([+-]?\d+(?:[.,:]\d+)*)(st|nd|rd|th)?(%)?")


def _units() -> dict[str, tuple[str, Fraction]]:
    """Each unit as (what it measures, how many of the smallest)."""
    table = {
        "time": "ms:1/1000 millisecond:1/1000 us:1/1000000 microsecond:1/1000000 ns:1/1000000000 "
        "nanosecond:1/1000000000 s:1 sec:1 second:1 min:60 minute:60 h:3600 hr:3600 hour:3600 day:86400 week:604800",
        "months": "month:1 year:12",
        "bytes": "byte:1 kb:1000 kilobyte:1000 mb:1000000 megabyte:1000000 gb:1000000000 gigabyte:1000000000 "
        "tb:1000000000000 terabyte:1000000000000 kib:1024 mib:1048576 gib:1073741824",
        "bits": "bit:1",
        "mass": "mg:1/1000 g:1 gram:1 kg:1000 kilo:1000 kilogram:1000 kilogramme:1000 t:1000000 ton:1000000",
        "pounds": "lb:1 lbs:1 pound:1 ounce:1/16 oz:1/16",
        "length": "mm:1/1000 millimetre:1/1000 millimeter:1/1000 cm:1/100 centimetre:1/100 centimeter:1/100 m:1 metre:1 "
        "meter:1 km:1000 kilometre:1000 kilometer:1000",
        "feet": "inch:1/12 ft:1 foot:1 feet:1 yard:3 mile:5280",
        "euro": "euro:1 eur:1 €:1",
        "dollar": "dollar:1 usd:1 $:1",
        "sterling": "gbp:1 £:1",
        "share": "percent:1/100 %:1/100",
        "frequency": "hz:1 hertz:1 khz:1000 mhz:1000000 ghz:1000000000",
        "frames": "fps:1",
        "celsius": "celsius:1 °c:1",
        "fahrenheit": "fahrenheit:1 °f:1",
        "volts": "v:1 volt:1",
        "watts": "w:1 watt:1 kw:1000",
        "litres": "ml:1/1000 l:1 litre:1 liter:1",
    }
    return {
        name: (what, Fraction(factor))
        for what, listed in table.items()
        for name, factor in (each.split(":") for each in listed.split())
    }


UNITS: Final = _units()
_BEFORE: Final = frozenset("€$£")


class Amount(NamedTuple):
    """A value in the smallest unit of what it measures; of a bare number and of a version as it is written."""

    value: str
    what: str


def amounts(one: Wording, other: Wording) -> str:
    """Why the two do not name the same amounts; empty where they do."""
    mine, theirs = (sorted(named(asked)[0]) for asked in (one, other))
    if mine == theirs:
        return ""
    return f"amounts: {_shown(mine)} and {_shown(theirs)}"


def named(asked: Wording) -> tuple[list[Amount], frozenset[int]]:
    """The amounts of a question, and the places of the words that say them."""
    found: list[Amount] = []
    places: set[int] = set()
    for place, word in enumerate(asked.words):
        if word in _TIMES:
            found.append(Amount(str(_TIMES[word]), "times"))
            places.add(place)
            continue
        value, what = _value(word)
        if not value:
            continue
        unit = "%" if what == "%" else _unit(asked.words, place)
        found.append(Amount(*_measured(value, unit, what)))
        places |= _said(asked.words, place, unit)
    return found, frozenset(places)


def _value(word: str) -> tuple[str, str]:
    """(the number as it is written, "" or "nth" or "%"); nothing where the word is none."""
    if word in _SPELLED:
        return str(_SPELLED[word]), ""
    found = _NUMBER.fullmatch(word)
    if found is None:
        return "", ""
    digits = re.sub(r",(?=\d{3}(\D|$))", "", found[1])
    return digits, "nth" if found[2] else found[3] or ""


def _unit(words: tuple[str, ...], place: int) -> str:
    """The unit beside a number; empty where there is none."""
    after = words[place + 1] if place + 1 < len(words) else ""
    for name in (after, after.removesuffix("s")):
        if name in UNITS:
            return name
    before = words[place - 1] if place else ""
    return before if before in _BEFORE else ""


def _said(words: tuple[str, ...], place: int, unit: str) -> set[int]:
    if not unit or unit == "%":
        return {place}
    return {place, place - 1 if unit in _BEFORE and words[place - 1] == unit else place + 1}


def _measured(value: str, unit: str, what: str) -> tuple[str, str]:
    if unit and re.fullmatch(r"[+-]?\d+(\.\d+)?", value):
        of, factor = UNITS[unit]
        return str(Fraction(value) * factor), of
    return value, unit or what


def _shown(amounts: list[Amount]) -> str:
    return ", ".join(f"{each.value} {each.what}".strip() for each in amounts) or "none"
