"""Whisper by CTranslate2: short windows with guards against loops, hot words, whole 30 s windows on request."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from tauten.errors import BackendError, InputError, MachineError, PlanError, StoreError
from tauten.run.backends import _mel, _threads
from tauten.run.contracts import ModelSpec

_FULL_S = 30.0  # the window Whisper was trained on
_TAIL_S = 3.0  # silence after a short clip; with less of it the decoder loops
_STEP_S = 0.5  # short windows are rounded up to this, so that clips of like length share a batch
_SILENT = 10 ** (-55 / 20)  # full-scale RMS: -55 dBFS, well under quiet speech at about -40
_SHORTEST_S = 0.1  # no word is shorter
_TOKENS_PER_S = 10.0  # fast speech full of identifiers; ordinary English has 3 to 4
_TOKENS_SPARE = 12  # punctuation and a first word
_MOST_TOKENS = 224  # half of Whisper's text context; the other half holds the prompt
_NO_SPEECH = 0.6  # the threshold of the reference decoder, as is the next
_UNSURE = -1.0  # mean log probability of a token
_REPEATS = {
    False: 2,
    True: 3,
}  # people do say a sentence twice; in a short window a decoder does it more often
_FILES = ("model.bin", "config.json", "vocabulary.txt", "tokenizer.json")


@dataclass(slots=True)
class _Window:
    """One piece of one item on its way through the model."""

    owner: int
    samples: Any
    full: bool
    prompt: tuple[int, ...]
    cap: int
    wanted: int
    text: str = ""
    tokens: int = 0
    no_speech: float = 0.0
    suspicious: bool = field(default=False)

    @property
    def seconds(self) -> float:
        """What the model sees: the whole 30 s, or the piece with its tail of silence."""
        if self.full:
            return _FULL_S
        wanted = len(self.samples) / _mel.RATE + _TAIL_S
        return min(math.ceil(wanted / _STEP_S) * _STEP_S, _FULL_S)


class WhisperBackend:
    """Transcribes 16 kHz mono float32 `samples`; see `run` for an item's keys.

    `precision` is CTranslate2's compute type. Options: `beam_size` (1: greedy), `device` cpu or cuda.
    """

    name: ClassVar[str] = "whisper"
    precisions: ClassVar[tuple[str, ...]] = ("int8",)  # beside full precision, for an optimizer to try
    option_keys: ClassVar[frozenset[str]] = frozenset({"beam_size", "device"})

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._model: Any = None
        self._tokenizer: Any = None
        self._device = str(spec.options.get("device", "cpu"))
        self._threads = spec.threads
        self._stopped = False

    def open(self) -> None:
        if self._model is not None:
            return
        missing = [name for name in _FILES if name not in self.spec.files]
        if missing:
            raise StoreError(
                f"model {self.spec.model!r} has no file {missing[0]}",
                code="E325",
                help="pin a model that has it, or another backend; `tauten model list` names them",
            )
        try:
            import ctranslate2
            import tokenizers
        except ImportError as error:
            raise MachineError(
                f"{error.name} is not installed", help="pip install 'tauten[local]'", code="E315"
            ) from error
        ctranslate2.set_log_level(logging.ERROR)  # what it converts on the way in, `properties` says
        compute_type = self._compute_type(ctranslate2)
        self._tokenizer = tokenizers.Tokenizer.from_file(str(self.spec.files["tokenizer.json"]))
        self._model = self._load(ctranslate2, compute_type)
        self._storage = ctranslate2.StorageView

    def _compute_type(self, ctranslate2: Any) -> str:
        if self._device not in ("cpu", "cuda") or (
            self._device == "cuda" and not ctranslate2.get_cuda_device_count()
        ):
            raise PlanError(f"CTranslate2 has no device {self._device!r} here", help="use cpu", code="E122")
        supported = sorted(ctranslate2.get_supported_compute_types(self._device))
        wanted = {"": "default", "f32": "float32"}.get(self.spec.precision, self.spec.precision)
        if wanted not in ("default", "auto", *supported):
            raise PlanError(
                f"CTranslate2 cannot compute in {wanted!r} on this {self._device}",
                help=f"it can: {', '.join(supported)}",
                code="E122",
            )
        return wanted

    def _load(self, ctranslate2: Any, compute_type: str) -> Any:
        folder = self.spec.files["model.bin"].parent
        self._threads = self.spec.threads or _threads.bound()
        try:
            return ctranslate2.models.Whisper(
                str(folder), device=self._device, compute_type=compute_type, intra_threads=self._threads
            )
        except (RuntimeError, ValueError) as error:
            raise StoreError(
                f"CTranslate2 cannot load {self.spec.model!r}: {error}",
                help=f"check the files: tauten model verify {self.spec.model}",
                code="E325",
            ) from error

    def group(self, item: Any) -> Hashable:
        """Items whose first windows are equally long and whose prompts agree go together."""
        seconds = min(len(item["samples"]) / _mel.RATE + _TAIL_S, _FULL_S)
        length = _FULL_S if item.get("window", "clip") == "full" else math.ceil(seconds / _STEP_S)
        return length, item.get("language", "en"), tuple(item.get("hot_words", ()))

    def weight(self, item: Any) -> float:
        seconds = len(item["samples"]) / _mel.RATE
        if item.get("window", "clip") == "full":
            return max(math.ceil(seconds / _FULL_S), 1) * _FULL_S
        return seconds + _TAIL_S

    def run(self, items: Sequence[Any]) -> list[Any]:
        """Items hold samples, window (clip or full), hot_words, language and max_tokens; all but the first optional.

        A result is a dict of text, tokens, windows (how many the model saw), fallback (whether a short
        window was done again in 30 s) and no_speech. Silence gives "" without running the model.
        """
        if self._model is None:
            raise BackendError(
                "whisper: run() on a backend that is not open", help="call open() first", code="E406"
            )
        results: list[Any] = [None] * len(items)
        windows: list[_Window] = []
        for owner, item in enumerate(items):
            try:
                windows += self._windows(owner, item)
            except InputError as error:
                results[owner] = error
        self._decode_all(windows)
        again = [window for window in windows if window.suspicious and not window.full]
        for window in again:
            window.full = True
        self._decode_all(again)
        for owner in range(len(items)):
            if results[owner] is None:
                mine = [window for window in windows if window.owner == owner]
                results[owner] = _result(mine, [window for window in again if window.owner == owner])
        return results

    def begin(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        """End what runs where it can be ended: CTranslate2 can be left only between encoder and decoder."""
        self._stopped = True

    def _check_stopped(self) -> None:
        if self._stopped:
            raise BackendError("whisper: the run was stopped", help="send the request again")

    def _windows(self, owner: int, item: Mapping[str, Any]) -> list[_Window]:
        samples = np.ascontiguousarray(item["samples"], dtype=np.float32).reshape(-1)
        full = _is_full(item)
        prompt = self._prompt(item)
        if len(samples) < _SHORTEST_S * _mel.RATE or not _mel.loudest(samples) > _SILENT:
            return []
        longest = _FULL_S if full else _FULL_S - _TAIL_S
        pieces = _mel.cut(samples, int(longest * _mel.RATE))
        return [
            _Window(owner, piece, full, prompt, _cap(piece), item.get("max_tokens") or _MOST_TOKENS)
            for piece in pieces
            if _mel.loudest(piece) > _SILENT
        ]

    def _prompt(self, item: Mapping[str, Any]) -> tuple[int, ...]:
        ids = [self._token("<|startoftranscript|>")]
        language = str(item.get("language", "en"))
        if self._model.is_multilingual:
            ids += [self._token(f"<|{language}|>"), self._token("<|transcribe|>")]
        elif language != "en":
            raise InputError(
                f"{self.spec.model} knows English only; the language asked for is {language!r}",
                help="use a multilingual model such as whisper-base",
                code="E231",
            )
        ids.append(self._token("<|notimestamps|>"))
        return (*self._hot_words(tuple(item.get("hot_words", ()))), *ids)

    def _hot_words(self, words: tuple[str, ...]) -> list[int]:
        """Words to expect, as if they had been said before; the model then prefers their spelling."""
        if not words:
            return []
        encoded = self._tokenizer.encode(" " + ", ".join(words) + ".", add_special_tokens=False).ids
        return [self._token("<|startofprev|>"), *encoded[: _MOST_TOKENS - 1]]

    def _token(self, text: str) -> int:
        token: int | None = self._tokenizer.token_to_id(text)
        if token is None:
            raise InputError(f"{self.spec.model} has no token {text}", help="check the language", code="E231")
        return token

    def _decode_all(self, windows: list[_Window]) -> None:
        groups: dict[Hashable, list[_Window]] = {}
        for window in windows:
            groups.setdefault((window.seconds, window.prompt), []).append(window)
        for members in groups.values():
            self._decode(members)

    def _decode(self, members: list[_Window]) -> None:
        """Run windows of one length and one prompt as one batch."""
        size = round(members[0].seconds * _mel.RATE)
        sounds = [np.pad(window.samples, (0, size - len(window.samples))) for window in members]
        features = np.stack([_mel.log_mel(sound, self._model.n_mels) for sound in sounds])
        prompt = list(members[0].prompt)
        cap = max(min(window.cap, window.wanted) for window in members)
        self._check_stopped()
        heard = self._model.encode(self._storage.from_array(np.ascontiguousarray(features)))
        self._check_stopped()
        answers = self._model.generate(
            heard,
            [prompt] * len(members),
            beam_size=int(self.spec.options.get("beam_size", 1)),
            # CTranslate2 stops at the smaller of max_length / 2 and max_length - len(prompt).
            max_length=max(2 * cap, cap + len(prompt)),
            return_scores=True,
            return_no_speech_prob=True,
        )
        for window, answer in zip(members, answers, strict=True):
            self._take(window, answer)

    def _take(self, window: _Window, answer: Any) -> None:
        ids = answer.sequences_ids[0]
        window.no_speech = float(answer.no_speech_prob)
        if window.no_speech > _NO_SPEECH and answer.scores[0] < _UNSURE:
            window.text, window.tokens, window.suspicious = "", 0, False
            return
        kept = ids[: min(window.cap, window.wanted)]
        text = self._tokenizer.decode(kept, skip_special_tokens=True).strip()
        window.text, window.tokens = without_repeats(text, _REPEATS[window.full]), len(kept)
        looped = len(kept) == window.cap  # what the caller asked to cut short is no loop
        window.suspicious = looped or window.text != text

    def properties(self) -> Mapping[str, str]:
        if self._model is None:
            return {"precision": "", "threads": "", "device": "closed"}
        return {
            "precision": str(self._model.compute_type),
            "threads": str(self._threads or "framework default"),
            "device": str(self._model.device),
            "beam_size": str(self.spec.options.get("beam_size", 1)),
        }

    def close(self) -> None:
        self._model = self._tokenizer = None


def _is_full(item: Mapping[str, Any]) -> bool:
    window = item.get("window", "clip")
    if window not in ("clip", "full"):
        raise InputError(f"unknown window {window!r}", help="use `clip` or `full`", code="E240")
    return bool(window == "full")


def _cap(piece: Any) -> int:
    """The most tokens that so much sound can hold; a decoder that wants more is looping."""
    return min(math.ceil(len(piece) / _mel.RATE * _TOKENS_PER_S) + _TOKENS_SPARE, _MOST_TOKENS)


def _result(windows: list[_Window], again: list[_Window]) -> dict[str, Any]:
    return {
        "text": " ".join(window.text for window in windows if window.text),
        "tokens": sum(window.tokens for window in windows),
        "windows": len(windows) + len(again),
        "fallback": bool(again),
        "no_speech": max((window.no_speech for window in windows), default=None),
    }


def without_repeats(text: str, times: int = 2) -> str:
    """Cut a loop: a sentence said for the `times`-th time, or the same few words three times running.

    >>> without_repeats("Open the file. Open the file. Open the")
    'Open the file.'
    """
    sentences = re.findall(r"[^.!?]+[.!?]*\s*", text)
    said: Counter[str] = Counter()
    for index, sentence in enumerate(sentences):
        key = _bare(sentence)
        said[key] += 1
        if said[key] == times and len(key.split()) > 1:
            return "".join(sentences[:index]).strip()
    return _without_word_loops(text)


def _without_word_loops(text: str) -> str:
    words = text.split()
    bare = [_bare(word) for word in words]
    for start in range(len(words)):
        for size in range(1, (len(words) - start) // 3 + 1):
            first = bare[start : start + size]
            if first == bare[start + size : start + 2 * size] == bare[start + 2 * size : start + 3 * size]:
                return " ".join(words[: start + size])
    return text


def _bare(text: str) -> str:
    return re.sub(r"[^\w ]", "", text).lower().strip()
