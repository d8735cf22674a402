"""The quality gate: metrics, verdicts on paired evidence, many candidates, and the evidence file."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.improve.quality.candidates import Halves, compare_many, split
from tauten.improve.quality.evidence import Evidence, Scored, evidence_path, scored
from tauten.improve.quality.metric import Metric, metric
from tauten.improve.quality.outcomes import Outcome, Rate, Summary, summarize
from tauten.improve.quality.verdict import (
    EXIT_CODES,
    Decision,
    Flip,
    Verdict,
    check_margin,
    compare,
    decide,
    exact_decision,
)

__all__ = [
    "EXIT_CODES",
    "Decision",
    "Evidence",
    "Flip",
    "Halves",
    "Metric",
    "Outcome",
    "Rate",
    "Scored",
    "Summary",
    "Verdict",
    "check_margin",
    "compare",
    "compare_many",
    "decide",
    "evidence_path",
    "exact_decision",
    "metric",
    "scored",
    "split",
    "summarize",
]
