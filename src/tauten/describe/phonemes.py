"""American English text to the phoneme symbols that Kokoro reads: lexicons, rules, a letter-to-sound net.

Lexicons answer first, then hand-written technical words, then suffix rules, and last a small GRU that
spells any word; so every text gives some phonemes and never fails.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = Mapping[str, NDArray[np.float32]]

_words = str.split
_ONES = _words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
_TENS = _words(". . twenty thirty forty fifty sixty seventy eighty ninety")

TECHNICAL: Mapping[str, str] = {
    "a": "ɐ",
    "args": "ˈɑɹɡz",
    "async": "ˈAsˌɪŋk",
    "asyncio": "ˈAsˌɪŋk ˌI ˈO",
    "coroutine": "kˈOɹutˌin",
    "csv": "sˌi ˌɛs vˈi",
    "dict": "dˈɪkt",
    "hashable": "hˈæʃəbᵊl",
    "init": "ɪnˈɪt",
    "int": "ˈɪnt",
    "iterable": "ˈɪɾəɹəbᵊl",
    "iterating": "ˈɪɾəɹˌAɾɪŋ",
    "iterator": "ˈɪɾəɹˌAɾəɹ",
    "json": "ʤˈAsən",
    "kwargs": "kwˈɑɹɡz",
    "len": "lˈɛn",
    "namespace": "nˈAmspˌAs",
    "serializable": "sˌɪɹiəlˈIzəbᵊl",
    "serializes": "sˈɪɹiəlˌIzᵻz",
    "stderr": "stˈændəɹd ˈɛɹəɹ",
    "stdout": "stˈændəɹd ˈWtpˌʊt",
    "str": "stɹˈɪŋ",
    "subprocess": "sˈʌbpɹˌɑsɛs",
    "tabs": "tˈæbz",
    "traceback": "tɹˈAsbˌæk",
    "tuple": "tˈupᵊl",
    "unhashable": "ʌnhˈæʃəbᵊl",
    "unicode": "jˈunəkˌOd",
    "utf": "jˌu tˌi ˈɛf",
    "venv": "vˈi ˈɛnv",
    "virtualenv": "vˈɜɹʧuəl ˈɛnv",
}
"""Words of programming as programmers say them, in misaki's symbols."""

_LETTERS = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
_ARPABET = _words(
    "<pad> <unk> <s> </s> AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH "
    "EH0 EH1 EH2 ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 "
    "OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH"
)
_IPA = dict(
    pair.split(":")
    for pair in _words(
        "AA:ɑ AE:æ AH:ʌ AO:ɔ AW:W AY:I B:b CH:ʧ D:d DH:ð EH:ɛ ER:ɜɹ EY:A F:f G:ɡ HH:h IH:ɪ IY:i JH:ʤ K:k L:l "
        "M:m N:n NG:ŋ OW:O OY:Y P:p R:ɹ S:s SH:ʃ T:t TH:θ UH:ʊ UW:u V:v W:w Y:j Z:z ZH:ʒ"
    )
)
_UNSTRESSED = {"ʌ": "ə", "ɜɹ": "əɹ"}
_STRESS = {"1": "ˈ", "2": "ˌ"}
_SUFFIXES = (("ing", "ɪŋ"), ("ed", "d"), ("es", "ᵻz"), ("s", "z"))
_MAX_SPELLED = 32  # letters of one unknown word that are sounded; longer runs are not words
_START, _END = 2, 3  # places of <s> and </s> among the output symbols


class Pronouncer:
    """Turns text into phonemes with the files of the `english-g2p` model.

    >>> Pronouncer({"hi": "hˈI"}, {}, None).phonemes("Hi!")
    'hˈI!'
    """

    def __init__(self, gold: Mapping[str, Any], silver: Mapping[str, Any], spelling: Weights | None) -> None:
        self._lexicons = (gold, silver)
        self._spelling = spelling

    @classmethod
    def load(cls, files: Mapping[str, Path]) -> Pronouncer:
        """Read ``us_gold.json``, ``us_silver.json`` and ``g2p_en.npz``; about 0.2 s, kept for the next call."""
        return _load(files["us_gold.json"], files["us_silver.json"], files["g2p_en.npz"])

    def phonemes(self, text: str) -> str:
        """The text as misaki's symbols and punctuation; other characters are left out."""
        sounds = ""
        for token in re.findall(r"[A-Za-z']+|[.,!?;:]", _spoken(text)):
            sounds += f" {self.word(token)}" if token.strip("'")[:1].isalpha() else token.strip("'")
        return re.sub(r"\s+", " ", sounds).strip()

    def word(self, word: str) -> str:
        """The phonemes of one word."""
        known = self._lookup(word)
        if known:
            return known
        if "'" in word.strip("'"):
            stem, _, rest = word.strip("'").partition("'")
            return self.word(stem) + (self._lookup("'" + rest) or self.word(rest))
        word = word.strip("'")
        if word.isupper() and len(word) <= 4:  # an abbreviation: said letter by letter
            return " ".join(filter(None, (self._lookup(letter) for letter in word)))
        return self._inflected(word.lower()) or self._spell(word.lower())

    def _lookup(self, word: str) -> str:
        for form in (word, word.lower(), word.capitalize()):
            if form in TECHNICAL:
                return TECHNICAL[form]
            for lexicon in self._lexicons:
                if form in lexicon:
                    entry = lexicon[form]
                    return str(entry if isinstance(entry, str) else entry["DEFAULT"])
        return ""

    def _inflected(self, word: str) -> str:
        for suffix, sound in _SUFFIXES:
            stem = self._lookup(word.removesuffix(suffix)) if word.endswith(suffix) else ""
            if stem:
                return stem + ("s" if suffix == "s" and stem[-1] in "ptkfθ" else sound)
        return ""

    def _spell(self, word: str) -> str:
        if self._spelling is None:
            return " ".join(filter(None, (self._lookup(letter) for letter in word)))
        return _to_ipa(_sound_out(word[:_MAX_SPELLED], self._spelling))


@functools.lru_cache(maxsize=2)
def _load(gold: Path, silver: Path, spelling: Path) -> Pronouncer:
    import numpy as np

    with np.load(spelling, allow_pickle=False) as archive:
        weights = {name: archive[name] for name in archive.files}
    known, rarer = (json.loads(path.read_text(encoding="utf-8")) for path in (gold, silver))
    return Pronouncer(known, rarer, weights)


def _spoken(text: str) -> str:
    """Write out what is said but not spelled: CamelCase, dunders, dots inside names, numbers."""
    text = text.replace("’", "'").replace("_", " ")
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    text = re.sub(r"(?<=\d)\.(?=\d)", " point ", text)
    text = re.sub(r"(?<=\w)\.(?=\w)", " dot ", text)
    return re.sub(r"[0-9]+", lambda found: f" {number(found[0])} ", text)


def number(digits: str) -> str:
    """A whole number in words; from a million on, digit by digit.

    >>> number("1405"), number("007")
    ('one thousand four hundred five', 'zero zero seven')
    """
    if len(digits) > 6 or (len(digits) > 1 and digits[0] == "0"):
        return " ".join(_ONES[int(digit)] for digit in digits)
    return _count(int(digits))


def _count(value: int) -> str:
    if value < 20:
        return _ONES[value]
    for unit, name in ((1000, " thousand"), (100, " hundred"), (10, "")):
        if value >= unit:
            head = _TENS[value // 10] if unit == 10 else _count(value // unit) + name
            rest = value % unit
            return f"{head} {_count(rest)}" if rest else head
    raise AssertionError(value)  # every value of 20 or more has a unit


def _sound_out(word: str, weights: Weights) -> list[str]:
    """Run the letter-to-sound GRU: letters in, ARPAbet symbols with stress digits out."""
    import numpy as np

    state = cast("NDArray[np.float32]", np.zeros(weights["enc_w_hh"].shape[1], np.float32))
    for letter in (*word, "</s>"):
        place = _LETTERS.index(letter) if letter in _LETTERS else 1
        state = _gru(weights["enc_emb"][place], state, weights, "enc")
    symbols: list[str] = []
    given = weights["dec_emb"][_START]
    for _ in range(2 * len(word) + 4):  # no English word has more sounds than twice its letters
        state = _gru(given, state, weights, "dec")
        place = int((weights["fc_w"] @ state + weights["fc_b"]).argmax())
        if place == _END:
            break
        symbols.append(_ARPABET[place])
        given = weights["dec_emb"][place]
    return symbols


def _gru(
    given: NDArray[np.float32], state: NDArray[np.float32], weights: Weights, side: str
) -> NDArray[np.float32]:
    import numpy as np

    new = weights[f"{side}_w_ih"] @ given + weights[f"{side}_b_ih"]
    old = weights[f"{side}_w_hh"] @ state + weights[f"{side}_b_hh"]
    size = len(state)
    reset = 1 / (1 + np.exp(-(new[:size] + old[:size])))
    update = 1 / (1 + np.exp(-(new[size : 2 * size] + old[size : 2 * size])))
    candidate = np.tanh(new[2 * size :] + reset * old[2 * size :])
    return cast("NDArray[np.float32]", (1 - update) * candidate + update * state)


def _to_ipa(symbols: list[str]) -> str:
    sounds = ""
    for symbol in symbols:
        sound = _IPA.get(symbol.rstrip("012"), "")
        if symbol.endswith("0"):
            sound = _UNSTRESSED.get(sound, sound)
        sounds += _STRESS.get(symbol[-1], "") + sound
    return sounds
