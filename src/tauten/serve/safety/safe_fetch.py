"""Media that a request names by address: fetched from public addresses only, within caps of size and time.

What stops a request from reaching into this network is in `run/decode/fetch.py`: every address of a name is checked
after it was resolved, the connection goes to the checked address, and each redirect is checked anew.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.errors import InputError, MachineError
from tauten.run.decode.fetch import MAX_BYTES, Resolver, fetch

BYTES = min(32 * 1024 * 1024, MAX_BYTES)  # as much as a body may bring
TIMEOUT_S = 10.0  # of a request's own budget; a server that is slower would make every answer late


async def safe_fetch(
    url: str, *, resolve: Resolver | None = None, max_bytes: int = BYTES, timeout_s: float = TIMEOUT_S
) -> bytes:
    """The bytes at an http(s) address. Whatever goes wrong there is the request's mistake, not the server's.

    Raises InputError: E241 an address that is refused, E242 no good answer; MediaError E214 too large.
    """
    try:
        return await fetch(url, max_bytes=max_bytes, timeout_s=timeout_s, resolve=resolve)
    except MachineError as error:
        raise InputError(
            "the address did not give its media in time",
            help="send the bytes as a data URL: data:image/png;base64,...",
            code="E242",
        ) from error
