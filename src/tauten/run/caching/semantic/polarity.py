"""Negation: both questions deny as often, and neither says the opposite of a word of the other."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import Counter
from typing import Final

from tauten.run.caching.semantic.lexicon import root
from tauten.run.caching.semantic.wording import Wording

DENIALS: Final = {
    **dict.fromkeys(("not", "cannot"), "not"),
    **dict.fromkeys(("no", "none", "nobody", "nothing", "neither", "nor"), "none"),
    "never": "never",
    "without": "without",
    "except": "except",
}
OPPOSITES: Final = tuple(
    frozenset(map(root, pair.split("/")))
    for pair in (
        "open/close on/off start/stop start/end enable/disable add/remove insert/remove create/delete lock/unlock "
        "install/uninstall upload/download connect/disconnect activate/deactivate with/without before/after first/last "
        "early/late fast/slow faster/slower ascending/descending read/write encode/decode import/export allow/forbid "
        "subscribe/unsubscribe block/unblock mount/unmount show/hide push/pull more/less increase/decrease "
        "cheap/expensive cheaper/dearer old/new older/newer upgrade/downgrade leading/trailing present/missing "
        "empty/full same/different optional/required synchronous/asynchronous raise/catch send/receive "
        "buy/sell accept/reject confirm/cancel keep/remove restore/delete idle/busy local/remote public/private"
    ).split()
)


def polarity(one: Wording, other: Wording) -> str:
    """Why the two do not agree in what they deny; empty where they do."""
    if _denials(one) != _denials(other):
        return "one of them denies what the other does not"
    mine, theirs = set(map(root, one.words)), set(map(root, other.words))
    for pair in OPPOSITES:
        if (pair & mine) and (pair & theirs) and pair & mine != pair & theirs:
            return f"opposites: {' and '.join(sorted(pair))}"
    return ""


def _denials(asked: Wording) -> Counter[str]:
    return Counter(DENIALS[word] for word in asked.words if word in DENIALS and word not in asked.codes)
