"""Conversations over many requests: an id that only its tenant can use, a pinned plan, an expiry.

The server makes the id (122 random bits or more): one that a client could choose, another could guess.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import secrets

from tauten.clock import Clock, real
from tauten.describe.ports import Session
from tauten.errors import NotFound
from tauten.serve.kept.kept import Kept
from tauten.serve.service import Service

HEADER = "x-tauten-session"
IDLE_S = 1800.0  # half an hour without a word: a person who comes back after that expects a fresh start
MOST = 10_000  # a conversation holds some kilobytes of history
MOST_BYTES = 256 * 1024 * 1024  # of all histories: those that hold whole documents are fewer


class Held:
    """A session, and the plan by which each workflow answers it."""

    __slots__ = ("plans", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.plans: dict[str, str] = {}


class Sessions:
    """The sessions of a site."""

    def __init__(
        self, *, most: int = MOST, most_bytes: int = MOST_BYTES, idle_s: float = IDLE_S, clock: Clock = real
    ) -> None:
        self.idle_s = idle_s
        self.begun = 0
        self.ended = {"expired": 0, "evicted": 0, "deleted": 0}  # evicted: for want of room
        self._kept: Kept[Held] = Kept(most, most_bytes=most_bytes, age_s=idle_s, clock=clock, gone=self._gone)
        self._names: Kept[str] = Kept(most, age_s=idle_s, clock=clock)  # ids by what a tenant calls them

    def __len__(self) -> int:
        return len(self._kept)

    def open(self, tenant: str, id: str = "") -> Session:
        """The tenant's session of that id, or a new one; raises NotFound for one that it does not have."""
        if id:
            return self._held(tenant, id).session
        session = Session(secrets.token_urlsafe(16), tenant)
        self.begun += 1
        self._kept.put(tenant, session.id, Held(session))
        return session

    def named(self, tenant: str, name: str, *, begin: bool) -> Session:
        """The session that a tenant calls by a name of its own: a new one, or that which it began before.

        Such a name can be guessed, but only with the tenant's key. Raises NotFound where none was begun.
        """
        if begin:
            self.forget(tenant, name)
            session = self.open(tenant)
            self._names.put(tenant, name, session.id)
            return session
        id = self._names.get(tenant, name)
        if id is None or self._kept.get(tenant, id) is None:
            raise NotFound(
                "a sequence that was not begun, or that was idle for too long",
                help=f"begin with sequence_start; sequences end after {self.idle_s / 60:g} idle minutes",
                code="E283",
            )
        self._names.touch(tenant, name)
        return self.open(tenant, id)

    def rest(self, session: Session, name: str = "") -> None:
        """A request of it has ended: its idle time counts from now on, and its history may have grown.

        `name` is what its tenant calls it.
        """
        self._kept.touch(session.tenant, session.id)
        self._kept.weigh(session.tenant, session.id, _size(session))
        if name:
            self._names.touch(session.tenant, name)

    def forget(self, tenant: str, name: str) -> None:
        """End what a tenant calls by a name, where it is still there."""
        id = self._names.pop(tenant, name)
        if id is not None and self._kept.get(tenant, id) is not None:
            self.end(tenant, id)

    def plan(self, session: Session, service: Service) -> str:
        """The plan that answers this session: its first one, as long as it is open; else one drawn now.

        A conversation stays with one plan, so that its cached prefixes hit and its tone does not change.
        """
        held = self._kept.get(session.tenant, session.id)
        if held is None:  # ended while it was used
            return service.engine.draw()
        if held.plans.get(service.name) not in service.engine.plans:
            held.plans[service.name] = service.engine.draw()
        return held.plans[service.name]

    def end(self, tenant: str, id: str) -> None:
        """Forget a session; raises NotFound for one that the tenant does not have."""
        self._held(tenant, id)
        self._kept.pop(tenant, id)
        self.ended["deleted"] += 1

    def tidy(self) -> None:
        """End the sessions that were idle for too long; without it each ends when it is next looked at."""
        self._kept.tidy()
        self._names.tidy()

    def _gone(self, held: Held, why: str) -> None:
        self.ended[why] += 1

    def _held(self, tenant: str, id: str) -> Held:
        held = self._kept.get(tenant, id)
        if held is None:
            raise NotFound(
                f"no session {id[:40]!r}",
                help=f"sessions end after {self.idle_s / 60:g} idle minutes: leave {HEADER} out for a new one",
                code="E283",
            )
        self._kept.touch(tenant, id)
        return held


def _size(session: Session) -> int:
    """About as many bytes as its history says; what a workflow keeps in its state nobody can weigh."""
    said = (each.get("content") for each in session.history if isinstance(each, dict))
    return sum(len(text) for text in said if isinstance(text, str))
