"""Which APIs an application has: our files, and what other packages name by entry points."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from serve.kit_asgi import ask, site
from serve.kit_workflows import shouted
from tauten.errors import NotFound
from tauten.serve import apis
from tauten.serve.service import Service

OURS = {"native", "oip", "openai", "operations", "responses"}
PLAIN = """
from tauten.describe.payload import Text
from tauten.serve.exchange import Reply
from tauten.serve.routes import Route


class Api:
    def __init__(self, site):
        self.site = site

    def routes(self):
        return [Route("POST", "/plain/{name}", self.run, failure, "plain")]

    async def run(self, call):
        service = self.site.services[call.params["name"]]
        answer = await call.answer(service, service.workflow.bind((await call.body()).decode()))
        return Reply(str(answer.value).encode(), media_type="text/plain")


def failure(error):
    return Reply(f"{error}".encode(), media_type="text/plain", status=error.http_status)
"""


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution that ships an API, as if it were installed."""
    (tmp_path / "stand_in_plain.py").write_text(PLAIN)
    facts = tmp_path / "stand_in-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[tauten.apis]\nplain = stand_in_plain:Api\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stand_in_plain", raising=False)


def test_our_files_are_the_apis_where_nothing_else_is_installed() -> None:
    assert set(apis.names()) == OURS
    for name in OURS:
        assert apis.find(name).__module__ == f"tauten.serve.apis.{name}"


@pytest.mark.usefixtures("plain")
def test_an_installed_package_adds_its_own() -> None:
    async def main() -> None:
        async with site(Service(shouted)) as app:
            assert set(app.apis) == {*OURS, "plain"}
            done = await ask(app, "POST", "/plain/shouted", b"hello")
            assert (done.status, done.body) == (200, b"HELLO")
            lost = await ask(app, "POST", "/plain/shout", b"hello")
            assert (lost.status, lost.body[:4]) == (404, b"E201")
            assert (await ask(app, "GET", "/health/live")).status == 200

    asyncio.run(main())


@pytest.mark.usefixtures("plain")
def test_an_application_may_have_a_few_of_them() -> None:
    async def main() -> None:
        async with site(Service(shouted), apis=["plain"]) as app:
            assert list(app.apis) == ["plain"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "hint"), [("nativ", "`native`"), ("zzz", "openai"), ("_openai", "`openai`")]
)
def test_an_unknown_name_is_answered_with_the_closest(name: str, hint: str) -> None:
    with pytest.raises(NotFound, match="no API is called") as caught:
        apis.find(name)
    assert hint in caught.value.help
