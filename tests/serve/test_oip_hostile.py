"""Malformed tensors and bodies: each is refused in words with a status below 500, and the server goes on."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tauten as tt
from serve.kit_asgi import Answered, ask, site
from serve.kit_oip import BODY_BYTES, double, shout
from serve.kit_onnx import identity, linear
from tauten.errors import InputError
from tauten.run.oip import tensors as oip_tensors
from tauten.serve.door import Door
from tauten.serve.native.values import NotSendable
from tauten.serve.oip.models import Flow, as_bytes
from tauten.serve.service import Service
from tauten.serve.tensor_model import tensor_model

PATH = "/v2/models/linear/infer"
GOOD = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
RAW = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}


@asynccontextmanager
async def opened(folder: Path) -> Any:
    models = [tensor_model(linear(folder), threads=1), tensor_model(identity(folder, "str"), threads=1)]
    flows = [Service(shout), Service(double)]
    async with site(*models, *flows, door=Door(body_bytes=BODY_BYTES), apis=["oip"]) as app:
        yield app


async def refused(app: Any, body: Any, headers: dict[str, str] | None = None, path: str = PATH) -> Answered:
    """Ask, and see that it was refused in words, and that the next request is answered."""
    done = await asyncio.wait_for(ask(app, "POST", path, body, headers), 10)
    assert 400 <= done.status < 500, (body if len(body) < 500 else "...", done)
    assert done.json["error"]
    well = await ask(app, "POST", PATH, {"inputs": [GOOD]})
    assert well.status == 200
    return done


def changed(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**GOOD, **changes}]}


JSON_BODIES: list[Any] = [
    changed(shape=[-1, 4]),
    changed(shape=[-1, -4]),
    changed(shape=[1, 4.5]),
    changed(shape=["1", 4]),
    changed(shape=[None, 4]),
    changed(shape=None),
    changed(shape=[1 << 62, 4]),
    changed(shape=[10**40, 4]),
    changed(shape=[0, 10**18]),
    changed(shape=[1] * 100),
    changed(shape=[]),
    changed(shape=[4]),
    changed(shape=[2, 4]),
    changed(datatype="FP33"),
    changed(datatype=7),
    changed(datatype="BYTES"),
    changed(datatype="BF16"),
    changed(data=[1, 2, 3]),
    changed(data=[[1, 2], [3, 4]]),
    changed(data=[[1, 2, 3], [4]]),
    changed(data=[1, 2, 3, "4"]),
    changed(data=[1, 2, 3, None]),
    changed(data=[1, 2, 3, [4]]),
    changed(data={"a": 1}),
    changed(data="1234"),
    changed(data=None),
    changed(name=None),
    changed(parameters={"binary_data_size": 16}),
    changed(parameters={"binary_data_size": -16}),
    changed(parameters={"binary_data_size": 1.5}),
    changed(parameters={"shared_memory_region": "r"}),
    {"inputs": [GOOD, GOOD]},
    {"inputs": []},
    {"inputs": {}},
    {"inputs": [7]},
    {},
    [],
    {"inputs": [GOOD], "outputs": [{"name": "nothing"}]},
    {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
    {"inputs": [GOOD], "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
    {"inputs": [GOOD], "id": 7},
    {"inputs": [GOOD], "parameters": {"timeout": "soon"}},
    {"inputs": [GOOD], "parameters": {"priority": -1}},
]


def test_json_that_does_not_hold_together_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as app:
            for body in JSON_BODIES:
                await refused(app, body)
            texts = [b"", b"{", b"[1" * 50_000, b'{"inputs":' + b"[" * 100_000, b"\xff\xfe", b"nul"]
            texts.append(json.dumps(changed()).replace("[1, 4]", "[NaN, 4]").encode())
            texts.append(json.dumps(changed()).replace("[1, 2, 3, 4]", "[1, 2, 3, 1e999]").encode())
            texts.append(json.dumps(changed()).replace("[1, 2, 3, 4]", "[1, 2, 3, NaN]").encode())
            texts.append(
                b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":'
                + b"[" * 900
                + b"]" * 900
                + b"}]}"
            )
            for text in texts:
                await refused(app, text)

    asyncio.run(main())


def test_json_in_a_tensor_is_as_flat_as_a_body() -> None:
    @tt.workflow
    async def told(data: tt.Json) -> str:
        return str(data.value)

    model = Flow(Service(told))
    assert model.bind({"data": np.array([b"[[1]]"], object)})["data"].value == [[1]]
    with pytest.raises(InputError) as caught:
        model.bind({"data": np.array([b"[" * 900 + b"]" * 900], object)})
    assert caught.value.code == "E268"


def test_results_are_json_as_they_are_in_the_native_api() -> None:
    class Model(pydantic.BaseModel):
        count: int

    assert as_bytes({"score": np.float32(0.5), "who": tt.Text("a")}) == b'{"score":0.5,"who":"a"}'
    assert as_bytes(Model(count=1)) == b'{"count":1}'
    with pytest.raises(NotSendable, match="cannot be sent"):
        as_bytes(object())


def test_tensors_of_the_wrong_kind_never_reach_a_stage(tmp_path: Path) -> None:
    kinds = [("FP32", [1.5]), ("INT64", [7]), ("BOOL", [True])]

    async def main() -> None:
        async with opened(tmp_path) as app:
            for datatype, data in kinds:
                given = {"name": "text", "shape": [1], "datatype": datatype, "data": data}
                done = await refused(app, {"inputs": [given]}, path="/v2/models/shout/infer")
                assert "E296" in done.json["error"]
            words = {"name": "numbers", "shape": [1], "datatype": "BYTES", "data": ["7"]}
            await refused(app, {"inputs": [words]}, path="/v2/models/double/infer")
            await refused(app, {"text_input": ["a"]}, path="/v2/models/shout/generate")
            for value in (7, [1, 2], ["a", "b"]):
                await refused(app, {"text": value}, path="/v2/models/shout/generate")

    asyncio.run(main())


def binary(head: Any, tail: bytes, length: str | None = None) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + tail, {"inference-header-content-length": str(len(text)) if length is None else length}


def raw(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**RAW, **changes}]}


def size(count: Any) -> dict[str, Any]:
    return {"binary_data_size": count}


def test_binary_tensors_that_do_not_fit_their_sizes_are_refused(tmp_path: Path) -> None:
    tail = np.ones(4, np.float32).tobytes()
    cases = [
        binary(raw(), tail[:-1]),
        binary(raw(), tail + b"x"),
        binary(raw(), b""),
        binary(raw(shape=[1 << 30, 1 << 30]), tail),
        binary(raw(shape=[-1, -4]), tail),
        binary(raw(parameters=size(15)), tail),
        binary(raw(parameters=size(1 << 60)), tail),
        binary(raw(parameters=size(-1)), tail),
        binary({"inputs": [RAW, {**RAW, "name": "z"}]}, tail),  # both claim the same bytes
        binary(raw(), tail, "0"),
        binary(raw(), tail, "-5"),
        binary(raw(), tail, "999999"),
        binary(raw(), tail, "7"),
        binary(raw(), tail, "1e3"),
        binary(raw(), tail, "²"),
        binary(raw(), tail, "9" * 5000),
        binary(raw(datatype="BOOL", shape=[16]), b"\x02" * 16),
        binary(raw(datatype="BF16", shape=[1, 3]), tail),
    ]

    async def main() -> None:
        async with opened(tmp_path) as app:
            good = binary(raw(), tail)
            for _ in range(2):  # also when its head is known
                assert (await ask(app, "POST", PATH, *good)).status == 200
                for body, headers in cases:
                    await refused(app, body, headers)

    asyncio.run(main())


def test_strings_that_end_beyond_their_bytes_are_refused(tmp_path: Path) -> None:
    path = "/v2/models/same_str/infer"
    tails = [
        struct.pack("<I", 5) + b"abcd",
        struct.pack("<I", 0xFFFFFFFF) + b"abcd",
        struct.pack("<I", 4) + b"abcde",
        b"\x01\x00",
        b"",
        struct.pack("<I", 2) + b"\xff\xfe",
    ]

    async def main() -> None:
        async with opened(tmp_path) as app:
            for tail in tails:
                given = {"name": "x", "shape": [1, 1], "datatype": "BYTES", "parameters": size(len(tail))}
                await refused(app, *binary({"inputs": [given]}, tail), path=path)
            many = {"name": "x", "shape": [1, 1 << 33], "datatype": "BYTES", "parameters": size(8)}
            await refused(app, *binary({"inputs": [many]}, bytes(8)), path=path)
            worth = oip_tensors.MAX_STRINGS + 1
            with pytest.raises(InputError, match="elements"):
                oip_tensors.from_raw("x", "BYTES", [worth], bytes(4 * worth), 0, 4 * worth)

    asyncio.run(main())


def test_compressed_bodies_are_bounded_and_must_be_whole(tmp_path: Path) -> None:
    whole = json.dumps({"inputs": [GOOD]}).encode()
    bomb = gzip.compress(bytes(BODY_BYTES * 200))
    assert len(bomb) < BODY_BYTES
    packed = gzip.compress(whole)
    cases = [
        (bomb, "gzip", 413),
        (zlib.compress(bytes(BODY_BYTES * 200)), "deflate", 413),
        (packed[:-4], "gzip", 400),
        (packed + b"more", "gzip", 400),
        (whole, "gzip", 400),
        (whole, "br", 400),
        (b"", "gzip", 400),
    ]

    async def main() -> None:
        async with opened(tmp_path) as app:
            for body, encoding, status in cases:
                done = await refused(app, body, {"content-encoding": encoding})
                assert done.status == status
            assert (await ask(app, "POST", PATH, packed, {"content-encoding": "gzip"})).status == 200

    asyncio.run(main())


def test_answers_are_only_compressed_where_one_coding_is_asked_for(tmp_path: Path) -> None:
    rows = {"inputs": [{**GOOD, "shape": [400, 4], "data": [0] * 1600}]}

    async def main() -> None:
        async with opened(tmp_path) as app:
            asked = await ask(app, "POST", PATH, rows, {"accept-encoding": "gzip"})
            assert asked.headers["content-encoding"] == "gzip"
            assert json.loads(gzip.decompress(asked.body))["outputs"][0]["shape"] == [400, 3]
            listed = await ask(app, "POST", PATH, rows, {"accept-encoding": "gzip, deflate, br"})
            assert "content-encoding" not in listed.headers

    asyncio.run(main())


def test_a_key_repeats_a_reply_only_in_the_coding_that_was_asked_for(tmp_path: Path) -> None:
    rows = {"inputs": [{**GOOD, "shape": [400, 4], "data": [0] * 1600}]}

    async def main() -> None:
        async with opened(tmp_path) as app:

            async def told(path: str, key: str, coding: str) -> tuple[int, str, str]:
                body = rows if path.endswith("/infer") else {"text_input": "a"}
                done = await ask(app, "POST", path, body, {"idempotency-key": key, "accept-encoding": coding})
                again = done.headers.get("idempotent-replayed", "")
                return done.status, done.headers.get("content-encoding", ""), again

            for key, path in enumerate((PATH, PATH.replace("/infer", "/versions/1/infer"))):
                assert await told(path, f"{key}", "gzip") == (200, "gzip", "")
                assert await told(path, f"{key}", "gzip") == (200, "gzip", "true")
                assert (await told(path, f"{key}", "deflate"))[0] == 422
                assert (await told(path, f"{key}", ""))[0] == 422
                assert await told(path, f"{key}-plain", "gzip, deflate") == (200, "", "")
                assert await told(path, f"{key}-plain", "identity") == (200, "", "true")  # it changes nothing
            other = "/v2/models/shout/generate"
            assert await told(other, "other", "gzip") == (200, "", "")
            assert await told(other, "other", "") == (200, "", "true")

    asyncio.run(main())


def test_no_rows_are_no_mistake(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path) as app:
            done = await ask(app, "POST", PATH, changed(shape=[0, 4], data=[]))
            assert (done.status, done.json["outputs"][0]["shape"]) == (200, [0, 3])

    asyncio.run(main())


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(list(GOOD)), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def loop_and_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with asyncio.Runner() as runner:
        entered = opened(tmp_path_factory.mktemp("models"))
        app = runner.run(entered.__aenter__())
        yield runner, app
        runner.run(entered.__aexit__(None, None, None))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(["linear", "same_str", "shout", "double"]), st.sampled_from([*GOOD, "parameters"]), JUNK
)
def test_fields_of_any_kind_end_below_500(loop_and_app: Any, model: str, key: str, value: Any) -> None:
    runner, app = loop_and_app
    body = json.dumps({"inputs": [{**GOOD, key: value}]}).encode(errors="replace")
    done = runner.run(asyncio.wait_for(ask(app, "POST", f"/v2/models/{model}/infer", body), 10))
    assert 200 <= done.status < 500, done


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(oip_tensors.KNOWN), st.lists(st.integers(-2, 5), max_size=4), st.binary(max_size=64))
def test_any_bytes_are_a_tensor_or_a_mistake_of_the_client(
    datatype: str, shape: list[int], data: bytes
) -> None:
    try:
        array = oip_tensors.from_raw("x", datatype, shape, data, 0, len(data))
    except InputError:
        return
    assert list(array.shape) == shape
    if datatype not in ("BYTES", "BF16"):
        assert bytes(memoryview(oip_tensors.to_raw(array)).cast("B") if array.size else b"") == data
