"""Paths that are not there: which one was probably meant, and what it costs to say so."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from typing import Any

import pytest

from serve.kit_workflows import shouted
from tauten.errors import NotFound
from tauten.serve.app import App, Site
from tauten.serve.exchange import failure
from tauten.serve.routes import LONGEST_HINTED, Route, Router
from tauten.serve.service import Service


def router(*more: Route) -> Router:
    return Router([*App(Site([Service(shouted)])).router.routes, *more])


def advice(router: Router, method: str, path: str) -> str:
    with pytest.raises(NotFound) as caught:
        router.find(method, path)
    return caught.value.help


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("GET", "/v1/workflow", "/v1/workflows"),
        ("GET", "/v1/workflows/", "/v1/workflows"),
        ("POST", "/v1/chat/completion", "/v1/chat/completions"),
        ("POST", "/v2/chat/completions", "/v1/chat/completions"),
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/embedding", "/v1/embeddings"),
        ("GET", "/metric", "/metrics"),
        ("GET", "/health/redy", "/health/ready"),
        ("POST", "/v1/workflow/shouted", "/v1/workflows/{name}"),
        ("POST", "/v2/model/a-model-with-quite-a-long-name/infer", "/v2/models/{name}/infer"),
        ("WEBSOCKET", "/v1/workflow/shouted/ws", "/v1/workflows/{name}/ws"),
    ],
)
def test_a_path_that_is_nearly_right_is_told_the_right_one(method: str, path: str, meant: str) -> None:
    assert advice(router(), method, path) == f"did you mean `{meant}`?"


@pytest.mark.parametrize("path", ["/", "/index.html", "/wp-login.php", "/v1/../../etc/passwd", "", "//////"])
def test_a_path_that_is_like_nothing_is_told_no_other(path: str) -> None:
    assert advice(router(), "GET", path) == ""


def calls_of(router: Router, path: str) -> int:
    """How many calls a look-up makes, of Python and of what lies below: what the clock would show, without a clock."""
    count = 0

    def counted(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        router.find("GET", path)
    except NotFound:
        return count
    finally:
        sys.setprofile(before)
    raise AssertionError(path)


@pytest.mark.parametrize("length", [20, LONGEST_HINTED, LONGEST_HINTED + 1, 8192])
@pytest.mark.parametrize("begin", ["/", "/v1/", "/v2/models/x/versions/1/generate_strea"])
@pytest.mark.parametrize("filler", ["a", "/", "/v2/models", "abcdefghijklmnopqrstuvwxyz/_-0123456789"])
def test_a_path_that_is_not_there_costs_little_whatever_it_is(begin: str, filler: str, length: int) -> None:
    """Who asks may be anybody: no key was looked at."""
    found = router()
    path = (begin + filler * length)[:length]
    assert calls_of(found, path) <= 8 * len(found.routes)


def test_what_is_compared_does_not_grow_with_the_models_of_a_server() -> None:
    def infer(name: str) -> Route:
        return Route("POST", f"/v2/models/{name}/infer", None, failure, "oip-infer")

    few, many = router(infer("m")), router(*(infer(f"m{each}") for each in range(500)))
    assert calls_of(many, "/v2/model/m1/infer") == calls_of(few, "/v2/model/m1/infer")
    assert advice(many, "POST", "/v2/model/m1/infer") == "did you mean `/v2/models/{name}/infer`?"
