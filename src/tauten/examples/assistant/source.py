"""Whom the stages ask about orders: what was named, else a service that is started here when first asked.

A stage is code, and caches know it by that: where the service is does not name a result. So a process asks one
service. `$TAUTEN_ORDERS` says its address; a test or a simulation gives a source of its own by `use`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tauten.errors import MachineError
from tauten.examples.assistant.orders import Source

ADDRESS = "TAUTEN_ORDERS"

_named: list[Source] = []
_starting = threading.Lock()


def current() -> Source:
    """Who is asked. The first call may start the service; raises MachineError where what it needs is not here."""
    if not _named:
        with _starting:
            if not _named:
                _named.append(_found())
    return _named[-1]


@contextmanager
def use(source: Source) -> Iterator[None]:
    """Ask this one in a `with` block."""
    _named.append(source)
    try:
        yield
    finally:
        _named.remove(source)


def _found() -> Source:
    try:
        from tauten.examples.assistant.service import Remote, Service
    except ImportError as error:
        raise MachineError(
            f"the service of the orders needs {error.name}, which is not installed",
            help="pip install 'tauten[serve]'",
            code="E315",
        ) from error
    if address := os.environ.get(ADDRESS, ""):
        return Remote(address)
    started = Service().start()  # its thread ends with this process
    print(f"orders are looked up at {started.url}", file=sys.stderr, flush=True)
    return Remote(started.url)
