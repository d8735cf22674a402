"""What one inference call carried: bytes of its body and of the answer's, without heads."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.run.remote.providers import Provider
from tauten.run.usage.call import Call, Outcome


class Traffic:
    """Filled as the call goes; it says how far it came."""

    __slots__ = ("received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0

    def call(self, provider: Provider, model: str, started: float, ended: float, outcome: Outcome) -> Call:
        """As it is booked; whose step it was, who waits for it knows."""
        return Call(
            step="",
            provider=provider.name,
            model=model,
            region=provider.region,
            key=provider.key,
            started=started,
            ended=ended,
            outcome=outcome,
            units={
                "requests": 1.0,
                "sent_bytes": float(self.sent_bytes),
                "received_bytes": float(self.received_bytes),
            },
            counted="measured",
        )
