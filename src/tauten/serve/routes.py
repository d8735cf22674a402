"""Which handler answers a method and a path."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tauten.errors import InputError, NotFound

if TYPE_CHECKING:
    from tauten.serve.door import Call
    from tauten.serve.exchange import Reply
    from tauten.serve.http.cycle import Express

Handler = Callable[["Call"], Awaitable["Reply"]]


LIKE = 0.6  # of two paths' pairs of letters that they share: from here on one may be meant by the other
LONGEST_HINTED = 128  # letters of a path that is compared with ours, which have about 50 at most


class NotAllowed(InputError):
    """A path that answers other methods. `allow` are those of HTTP among them, as a reply has to name them."""

    code = "E289"
    http_status = 405
    grpc_status = "UNIMPLEMENTED"

    def __init__(self, message: str, *, help: str, methods: set[str]) -> None:
        super().__init__(message, help=help)
        self.allow = methods - {"WEBSOCKET"} | ({"HEAD"} if "GET" in methods else set())


@dataclass(frozen=True, slots=True)
class Route:
    """A method (or ``WEBSOCKET``), a path with ``{name}`` segments, and who answers.

    `express` gives what answers requests without a task, where it can. `open` routes need no API key (probes). `failed` turns an error into the API's own form. `name` is what
    metrics and logs say; it never holds a value of the path. `codings` are those that its replies come in.
    """

    method: str
    path: str
    handler: Any  # Handler, or a socket's handler for WEBSOCKET
    failed: Callable[[Any], Reply]
    name: str
    open: bool = False
    express: Callable[[Call], Express | None] | None = None  # a quicker way for heads that repeat
    codings: Collection[str] = ()  # each for a client that asks for it alone


class Router:
    """Static paths by one look-up; paths with names by their segments. `roots` are where the APIs begin."""

    def __init__(self, routes: Iterable[Route], roots: Sequence[str] = ()) -> None:
        self.routes = list(routes)
        self.roots = roots
        self._static: dict[tuple[str, str], Route] = {}
        self._named: list[tuple[tuple[str, ...], Route]] = []
        for route in self.routes:
            if "{" in route.path:
                self._named.append((tuple(route.path.split("/")), route))
            else:
                self._static[route.method, route.path] = route
        self._hints = {socket: list(self._to_hint(socket)) for socket in (True, False)}

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and its names' values; raises NotFound, or NotAllowed with the methods there are."""
        wanted = "GET" if method == "HEAD" else method
        route = self._static.get((wanted, path))
        if route is not None:
            return route, {}
        parts = path.split("/")
        others: set[str] = set()
        for pattern, route in self._named:
            values = _match(pattern, parts)
            if values is None:
                continue
            if route.method == wanted:
                return route, values
            others.add(route.method)
        others.update(each for each, there in self._static if there == path)
        if others:
            there = f"this path answers {', '.join(sorted(others))}"
            raise NotAllowed(f"{method} {path}", help=there, methods=others)
        raise NotFound(f"no such path: {path}", help=self._instead(wanted, path))

    def _instead(self, method: str, path: str) -> str:
        """The path that was probably meant, else where the APIs begin."""
        close = self._nearest(method, path) if len(path) <= LONGEST_HINTED else ""
        if close:
            return f"did you mean `{close}`?"
        return f"here are: {', '.join(self.roots)}" if self.roots else ""

    def _nearest(self, method: str, path: str) -> str:
        """The path of ours that is most like another, if any is. Who has no key may ask that, too: it is to cost little."""
        given, segments = _pairs(path), path.count("/")
        nearest, best = "", LIKE
        for hint in self._hints[method == "WEBSOCKET"]:
            # what stands in place of names is not held against a path
            theirs = len(hint.pairs) if segments == hint.segments else len(given)
            likeness = 2 * len(given & hint.pairs) / (len(hint.pairs) + theirs)
            if likeness > best:
                nearest, best = hint.path, likeness
        return nearest

    def _to_hint(self, socket: bool) -> Iterable[_Hint]:
        """What is compared: not the paths that are one with names, filled in, for each model of a server."""
        routes = {each.path: each for each in self.routes if (each.method == "WEBSOCKET") == socket}
        for path, route in sorted(routes.items()):
            parts = path.split("/")
            filled = any(
                each.path != path and each.name == route.name and _match(pattern, parts) is not None
                for pattern, each in self._named
            )
            hint = _Hint.of(path)
            if hint.pairs and not filled:
                yield hint


@dataclass(frozen=True, slots=True)
class _Hint:
    """A path as others are compared with it: `segments` where it has names, whose values say nothing; else -1."""

    path: str
    pairs: frozenset[str]
    segments: int

    @classmethod
    def of(cls, path: str) -> _Hint:
        fixed = "/".join(part for part in path.split("/") if not part.startswith("{"))
        return cls(path, _pairs(fixed), path.count("/") if fixed != path else -1)


def _pairs(path: str) -> frozenset[str]:
    """The pairs of neighbouring letters in a path, each segment with the stroke before it."""
    return frozenset({first + second for first, second in pairwise(path) if second != "/"})


def _match(pattern: tuple[str, ...], parts: list[str]) -> dict[str, str] | None:
    if len(pattern) != len(parts):
        return None
    values: dict[str, str] = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted.startswith("{"):
            if not part:
                return None
            values[wanted[1:-1]] = unquote(part)
        elif wanted != part:
            return None
    return values
