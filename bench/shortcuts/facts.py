"""What things of each modality take on this machine: a written answer, an embedding, a picture, some seconds of sound."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import statistics
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.shortcuts.trace import Fact

TRIES = 5  # of each: the median
SOUND_S, SOUND_HZ = 8, 16_000  # a spoken question
WORDS = 60  # tokens of a written answer
QUESTION = "How do I read a file that is larger than the memory?"


async def facts() -> dict[str, Fact]:
    """Measured now, one after another."""
    return {
        "text": await _text(),
        "embedding": await _embedding(),
        "image": _image(),
        "audio": _audio(),
    }


async def _text() -> Fact:
    """An answer of the small language model; what comes over the network for it is its prompt and itself."""
    from tauten.improve.headlines.speaker import language_model, speaking
    from tauten.models import Store

    async with speaking(language_model(Store())) as speaker:
        await speaker.ask({"prompt": QUESTION, "max_tokens": 2})
        said = [await speaker.ask({"prompt": QUESTION, "max_tokens": WORDS}) for _ in range(TRIES)]
    size = len(said[0].text.encode())
    return Fact(size, size + len(QUESTION), 1e3 * statistics.median(each.seconds for each in said))


async def _embedding() -> Fact:
    from bench.shortcuts.vectors import embedding

    async with embedding() as embed:
        vector = await embed(QUESTION)
        taken = []
        for number in range(TRIES):
            began = time.perf_counter()
            await embed(f"{QUESTION} ({number})")
            taken.append(time.perf_counter() - began)
    return Fact(vector.nbytes, len(QUESTION), 1e3 * statistics.median(taken))


def _image() -> Fact:
    """The photographs of the help desk, decoded whole; the median one."""
    from tauten.examples import help_desk
    from tauten.run.codecs.pixels import PixelsCodec

    found = []
    for path in sorted((Path(help_desk.__file__).parent / "pictures").glob("*.jpg")):
        data = path.read_bytes()
        pixels, ms = _timed(lambda data=data: PixelsCodec().decode(data, "image/jpeg", {}, "probe"))  # type: ignore[misc]
        found.append(Fact(pixels.array.nbytes, len(data), ms))
    return sorted(found)[len(found) // 2]


def _audio() -> Fact:
    """Some seconds of 16-bit sound, as microphones give it."""
    from tauten.run.codecs.samples import SamplesCodec

    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SOUND_HZ)
        file.writeframes(bytes(2 * SOUND_S * SOUND_HZ))
    data = written.getvalue()
    samples, ms = _timed(lambda: SamplesCodec().decode(data, "audio/wav", {}, "probe"))
    return Fact(samples.array.nbytes, len(data), ms)


def _timed(decode: Callable[[], Any]) -> tuple[Any, float]:
    taken = []
    for _ in range(TRIES):
        began = time.perf_counter()
        found = decode()
        taken.append(time.perf_counter() - began)
    return found, 1e3 * statistics.median(taken)
