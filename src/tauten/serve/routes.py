"""Which handler answers a method and a path."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tauten.errors import InputError, NotFound

if TYPE_CHECKING:
    from tauten.serve.door import Call
    from tauten.serve.exchange import Reply
    from tauten.serve.http.cycle import Express

Handler = Callable[["Call"], Awaitable["Reply"]]


class NotAllowed(InputError):
    """A path that answers other methods."""

    code = "E289"
    http_status = 405
    grpc_status = "UNIMPLEMENTED"


@dataclass(frozen=True, slots=True)
class Route:
    """A method (or ``WEBSOCKET``), a path with ``{name}`` segments, and who answers.

    `express` gives what answers requests without a task, where it can. `open` routes need no API key (probes). `failed` turns an error into the API's own form. `name` is what
    metrics and logs say; it never holds a value of the path.
    """

    method: str
    path: str
    handler: Any  # Handler, or a socket's handler for WEBSOCKET
    failed: Callable[[Any], Reply]
    name: str
    open: bool = False
    express: Callable[[Call], Express | None] | None = None  # a quicker way for heads that repeat


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
            raise NotAllowed(f"{method} {path}", help=f"this path answers {', '.join(sorted(others))}")
        raise NotFound(f"no such path: {path}", help=self._instead(wanted, path))

    def _instead(self, method: str, path: str) -> str:
        """The path that was probably meant, else where the APIs begin."""
        known = {each.path for each in self.routes if (each.method == "WEBSOCKET") == (method == "WEBSOCKET")}
        close = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
        if close:
            return f"did you mean `{close[0]}`?"
        return f"here are: {', '.join(self.roots)}" if self.roots else ""


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
