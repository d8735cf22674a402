"""Log-mel features as Whisper was trained on them, and where to cut long sound, in NumPy."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

RATE = 16_000  # Hz; what Whisper was trained on
HOP = 160  # samples: one feature frame is 10 ms
_WINDOW = 400  # samples of one transform: 25 ms
_LINEAR_HZ = 1000.0  # the mel scale of Slaney's Auditory Toolbox is linear below, logarithmic above
_LINEAR_STEP_HZ = 200.0 / 3
_LOG_STEP = np.log(6.4) / 27


def log_mel(samples: Floats, bands: int = 80) -> Floats:
    """Features of shape (bands, len(samples) // HOP): log10 power, floored 8 below its peak, scaled to about [-1, 1]."""
    padded = np.pad(samples.astype(np.float32), _WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::HOP][: len(samples) // HOP]
    hann = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)).astype(np.float32) ** 2
    bins = np.log10(np.maximum(_filters(bands) @ power.T, 1e-10))
    scaled: Floats = ((np.maximum(bins, bins.max() - 8.0) + 4.0) / 4.0).astype(np.float32)
    return scaled


@functools.cache
def _filters(bands: int) -> Floats:
    """Triangular filters of equal area, evenly spaced on the mel scale: shape (bands, _WINDOW // 2 + 1)."""
    edges = _hz(np.linspace(0.0, _mel(RATE / 2), bands + 2))
    bins = np.linspace(0.0, RATE / 2, _WINDOW // 2 + 1)
    widths = np.diff(edges)
    rising = (bins - edges[:-2, None]) / widths[:-1, None]
    falling = (edges[2:, None] - bins) / widths[1:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    triangles = np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]
    return triangles.astype(np.float32)


def _mel(hz: float) -> float:
    if hz < _LINEAR_HZ:
        return hz / _LINEAR_STEP_HZ
    return float(_LINEAR_HZ / _LINEAR_STEP_HZ + np.log(hz / _LINEAR_HZ) / _LOG_STEP)


def _hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    corner = _LINEAR_HZ / _LINEAR_STEP_HZ
    return np.where(
        mel < corner, mel * _LINEAR_STEP_HZ, _LINEAR_HZ * np.exp(_LOG_STEP * np.maximum(mel - corner, 0.0))
    )


def loudest(samples: Floats) -> float:
    """The largest root mean square of any 30 ms; 0.0 for no samples."""
    return float(np.sqrt(_energy(samples, RATE * 30 // 1000).max())) if len(samples) else 0.0


def cut(samples: Floats, longest: int) -> list[Floats]:
    """Cut into pieces of at most `longest` samples, each at the quietest 200 ms of its last third."""
    pieces = []
    while len(samples) > longest:
        start = longest * 2 // 3
        step = RATE // 5
        quiet = int(_energy(samples[start:longest], step).argmin())
        at = min(start + quiet * step + step // 2, longest)
        pieces.append(samples[:at])
        samples = samples[at:]
    return [*pieces, samples]


def _energy(samples: Floats, step: int) -> NDArray[np.float64]:
    """Mean square of each `step` samples; a short rest counts as a step of its own."""
    squares = np.square(samples, dtype=np.float64)
    starts = np.arange(0, len(samples), step)
    counts = np.minimum(step, len(samples) - starts)
    energy: NDArray[np.float64] = np.add.reduceat(squares, starts) / counts
    return energy
