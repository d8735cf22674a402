"""What an SLO says of one request that names no deadline: when it is refused, and when it is stopped."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

from tauten.describe.slo import Slo
from tauten.run.request import ANY_TIME, Aim

LATE = 3.0  # a request may take three times its objective before it is given up: late is not yet useless
WITHOUT_SLO_S = 60.0  # a workflow that promises nothing: as long as most clients wait


def aim_of(slo: Slo) -> Aim:
    """What it is admitted for: the limits of the SLO."""
    end_s, first_s = _limit_s(slo), (slo.first_output_ms or math.inf) / 1e3
    return Aim(end_s, first_s) if min(end_s, first_s) < math.inf else ANY_TIME


def budget_of(slo: Slo) -> float:
    """Seconds that it may take before its work is stopped."""
    limit_s = _limit_s(slo)
    return limit_s * LATE if limit_s < math.inf else WITHOUT_SLO_S


def _limit_s(slo: Slo) -> float:
    return (slo.p99_ms or slo.p95_ms or slo.p50_ms or math.inf) / 1e3
