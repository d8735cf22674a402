"""How long each scenario runs: the figures of record, and a quick look of about three minutes."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FLOWS = Path(__file__).parent / "served.py"  # the workflows that are served


@dataclass(frozen=True)
class Settings:
    """Seconds and counts of all scenarios."""

    quick: bool = False
    seed: int = 1
    rounds: int = 5  # of the batching curves: medians over them
    levels: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of bare capacity
    point_s: float = 2.0  # of a batching curve
    desk_rates: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # around what two cores answer
    desk_point_s: float = 36.0  # by rates, rounds and four waits: 48 minutes
    desk_rounds: int = 5
    overload_s: float = 10.0
    burst_s: float = 5.0
    kills: int = 12  # a minute of one every 5 s
    kill_every_s: float = 5.0
    worker_kills: int = 5  # of the language model's worker; each costs a start of about 2 s
    leavers: int = 50
    steady_s: float = 600.0


QUICK = Settings(
    quick=True,
    rounds=1,
    levels=(0.1, 0.5),
    point_s=1.0,
    desk_rates=(1.0,),
    desk_point_s=6.0,
    desk_rounds=1,
    overload_s=3.0,
    burst_s=1.5,
    kills=3,
    kill_every_s=2.0,
    worker_kills=1,
    leavers=20,
    steady_s=20.0,
)
