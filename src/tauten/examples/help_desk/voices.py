"""Spoken questions: Kokoro says the sentence, then a room, a microphone and sometimes a telephone happen to it.

This opens the model itself, without an engine, so that a recording can be rendered anywhere.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tauten.describe.payload import Audio
from tauten.describe.phonemes import Pronouncer
from tauten.describe.stages.speak import RATE, Kokoro, waveform
from tauten.errors import MachineError
from tauten.examples.help_desk.rendered import kept
from tauten.models import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Sound = NDArray[np.float32]

VOICES: dict[str, tuple[str, ...]] = {
    "dev": ("jf_nezumi", "jm_kumo", "jf_gongitsune", "jf_nezumi+jm_kumo"),
    "held_out": ("jm_kumo", "jf_nezumi", "jf_tebukuro", "jf_tebukuro+jm_kumo"),
}
SPEEDS = (0.9, 1.0, 1.0, 1.1)
_THREADS = 2  # more gain nothing for sentences this short

Run = Callable[[dict[str, Any]], Any]
_lock = threading.Lock()
_opened: list[tuple[str, Run]] = []


def clip(text: str, half: str) -> Sound:
    """The sentence as one voice of that half says it: 24 kHz, clean. A sentence has one voice and speed."""
    rng = random.Random(f"{half}/{text}")
    voice, speed = rng.choice(VOICES[half]), rng.choice(SPEEDS)
    data = kept(f"kokoro-82m\n{voice}\n{speed}\n{text}", lambda: _said(text, voice, speed))
    return _samples(data)


def spoken(text: str, half: str, seed: str) -> Audio:
    """A spoken question as a device would send it: WAV of 8, 16 or 24 kHz."""
    samples, rate = heard(clip(text, half), random.Random(seed))
    return Audio.from_array(samples, rate)


def close() -> None:
    """Free the voice model; the next clip opens it again."""
    with _lock:
        _opened.clear()


def _said(text: str, voice: str, speed: float) -> bytes:
    import numpy as np

    with _lock:
        if not _opened:
            _opened.append(_open())
        _, run = _opened[0]
        store = Store()
        pronouncer = Pronouncer.load(store.files("english-g2p"))
        items = Kokoro(store.files("kokoro-82m"), pronouncer, voice, speed).items(text)
        return Audio.from_array(np.concatenate([waveform(run(item)) for item in items]), RATE).data


def _open() -> tuple[str, Run]:
    """OpenVINO in f32 halves the time; its default, bfloat16, loses words."""
    path = str(Store().files("kokoro-82m")["model.onnx"])
    with contextlib.suppress(ImportError):
        import openvino

        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": _THREADS}
        model = openvino.Core().compile_model(path, "CPU", hints)
        return "openvino", lambda item: model(item)[0]
    try:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in the onnx backend
        import onnxruntime
    except ImportError as missing:
        raise MachineError(
            "neither openvino nor onnxruntime is installed; spoken questions need one",
            help='run `pip install "tauten[local]"`',
            code="E315",
        ) from missing
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return "onnxruntime", lambda item: session.run(None, item)[0]


def _samples(wav: bytes) -> Sound:
    import io
    import wave

    import numpy as np

    with wave.open(io.BytesIO(wav)) as file:
        levels = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return levels.astype(np.float32) / np.float32(32768)


def heard(speech: Sound, rng: random.Random) -> tuple[Sound, int]:
    """The speech in a room with a microphone: (samples, rate in Hz)."""
    import numpy as np

    lead, tail = (np.zeros(round(RATE * rng.uniform(0.15, 0.6)), np.float32) for _ in range(2))
    sound = np.concatenate([lead, speech, tail])
    if rng.random() < 0.6:
        sound = _reverb(sound, rng)
    sound = _noisy(sound, rng)
    rate = rng.choice((24_000, 16_000, 16_000, 8_000))
    if rate == 8_000:
        sound = _band(sound, 300.0, 3_400.0)  # Hz: the telephone's band
    sound = _resample(sound, rate)
    loudness = 10 ** (rng.uniform(-20.0, -3.0) / 20)  # dB of full scale, at the loudest sample
    gain = np.float32(loudness / max(float(np.abs(sound).max()), 1e-6))
    return sound * gain, rate


def _reverb(sound: Sound, rng: random.Random) -> Sound:
    """Echoes of a furnished room: noise that dies away in 0.15 to 0.45 s, well under the direct sound."""
    import numpy as np

    seconds = rng.uniform(0.15, 0.45)
    tail = np.random.default_rng(rng.getrandbits(32)).normal(size=round(RATE * seconds))
    tail *= np.exp(-6.9 * np.arange(len(tail)) / len(tail))  # 6.9 = ln 1000: 60 dB at its end
    tail *= rng.uniform(0.05, 0.25) / np.sqrt((tail**2).sum())
    tail[0] = 1.0
    size = len(sound) + len(tail)
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)
    room: Sound = wet[: len(sound)].astype(np.float32)
    return room


def _noisy(sound: Sound, rng: random.Random) -> Sound:
    """Room noise, stronger in the bass, at 12 to 35 dB below the speech."""
    import numpy as np

    white = np.fft.rfft(np.random.default_rng(rng.getrandbits(32)).normal(size=len(sound)))
    slope = 1 / np.maximum(np.arange(len(white)), 40) ** rng.uniform(0.3, 0.9)
    noise = np.fft.irfft(white * slope, len(sound))
    level = np.sqrt(np.mean(sound**2)) * 10 ** (-rng.uniform(12.0, 35.0) / 20)
    noise *= level / np.sqrt(np.mean(noise**2))
    return sound + noise.astype(np.float32)


def _band(sound: Sound, low: float, high: float) -> Sound:
    import numpy as np

    spectrum = np.fft.rfft(sound)
    pitch = np.fft.rfftfreq(len(sound), 1 / RATE)
    edge = 60.0  # Hz over which the band's edges fall
    gain = 1 / (1 + np.exp((low - pitch) / edge)) / (1 + np.exp((pitch - high) / edge))
    voice: Sound = np.fft.irfft(spectrum * gain, len(sound)).astype(np.float32)
    return voice


def _resample(sound: Sound, rate: int) -> Sound:
    """Exact for these rates: cut the spectrum at the new half rate."""
    import numpy as np

    if rate == RATE:
        return sound
    size = round(len(sound) * rate / RATE)
    spectrum = np.fft.rfft(sound)[: size // 2 + 1]
    slower: Sound = (np.fft.irfft(spectrum, size) * size / len(sound)).astype(np.float32)
    return slower
