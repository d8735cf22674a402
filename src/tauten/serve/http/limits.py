"""What the HTTP server accepts: sizes, counts and times, each with its reason."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import dataclass, fields

from tauten.errors import InputError

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one server; every one of them is positive."""

    header_bytes: int = 64 * KIB  # nginx and AWS stop at 32-64 KiB; a large cookie or token is 8
    header_count: int = 100  # as Apache and Go's common proxies; browsers send about 20
    target_bytes: int = 8 * KIB  # the length every proxy passes on
    body_bytes: int = 32 * MIB  # two minutes of 48 kHz stereo PCM, in base64
    buffered_body_bytes: int = (
        MIB  # a body up to here is whole before the app runs: one f32 224x224 image is 602 KB
    )
    waiting_body_bytes: int = 256 * KIB  # of a longer body, what waits for the app: one read of uvloop
    head_s: float = 10.0  # a head is one packet; mobile networks retry for a few seconds
    body_s: float = 30.0  # grace before the slowest rate below is asked for
    body_bytes_per_s: int = 16 * KIB  # slower than any 3G uplink that still works
    idle_s: float = 75.0  # longer than the 60 s of common load balancers, so that they close first
    write_stall_s: float = 30.0  # a client that reads nothing for so long has gone
    linger_s: float = 1.0  # after a refusal the rest is read and dropped, else a reset overtakes the answer
    connections: int = 1024  # the usual file limit of a process
    pipelined: int = 16  # waiting requests of one connection, beyond the one that runs
    write_bytes: int = 64 * KIB  # what may wait for a slow reader before `send` waits too
    departed_s: float = (
        0.05  # an app that does not watch for departures is cancelled after this: within 100 ms
    )
    websocket_bytes: int = 16 * MIB  # one message: a minute of 48 kHz stereo PCM
    websocket_fragments: int = 16 * KIB  # of one message: the longest in pieces of 1 KiB
    websocket_waiting: int = 16  # received messages that wait for the app, then reading stops
    websocket_waiting_bytes: int = MIB  # and their bytes: a message that is longer waits alone
    websocket_ping_s: float = 20.0  # below the 60 s after which proxies drop a silent connection
    websocket_pong_s: float = 20.0  # an answer slower than this is a dead peer

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise InputError(
                    f"HttpLimits.{field.name} is {value!r}, expected a positive number",
                    help="leave it out for the default",
                )
