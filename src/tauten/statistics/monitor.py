"""An anytime-valid watch over a rate of errors: it may be looked at after every observation, for ever.

Shortcuts are served, and some of them, drawn by lot with known chances, are verified. The claim is that at every time
a shortcut, given all that was seen before, is wrong with a chance of at most epsilon. Betting against that claim
cannot be expected to pay while it holds; a fortune is evidence against it.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from typing import Final

import msgspec

from tauten.errors import InputError
from tauten.statistics.selective import check_levels

STAKES: Final = (0.5, 1.0, 2.0, 4.0, 9.0)  # best against rates of 1.5, 2, 3, 5 and 10 epsilon
ALL_IN = 0.9  # of what a bet may lose at the most: at 1 a single right answer would end it
_STARTS = 2.12  # at least the sum over n >= 2 of 1 / (n ln(n)^2), which is 2.1098


class Watch(msgspec.Struct):
    """The state of a monitor, as plain data.

    Each verified shortcut i with chance p_i multiplies a fortune by 1 + c (floor / p_i) (wrong_i - epsilon), where
    `floor` is the least chance there is. As the lot is drawn without looking at the answer, the expectation of that
    factor, given the past, is at most 1 while the claim holds; what is not verified changes nothing. A fortune begins
    anew before every observation with the share w_i of one unit, sum of w at most 1, so that errors that begin late
    are not held back by what was lost in the good times before. The sum over all starts is, with what has not yet been
    staked, a nonnegative supermartingale that begins at 1; so is the mean over several stakes c. By Ville's
    inequality it reaches 1 / alpha with chance at most alpha, ever.

    Betting: Waudby-Smith and Ramdas, J. R. Stat. Soc. B 86 (2024) 1-27. Weights of a known design: Waudby-Smith, Wu,
    Ramdas, Karampatziakis and Mineiro, Anytime-valid off-policy inference for contextual bandits, arXiv:2210.10768.
    Tracking a deployed model's risk: Podkopaev and Ramdas (ICLR 2022), arXiv:2110.06177. Many starts: Shin, Ramdas
    and Rinaldo, E-detectors, arXiv:2203.03532; theirs bounds the mean time between false alarms, the weights
    here the chance that there is ever one.
    """

    epsilon: float
    alpha: float
    floor: float
    n: int = 0  # verified
    wrong: int = 0
    weight: float = 0.0  # sums of floor / p, over all and over the wrong ones
    weight_wrong: float = 0.0
    fortunes: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(STAKES))
    peak: float = 0.0  # the largest mean fortune so far: what was once shown stays shown

    def __post_init__(self) -> None:
        check_levels(self.epsilon, self.alpha)
        if not 0.0 < self.floor <= 1.0:
            raise InputError(f"a least chance of {self.floor}", help="give one above 0, up to 1", code="E252")

    def observe(self, wrong: bool, chance: float) -> bool:
        """Count one verified shortcut, drawn with that chance; whether the claim is refuted by now."""
        if not self.floor * (1.0 - 1e-9) <= chance <= 1.0:
            raise InputError(
                f"verified with chance {chance}, the least is {self.floor}",
                help="draw with the chance that the gate gave",
                code="E252",
            )
        share = min(1.0, self.floor / chance)
        start = 1.0 / (_STARTS * (self.n + 2) * math.log(self.n + 2) ** 2)
        gain = share * (float(wrong) - self.epsilon)
        self.fortunes = [
            min((fortune + start) * (1.0 + stake * gain), 1e300)  # beyond that it says nothing more
            for fortune, stake in zip(self.fortunes, stakes(self.epsilon), strict=True)
        ]
        self.n += 1
        self.wrong += wrong
        self.weight += share
        self.weight_wrong += share * wrong
        self.peak = max(self.peak, self.evidence)
        return self.refuted

    @property
    def evidence(self) -> float:
        """The mean fortune now: 20 is as unlikely under the claim as 1 in 20."""
        return math.fsum(self.fortunes) / len(self.fortunes)

    @property
    def refuted(self) -> bool:
        """Whether the claim was refuted at some time, with false alarms in at most a share alpha of all worlds."""
        return self.peak * self.alpha >= 1.0

    @property
    def rate(self) -> float | None:
        """The share of wrong ones among shortcuts, each verified one weighted for those that it stands for."""
        return self.weight_wrong / self.weight if self.weight else None


def stakes(epsilon: float) -> tuple[float, ...]:
    """How much is bet: below 1 / epsilon, so that no fortune turns negative."""
    return tuple(min(stake, ALL_IN / epsilon) for stake in STAKES)
