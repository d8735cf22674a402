"""API keys: files, scopes, who comes in, and what strangers are told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import threading
from pathlib import Path

import pytest

from serve.kit_asgi import ask, site
from serve.kit_workflows import shouted
from tauten.cli.main import run
from tauten.errors import InputError, NotFound
from tauten.serve.door import Door
from tauten.serve.safety.guard import Forbidden, Guard, Unauthorized, host_of, is_loopback
from tauten.serve.safety.keys import Keys, new_key, read_keys, revoke_key
from tauten.serve.safety.limits import Busy
from tauten.serve.service import Service

TODAY = "2026-01-01"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def test_a_key_is_shown_once_and_only_its_hash_is_kept(file: Path) -> None:
    token = new_key(file, "shop", created=TODAY, tenant="retail", rate_per_s=5.0, timing=True)
    assert re.fullmatch(r"tt_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", token)
    assert file.stat().st_mode & 0o777 == 0o600
    kept = file.read_text()
    assert token not in kept
    assert token.rpartition("_")[2] not in kept
    assert hashlib.sha256(token.encode()).hexdigest() in kept
    caller = Keys(file).find(token)
    assert caller is not None
    assert (caller.name, caller.tenant, caller.rate_per_s, caller.burst) == ("shop", "retail", 5.0, 5)
    assert (caller.timing, caller.admin) == (True, False)


def test_no_other_key_is_known(file: Path) -> None:
    token = new_key(file, "shop", created=TODAY)
    keys = Keys(file)
    flipped = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in ["", flipped, token + " ", token.upper(), token[:20], "tt_00000000_" + "A" * 43, "é" * 50]:
        assert keys.find(wrong) is None, wrong


def test_keys_made_at_the_same_time_are_all_kept_or_refused_in_words(file: Path) -> None:
    made: list[str] = []
    refused: list[str] = []

    def make(number: int) -> None:
        try:
            new_key(file, f"k{number}", created=TODAY)
            made.append(f"k{number}")
        except InputError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_keys(file)) == sorted(made)
    assert len(made) + len(refused) == 8
    assert all("another command" in each for each in refused)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("x = [", "Invalid value"),
        ('tauten = "keys/9"', "keys/1"),
        ('tauten = "keys/1"\n[key.a]\nid = "0"\nsha256 = "x"', "hex"),
        ('tauten = "keys/1"\n[key.a]\nid = "00000000"\nshs = "x"', "field"),
        ('tauten = "keys/1"\nkeys = 1', "tables"),
    ],
)
def test_a_bad_file_is_refused(file: Path, text: str, hint: str) -> None:
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(InputError) as caught:
        Keys(file)
    assert (caught.value.code, caught.value.exit_code) == ("E266", 2)
    assert hint in str(caught.value) or hint.lower() in str(caught.value).lower()


def test_a_file_that_others_can_read_is_refused(file: Path) -> None:
    new_key(file, "shop", created=TODAY)
    file.chmod(0o644)
    with pytest.raises(InputError, match="mode 644") as caught:
        Keys(file)
    assert "chmod 600" in caught.value.help
    with pytest.raises(InputError, match="no such file"):
        Keys(file.with_name("none.toml"))


def test_revoking_takes_effect_while_the_server_runs_and_a_broken_edit_changes_nothing(file: Path) -> None:
    shop, other = new_key(file, "shop", created=TODAY), new_key(file, "other", created=TODAY)
    keys = Keys(file)
    assert keys.refresh() is False
    revoke_key(file, "shop")
    assert keys.find(shop) is not None
    assert keys.refresh() is True
    assert (keys.find(shop), keys.find(other) is not None) == (None, True)
    file.write_text("tauten = ")
    with pytest.raises(InputError):
        keys.refresh()
    assert keys.find(other) is not None
    file.unlink()
    with pytest.raises(InputError):
        keys.refresh()
    assert keys.find(other) is not None


def test_unknown_and_double_names(file: Path) -> None:
    new_key(file, "shop", created=TODAY)
    with pytest.raises(InputError, match="has a key called"):
        new_key(file, "shop", created=TODAY)
    with pytest.raises(InputError, match="a key called"):
        new_key(file, "../x", created=TODAY)
    with pytest.raises(NotFound, match="no key 'shp'") as caught:
        revoke_key(file, "shp")
    assert "shop" in caught.value.help
    with pytest.raises(InputError, match="rate_per_s"):
        new_key(file, "zero", created=TODAY, rate_per_s=0.0)
    assert list(read_keys(file)) == ["shop"]


def test_the_command_makes_lists_and_revokes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "new", "shop", "--file", str(file), "--rate", "2", "--admin"]) == 0
    out = capsys.readouterr()
    token = out.out.strip()
    assert Keys(file).find(token) is not None
    assert token not in out.err
    assert run(["key", "list", "--file", str(file)]) == 0
    listed = capsys.readouterr().out
    assert "shop" in listed
    assert "rate_per_s 2.0" in listed
    assert hashlib.sha256(token.encode()).hexdigest() not in listed
    assert run(["key", "list", "--file", str(file), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["schema"], record["keys"][0]["name"], "sha256" in record["keys"][0]) == (
        "tauten.keys/1",
        "shop",
        False,
    )
    assert run(["key", "revoke", "shop", "--file", str(file)]) == 0
    assert run(["key", "revoke", "shop", "--file", str(file)]) == 2
    assert Keys(file).find(token) is None


@pytest.mark.parametrize(
    "scope", ["--rate=-1", "--burst=0", "--concurrent=-1", "--priority=9", "--tenant=a b"]
)
def test_the_command_refuses_scopes_that_cannot_be(
    scope: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["key", "new", "shop", "--file", str(file), scope]) == 2
    assert f"E260 {scope.partition('=')[0]} " in capsys.readouterr().err
    assert not file.exists()


def test_requests_need_a_key_in_either_header(file: Path) -> None:
    token = new_key(file, "shop", created=TODAY, tenant="retail")
    guard = Guard(Keys(file))
    door = Door(identify=guard.identify, meet=guard.meet)

    async def main() -> None:
        async with site(Service(shouted), door=door, apis=["native"]) as app:
            body = {"inputs": {"text": "hi"}}
            path = "/v1/workflows/shouted"
            none = await ask(app, "POST", path, body)
            assert (none.status, none.json["error"]["code"]) == (401, "E262")
            assert none.headers["www-authenticate"].startswith("Bearer")
            assert none.headers["x-request-id"]
            for headers in ({"authorization": f"Bearer {token}"}, {"x-api-key": token}):
                done = await ask(app, "POST", path, body, headers)
                assert (done.status, done.json["output"]) == (200, "HI")
            basic = await ask(app, "POST", path, body, {"authorization": f"Basic {token}"})
            assert basic.status == 401
            assert token not in basic.body.decode()
        assert guard.running == 0

    asyncio.run(main())


def test_wrong_keys_are_held_up_and_right_ones_never(file: Path) -> None:
    token = new_key(file, "shop", created=TODAY)
    now = 0.0
    guard = Guard(Keys(file), clock=lambda: now)
    wrong = "tt_00000000_" + "A" * 43
    kinds = []
    for _ in range(20):
        with pytest.raises((Unauthorized, Busy)) as caught:
            guard.admit(wrong, "10.0.0.9")
        kinds.append(type(caught.value))
    assert kinds == [Unauthorized] * 10 + [Busy] * 10
    allowance = guard.admit(token, "10.0.0.9")
    assert allowance.caller.name == "shop"
    allowance.end()
    with pytest.raises(Unauthorized):
        guard.admit(wrong, "10.0.0.10")
    now = 60.0
    with pytest.raises(Unauthorized):
        guard.admit(wrong, "10.0.0.9")


def test_loopback_without_keys_answers_to_its_own_names_only() -> None:
    guard = Guard()
    door = Door(identify=guard.identify, meet=guard.meet)

    async def main() -> None:
        async with site(Service(shouted), door=door, apis=["native"]) as app:
            body = {"inputs": {"text": "hi"}}

            async def status(**headers: str) -> int:
                given = {name.replace("_", "-"): value for name, value in headers.items()}
                return (await ask(app, "POST", "/v1/workflows/shouted", body, given)).status

            for good in ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "desk.localhost", ""]:
                assert await status(host=good) == 200, good
            for bad in [
                "evil.example",
                "evil.example:8000",
                "localhost.evil.example",
                "10.0.0.1",
                "127.0.0.1.x",
            ]:
                assert await status(host=bad) == 403, bad
            assert await status(host="localhost:8000", origin="http://localhost:8000") == 200
            for page in ["http://evil.example", "null", "http://localhost:3000", "http://[", "file://"]:
                assert await status(host="localhost:8000", origin=page) == 403, page

    asyncio.run(main())


def test_pages_come_in_only_where_they_are_named() -> None:
    guard = Guard(origins=["https://app.example"])
    door = Door(identify=guard.identify, meet=guard.meet)

    async def main() -> None:
        async with site(Service(shouted), door=door, apis=["native"]) as app:
            path = "/v1/workflows/shouted"
            page = {"host": "localhost", "origin": "https://app.example"}
            asked = {
                **page,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, x-stainless-lang",
            }
            early = await ask(app, "OPTIONS", path, b"", asked)
            assert early.status == 204
            assert early.headers["access-control-allow-origin"] == "https://app.example"
            assert early.headers["access-control-allow-headers"] == "authorization, x-stainless-lang"
            done = await ask(app, "POST", path, {"inputs": {"text": "hi"}}, page)
            assert (done.status, done.headers["access-control-allow-origin"]) == (200, "https://app.example")
            readable = done.headers["access-control-expose-headers"].split(", ")
            assert {"x-request-id", "x-tauten-session", "idempotent-replayed", "retry-after"} <= set(readable)
            failed = await ask(app, "POST", path, b"{", page)
            assert (failed.status, failed.headers["access-control-allow-origin"]) == (
                400,
                "https://app.example",
            )
            odd = await ask(app, "OPTIONS", path, b"", {**asked, "access-control-request-headers": "a\nb"})
            assert odd.headers["access-control-allow-headers"] == "authorization, content-type"
            other = await ask(app, "OPTIONS", path, b"", {**asked, "origin": "https://other.example"})
            assert other.status == 403
            assert "access-control-allow-origin" not in other.headers

    asyncio.run(main())


@pytest.mark.parametrize(
    ("header", "host", "own"),
    [
        ("127.0.0.2:1", "127.0.0.2", True),
        ("[::1]", "::1", True),
        ("LOCALHOST.:80", "localhost", True),
        ("[::ffff:8.8.8.8]:1", "::ffff:8.8.8.8", False),
        ("2130706433", "2130706433", False),
    ],
)
def test_hosts(header: str, host: str, own: bool) -> None:
    assert (host_of(header), is_loopback(host)) == (host, own)


def test_forbidden_is_not_unauthorized() -> None:
    assert (Forbidden("x").http_status, Unauthorized("x").http_status) == (403, 401)
    assert (Forbidden("x").grpc_status, Unauthorized("x").grpc_status) == (
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
    )
