"""Words that checks know: what carries no content of its own, and what says the same as another word.

English, of general support and of programming. A word that stands in neither list counts as content of its own: two
questions that differ in it are not the same, as far as anybody here can tell.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Final

# What may come and go without changing what is asked: articles, auxiliaries, and the ways to ask politely.
LIGHT: Final = frozenset(
    """
    a an the this that these those my your our its their his her me you we they i
    am is are was were be been being do does did doing done have has had having
    can could will would shall should may might must able possible possibly
    to of for in on at by with into from as and or so then there here it
    please tell show explain help let want need like wish try would know question
    how what which way ways best means mean manner reason happen happens happening occur occurs
    get gets getting got make makes use uses used using go going gone come comes take takes taken
    just also too really actually exactly simply ever now currently own one ones
    if when whether while where why who because between among python not no
    find finds found finding
    """.split()
)

# Groups of words that say the same where questions are asked; the first one stands for all.
_ALIKE: Final = """
delete remove erase discard
create generate
modify change alter edit
convert turn-into transform cast
item element entry member
folder directory
dict dictionary
int integer
str string text
argument parameter
function callable
package parcel
delivery shipping shipment
ship send deliver
enable turn-on switch-on activate
disable turn-off switch-off deactivate
buy purchase
begin start launch
end stop finish quit terminate
quick fast rapid speedy
slow sluggish
large big huge
small little tiny
error failure fault
merge combine
restart reboot
photo picture image
screen display
yearly annual annually
monthly
weekly
daily
required mandatory compulsory
optional
position index
forbidden disallowed prohibited
allowed permitted
simultaneously parallel concurrently at-once at-the-same-time
keep retain preserve
obtain retrieve fetch
explain describe
difference differ different distinction
cost price
cheap inexpensive
expensive costly dear
refund reimbursement
login signin sign-in log-in
customer client
film movie
transfer move
cancel abort
permit allow
under below
over above
free gratis
numeric number numerical
check test verify
"""

# Several words that are one: joined before words are compared. Longest first.
PHRASES: Final = tuple(
    (re.compile(rf"\b{before}\b"), after)
    for before, after in (
        (r"a numeric list", "a list of numbers"),
        (r"(?:every|each) time", "whenever"),
        (r"half an hour", "30 minutes"),
        (r"two times", "twice"),
        (r"2 times", "twice"),
        (r"at the same time", "simultaneously"),
        (r"in parallel", "simultaneously"),
        (r"at once", "simultaneously"),
        (r"from largest to smallest", "in descending order"),
        (r"from smallest to largest", "in ascending order"),
        (r"less expensive", "cheaper"),
        (r"costs? less", "is cheaper"),
        (r"free of charge", "free"),
        (r"for free", "free"),
        (r"(?:one line at a time|a line at a time)", "line by line"),
        (r"get here", "arrive"),
        (r"how much time", "how long"),
        (r"find out (?:if|whether)", "check whether"),
        (r"(turn|switch)(?:ed|s|ing)? on", "enable"),
        (r"(turn|switch)(?:ed|s|ing)? off", "disable"),
        (r"(turn|switch) (\w+ \w+|\w+ \w+ \w+) on$", r"enable \2"),
        (r"(turn|switch) (\w+ \w+|\w+ \w+ \w+) off$", r"disable \2"),
        (r"turn (a|an|the|my) (\w+) into", r"convert \1 \2 to"),
        (r"make (a|the) copy of", "copy"),
        (r"log(?:ging|ged|s)? in(?:to)?", "login"),
        (r"sign(?:ing|ed|s)? in(?:to)?", "login"),
    )
)

_ENDINGS: Final = (
    *(("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("ices", "ex")),
    *(("ying", "y"), ("ing", ""), ("ied", "y"), ("ed", ""), ("s", "")),
)
_WHOLE: Final = frozenset(
    "this is was has does its as process class address less thus always news needs".split()
)
_IRREGULAR: Final = {
    **dict.fromkeys(("sent", "sending", "sends"), "send"),
    **dict.fromkeys(("kept", "keeping"), "keep"),
    **dict.fromkeys(("ran", "running", "runs"), "run"),
    **dict.fromkeys(("wrote", "written", "writing", "writes"), "write"),
    **dict.fromkeys(("found", "finding"), "find"),
    **dict.fromkeys(("caught", "catching"), "catch"),
    **dict.fromkeys(("took", "taken"), "take"),
    **dict.fromkeys(("bought", "buying"), "buy"),
    **dict.fromkeys(("made", "making"), "make"),
    **dict.fromkeys(("given", "gave", "giving"), "give"),
    **dict.fromkeys(("came", "coming"), "come"),
    **dict.fromkeys(("men",), "man"),
    **dict.fromkeys(("people", "persons"), "person"),
    **dict.fromkeys(("children",), "child"),
    "faster": "fast-er",
    "quicker": "fast-er",
    "slower": "slow-er",
    "cheaper": "cheap-er",
    "dearer": "expensive-er",
    "indices": "index",
    "indexes": "index",
    "metres": "metre",
    "cancelling": "cancel",
    "cancelled": "cancel",
    "shipped": "ship",
    "shipping": "delivery",
    "stopped": "stop",
    "stopping": "stop",
    "getting": "get",
    "sorting": "sort",
    "modifying": "modify",
}


def stem(word: str) -> str:
    """A word without its ending, so far as that changes nothing of what it says.

    >>> stem("packages"), stem("returned"), stem("class"), stem("sorted")
    ('package', 'return', 'class', 'sort')
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _WHOLE or len(word) < 4:
        return word
    for ending, put in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return (
                _undoubled(word[: -len(ending)] + put)
                if ending in ("ing", "ed")
                else word[: -len(ending)] + put
            )
    return word


def _undoubled(word: str) -> str:
    """The word before its ending: "plann" is "plan", "chang" is left as it is, in all forms alike."""
    if len(word) > 3 and word[-1] == word[-2] and word[-1] in "bdgmnprt":
        return word[:-1]
    return word


def root(word: str) -> str:
    """What stands for a word, and for all that say the same.

    >>> root("elements") == root("item"), root("open") == root("close")
    (True, False)
    """
    found = stem(word)
    return _HEADS.get(word) or _HEADS.get(found) or _HEADS.get(f"{found}e") or found.removesuffix("e")


def _heads() -> dict[str, str]:
    heads: dict[str, str] = {}
    for line in _ALIKE.split("\n"):
        group = line.split()
        for word in group:
            heads.setdefault(word, group[0])
            heads.setdefault(stem(word), group[0])
    return heads


_HEADS: Final = _heads()
