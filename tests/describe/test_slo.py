"""SLOs as a command line writes them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import pytest

from tauten.describe.slo import Slo, parse_slo
from tauten.errors import InputError


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("p95<800ms, first<400ms", Slo(p95_ms=800, first_output_ms=400)),
        ("p50<.5s,cost<=0.2c", Slo(p50_ms=500, cost_cents=0.2)),
        ("memory<2GB, quality_loss<1pt", Slo(memory_bytes=2_000_000_000, quality_loss=0.01)),
        (
            "p95_ms<800ms, memory_bytes<1MB",
            Slo(p95_ms=800, memory_bytes=1_000_000),
        ),  # as suggestions name them
        ("", Slo()),
    ],
)
def test_terms(text: str, slo: Slo) -> None:
    assert parse_slo(text) == slo


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("p95<1.2.3s", "cannot read"),
        ("p95<.s", "cannot read"),
        ("p95<\u0663s", "cannot read"),
        (f"memory<{'9' * 400}GB", "cannot read"),
        ("p95<1s, p95<2s", "p95_ms twice"),
        ("p59<800ms", "did you mean `p99_ms`?"),
        ("p95<800hours", "cannot read"),
    ],
)
def test_terms_that_say_nothing(text: str, seen: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_slo(text)
    assert raised.value.code == "E204"
    assert seen in str(raised.value)
