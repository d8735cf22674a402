"""Speak: text to speech by Kokoro, sentence by sentence, so that the first sound does not wait for the last.

Kokoro is int8 already; on OpenVINO it must run in f32, because bfloat16 swallows words.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tauten.describe.payload import Audio, Text
from tauten.describe.phonemes import Pronouncer
from tauten.describe.ports import Stream
from tauten.describe.stage import Context, Role, stage
from tauten.describe.turn import Turn
from tauten.errors import InputError, MachineError, StageError, StoreError, suggest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 24_000  # Hz, what Kokoro writes
SPEEDS = (0.5, 2.0)  # outside this range the voice loses words
_MAX_TOKENS = 509  # the style table has 510 rows, one a length, and the net no more positions
FIRST_WORDS = 4  # a first clause of four words or more is worth sounding alone
_LONGEST = 240  # characters: about 300 symbols, well inside the net's 509
_AT_ONCE = 4096  # characters looked at together: of a whole book each sentence costs no more than of a letter
_MOST_BLENDED = 8  # voices; each is a table of half a megabyte
_FLITE_SECONDS = 30.0  # flite needs about 0.03 s a sentence; this only bounds a hung process
FLITE = "flite"
_FLITE_VOICE = re.compile(r"\w{1,64}", re.ASCII)  # a name: flite opens files and addresses, too


@stage(
    pure=True,
    roles={
        "voice": Role("kokoro-82m", ("onnx", "openvino"), options={"unbatched": True}),
        "lexicon": Role("english-g2p", ()),
    },
    turns=(
        Turn("chunk", {"first_words": 2}, "lossy", "speaks a first clause of two words by itself"),
        Turn(
            "chunk", {"first_words": 8}, "lossy", "speaks no first clause of fewer than eight words by itself"
        ),
    ),
)
async def speak(  # type: ignore[misc]  # an async generator gives a Stream once the engine has wrapped it
    ctx: Context,
    text: Text | Stream[Text],
    *,
    voice: str = "jf_nezumi",
    speed: float = 1.0,
    first_words: int = FIRST_WORDS,
) -> Stream[Audio]:
    """Say the text aloud: one WAV of 24 kHz a sentence, the first as soon as a clause is complete.

    `voice` is one of the model's voices, or ``flite`` (``flite:slt`` ...) for the installed program of
    that name, which is also what speaks when the model is not here. `speed` 1.0 is the usual pace. A first
    clause of `first_words` words or more is spoken by itself: fewer sound sooner, and less like a sentence.
    """
    _check_speed(speed)
    if voice.split(":")[0] == FLITE:
        speaker: Kokoro | Flite = Flite(voice.partition(":")[2], speed)
    else:
        speaker = await _open(ctx, voice, speed)
    async for clause in clauses(text, first_words):
        if isinstance(speaker, Flite):
            yield await ctx.work(speaker.say, clause, cause="compute")
            continue
        for item in speaker.items(clause):
            result = await ctx.infer("voice", item)
            yield Audio.from_array(waveform(result), RATE)


async def _open(ctx: Context, voice: str, speed: float) -> Kokoro | Flite:
    try:
        model, lexicon = ctx.files("voice"), ctx.files("lexicon")
    except StoreError as missing:
        if shutil.which(FLITE) is None:
            raise MachineError(
                f"no voice can speak: {missing.message}, and the program `flite` is not installed",
                help="run `tauten model pull kokoro-82m english-g2p`, or install flite",
                code="E341",
            ) from missing
        return Flite("", speed)
    pronouncer = await ctx.work(Pronouncer.load, lexicon, cause="load")
    return await ctx.work(functools.partial(Kokoro, model, pronouncer, voice, speed), cause="load")


def _check_speed(speed: float) -> None:
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise InputError(
            f"speed={speed:g} is outside {SPEEDS[0]:g} to {SPEEDS[1]:g}",
            help="1.0 is the usual pace; 1.2 is brisk, 0.8 slow",
            code="E235",
        )


class Kokoro:
    """Makes the model's inputs: phonemes as numbers, the voice's style for that length, the speed.

    A voice may be a blend, ``jf_nezumi+jm_kumo``: the mean of their style tables.
    """

    def __init__(
        self, files: Mapping[str, Path], pronouncer: Pronouncer, voice: str = "jf_nezumi", speed: float = 1.0
    ) -> None:
        self.pronouncer = pronouncer
        self.speed = speed
        self.symbols = _symbols(files["vocab.json"])
        self.style = _style(files["voices.npz"], voice)

    def items(self, text: str) -> Iterator[dict[str, NDArray[Any]]]:
        """The inputs for one sentence: several where it has more sounds than the net has positions, as rows of
        numbers have; none when nothing in it can be said."""
        sounds = self.pronouncer.phonemes(text)
        if any(symbol.isalpha() for symbol in sounds):
            yield from map(self._item, _pieces(sounds, _MAX_TOKENS))

    def _item(self, sounds: str) -> dict[str, NDArray[Any]]:
        import numpy as np

        tokens = [self.symbols[symbol] for symbol in sounds if symbol in self.symbols]
        return {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": self.style[len(tokens)].reshape(1, -1),
            "speed": np.array([self.speed], np.float32),
        }


@functools.lru_cache(maxsize=2)
def _symbols(path: Path) -> dict[str, int]:
    table: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["vocab"]
    return table


@functools.lru_cache(maxsize=16)
def _style(path: Path, voice: str) -> NDArray[np.float32]:
    import numpy as np

    names = voice.split("+")
    if len(names) > _MOST_BLENDED:
        raise InputError(
            f"a blend of {len(names)} voices", help=f"blend {_MOST_BLENDED} at most", code="E236"
        )
    with np.load(path, allow_pickle=False) as voices:
        for name in names:
            if name not in voices.files:
                raise InputError(
                    f"no voice is called {name!r}", help=suggest(name, [*voices.files, FLITE]), code="E236"
                )
        mixed: NDArray[np.float32] = np.mean([voices[name] for name in names], axis=0)
    return mixed.reshape(len(mixed), -1).astype(np.float32)


def waveform(result: Any) -> NDArray[np.float32]:
    """The samples in what a backend gives back for one item: an array, or a mapping with ``audio``."""
    import numpy as np

    array = result["audio"] if isinstance(result, Mapping) else result
    if isinstance(array, list | tuple):
        array = array[0]
    return np.asarray(array, np.float32).ravel()


class Flite:
    """The small synthesiser `flite` as a process of its own: poorer, but fast and nothing to fetch."""

    def __init__(self, voice: str = "", speed: float = 1.0) -> None:
        if voice and not _FLITE_VOICE.fullmatch(voice):
            raise InputError(
                f"no voice of flite is called {voice[:60]!r}",
                help="`flite -lv` lists their names",
                code="E236",
            )
        program = shutil.which(FLITE)
        if program is None:
            raise MachineError(
                "the program `flite` is not installed", help="install the package `flite`", code="E341"
            )
        self._command = [program, "--setf", f"duration_stretch={1 / speed:.3f}"]
        if voice:
            self._command += ["-voice", voice]

    def say(self, text: str) -> Audio:
        """One sentence as WAV; raises StageError when the program fails."""
        with tempfile.TemporaryDirectory() as folder:
            script, sound = Path(folder, "text.txt"), Path(folder, "sound.wav")
            script.write_text(text, encoding="utf-8")
            try:
                command = [*self._command, "-f", str(script), "-o", str(sound)]
                subprocess.run(command, check=True, capture_output=True, timeout=_FLITE_SECONDS)
                return Audio(sound.read_bytes())
            except (subprocess.SubprocessError, OSError) as error:
                raise StageError(
                    f"flite could not say {text[:40]!r}: {error}", help="try it by hand", code="E441"
                ) from error


async def clauses(text: Text | Stream[Text] | str, first_words: int = FIRST_WORDS) -> AsyncIterator[str]:
    """Cut text, whole or as it streams in, into what is said in one breath; the first piece is short."""
    cutter = Cutter(first_words)
    if isinstance(text, Text | str):
        for piece in [*cutter.add(str(text)), *cutter.end()]:
            yield piece
        return
    async for increment in text:
        for piece in cutter.add(str(increment)):
            yield piece
    for piece in cutter.end():
        yield piece


class Cutter:
    """Collects increments and gives out complete sentences.

    >>> cutter = Cutter()
    >>> cutter.add("The key is missing, so Python raises an error. Use"), cutter.end()
    (['The key is missing,', 'so Python raises an error.'], ['Use'])
    """

    # A row of marks is looked at once, from its start: dots without an end would cost their square.
    _SENTENCE = re.compile(r"(?<![.!?])[.!?]++[\"')\]]*+\s+|\n\s*\n")
    _CLAUSE = re.compile(r"[,;:]\s+")

    def __init__(self, first_words: int = FIRST_WORDS) -> None:
        self._first_words = first_words
        self._held = ""
        self._started = False

    def add(self, increment: str) -> list[str]:
        """What is complete now that the increment has come."""
        pieces: list[str] = []
        for start in range(0, len(increment), _AT_ONCE):
            self._held += increment[start : start + _AT_ONCE]
            while (cut := self._cut()) > 0:
                pieces += self._take(cut)
        return pieces

    def end(self) -> list[str]:
        """What is left when no more will come."""
        return self._take(len(self._held))

    def _cut(self) -> int:
        sentence = self._SENTENCE.search(self._held)
        limit = sentence.end() if sentence else len(self._held)
        if not self._started:
            for clause in self._CLAUSE.finditer(self._held, 0, limit):
                if len(self._held[: clause.end()].split()) >= self._first_words:
                    return clause.end()
        return limit if sentence else _breath(self._held) if limit > _LONGEST else 0

    def _take(self, cut: int) -> list[str]:
        taken, self._held = self._held[:cut].strip(), self._held[cut:].lstrip()
        self._started = self._started or bool(taken)
        return _breaths(taken)


def _breaths(sentence: str) -> list[str]:
    """Split what is too long for the net, at a comma where there is one, else between words."""
    pieces: list[str] = []
    while len(sentence) > _LONGEST:
        cut = _breath(sentence)
        pieces.append(sentence[:cut].strip())
        sentence = sentence[cut:].strip()
    return [*pieces, sentence] if sentence else pieces


def _breath(text: str) -> int:
    """Where the first breath of a text ends that is too long for one."""
    cut = text.rfind(", ", 0, _LONGEST) + 1 or text.rfind(" ", 0, _LONGEST)
    return cut if cut > 0 else _LONGEST


def _pieces(sounds: str, most: int) -> Iterator[str]:
    """Sounds in pieces of so many symbols at most, cut between words where there are any."""
    while len(sounds) > most:
        cut = sounds.rfind(" ", 0, most)
        cut = cut if cut > 0 else most
        yield sounds[:cut]
        sounds = sounds[cut:].lstrip()
    if sounds:
        yield sounds
