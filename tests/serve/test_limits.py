"""Bounds: rates, requests at a time, all of a server's, JSON depth; and what those who meet them are told."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from serve.kit_asgi import ask, site
from tauten.errors import InputError, Overloaded, TautenError
from tauten.serve.door import MAX_DEPTH, Caller, Door, check_depth, refusal_headers
from tauten.serve.safety.guard import Guard, Unauthorized
from tauten.serve.safety.keys import Keys, new_key
from tauten.serve.safety.limits import ADDRESSES, Allowance, Bucket, Busy, Failures, Total
from tauten.serve.service import NotReady, Service

PATH = "/v1/workflows/flow"


@tt.stage(pure=True)
async def work(text: str) -> str:
    await asyncio.sleep(0.05)
    return text


@tt.workflow
def flow(text: str) -> str:
    return work(text)


@given(st.lists(st.floats(0, 5), max_size=50), st.floats(0.1, 100), st.integers(1, 20))
def test_a_bucket_never_lets_more_through_than_its_rate_and_burst(
    gaps: list[float], rate: float, burst: int
) -> None:
    bucket = Bucket(rate, burst, 0.0)
    passed = 0
    for now in itertools.accumulate(gaps):
        wait_s = bucket.take(now)
        passed += not wait_s
        assert 0.0 <= wait_s <= 1 / rate + 1e-9
        assert passed <= burst + rate * now + 1e-6


def test_the_wait_that_is_told_is_the_wait_that_is_needed() -> None:
    bucket = Bucket(2.0, 1, 0.0)
    assert bucket.take(0.0) == 0.0
    wait_s = bucket.take(0.1)
    assert wait_s == pytest.approx(0.4)
    assert bucket.take(0.1 + wait_s - 0.01) > 0
    assert bucket.take(0.1 + wait_s) == 0.0


def test_rates_and_requests_at_a_time_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    fast = new_key(file, "fast", created="2026-01-01", rate_per_s=2.0, burst=3)
    narrow = new_key(file, "narrow", created="2026-01-01", concurrent=2)
    guard = Guard(Keys(file))
    door = Door(identify=guard.identify, share=False)

    async def main() -> None:
        async with site(Service(flow), door=door, apis=["native"]) as app:

            async def several(count: int, key: str) -> list[tuple[int, str]]:
                body, headers = {"inputs": {"text": "x"}}, {"x-api-key": key}
                done = await asyncio.gather(*(ask(app, "POST", PATH, body, headers) for _ in range(count)))
                return [(each.status, each.headers.get("retry-after", "")) for each in done]

            assert await several(5, fast) == [(200, "")] * 3 + [(429, "1")] * 2
            assert await several(5, narrow) == [(200, "")] * 2 + [(429, "1")] * 3
            assert await several(2, narrow) == [(200, "")] * 2  # what ended is counted out
        assert guard.running == 0

    asyncio.run(main())


def test_a_server_takes_so_many_and_counts_out_who_left() -> None:
    guard = Guard(in_flight=3)
    door = Door(identify=guard.identify, share=False)

    async def main() -> None:
        async with site(Service(flow), door=door, apis=["native", "operations"]) as app:
            body = {"inputs": {"text": "x"}}
            leaving = ask(app, "POST", PATH, body, leave_after_s=0.01)
            done = await asyncio.gather(leaving, *(ask(app, "POST", PATH, body) for _ in range(4)))
            assert sorted(each.status for each in done) == [0, 200, 200, 429, 429]
            refused = next(each for each in done if each.status == 429)
            assert refused.json["error"]["code"] == "E413"
            guard._total.running = 3
            assert (await ask(app, "GET", "/health/live")).status == 200  # probes are never refused
            guard._total.running = 0
            assert (await ask(app, "POST", PATH, body)).status == 200
        assert guard.running == 0

    asyncio.run(main())


def test_an_edited_key_keeps_what_runs(tmp_path: Path) -> None:
    now = 0.0
    first = Caller("shop", concurrent=2)
    allowance = Allowance(first, now, Total())
    allowance.begin(now)
    allowance.renew(Caller("shop", concurrent=1), now)
    with pytest.raises(Busy):
        allowance.begin(now)
    allowance.end()
    allowance.begin(now)


def test_addresses_with_wrong_keys_are_counted_within_a_bound() -> None:
    failures = Failures()
    for number in range(ADDRESSES + 100):
        failures.count(f"10.0.{number}", 0.0)
    assert len(failures._buckets) == ADDRESSES


@settings(max_examples=30)
@given(
    st.recursive(
        st.text(max_size=5) | st.integers(), lambda inner: st.lists(inner, max_size=3), max_leaves=20
    )
)
def test_ordinary_json_passes(value: object) -> None:
    import json

    check_depth(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, True),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), False),
        (b'{"a":' * (MAX_DEPTH + 1), False),
        (b"[" * 1_000_000, False),
        (b'["' + b"[" * 1000 + b'"]', True),
        (b'["\\"' + b"[" * 1000 + b'"]', True),
        (b'["\\\\",' + b"[" * 1000, False),
        (b"[[1,2],[3,4]]," * 10_000, True),
        (b'"' + b'\\"' * 1_000_000 + b"[" * 100, True),  # one string without an end, in linear time
    ],
)
def test_depth(body: bytes, fits: bool) -> None:
    if fits:
        check_depth(body)
    else:
        with pytest.raises(InputError) as caught:
            check_depth(body)
        assert caught.value.http_status == 400


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Busy("x", help="y", retry_after_s=2.2), {"retry-after": "3", "retry-after-ms": "2200"}),
        (Overloaded("x"), {"retry-after": "1", "retry-after-ms": "1000"}),
        (NotReady("x"), {"retry-after": "1", "retry-after-ms": "1000"}),
        (Unauthorized("x"), {"www-authenticate": 'Bearer realm="tauten"'}),
        (InputError("x"), {}),
    ],
)
def test_what_the_refused_are_told(error: TautenError, headers: dict[str, str]) -> None:
    assert dict(refusal_headers(error)) == headers
