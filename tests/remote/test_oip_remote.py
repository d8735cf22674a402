"""Tensor models behind other servers of the Open Inference Protocol: by HTTP and by gRPC, ours and ones that misbehave."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remote.kit_provider import providers_toml
from serve.kit_oip import ZOMBIES, Running, served
from tauten.errors import BackendError, InputError, Overloaded, PlanError, TautenError
from tauten.run.backends.oip_remote import OipRemoteBackend
from tauten.run.contracts import ModelSpec
from tauten.run.oip import wire
from tauten.run.oip.refusal import refusal


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(tmp_path_factory.mktemp("models")) as found:
        yield found


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "providers.toml"
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


@pytest.fixture(params=["http", "grpc"])
def provider(request: pytest.FixtureRequest, running: Running, file: Path) -> str:
    address = running.http if request.param == "http" else running.grpc
    file.write_text(providers_toml({"ours": f"{request.param}://{address}"}))
    return "ours"


def opened(model: str, **options: Any) -> OipRemoteBackend:
    backend = OipRemoteBackend(ModelSpec(model, options={"provider": "ours", **options}))
    backend.open()
    return backend


def test_a_model_is_met_before_it_is_asked(provider: str) -> None:
    backend = opened("linear")
    try:
        [taken] = backend.signature().inputs
        assert taken.dtype == "float32"
        assert backend.properties()["device"] == "remote: ours"
    finally:
        backend.close()


DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "float64": np.float64,
    "int8": np.int8,
    "int64": np.int64,
    "uint16": np.uint16,
    "bool": np.bool_,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_back_as_they_went(provider: str, dtype: str) -> None:
    backend = opened(f"same_{dtype}", unbatched=True)
    try:
        name = backend.signature().inputs[0].name
        array = (np.arange(6).reshape(2, 3) % 2).astype(DTYPES[dtype])
        [answer] = backend.run([{name: array}])
        [back] = answer.values()
        assert back.dtype == array.dtype
        assert (back == array).all()
    finally:
        backend.close()


def test_texts_come_back_as_bytes(provider: str) -> None:
    backend = opened("same_str", unbatched=True)
    try:
        name = backend.signature().inputs[0].name
        [answer] = backend.run([{name: np.array([["sea", "é"]])}])
        [back] = answer.values()
        assert back.tolist() == [[b"sea", "é".encode()]]
    finally:
        backend.close()


def test_a_batch_is_one_call_and_gives_what_items_give_alone(provider: str) -> None:
    backend = opened("linear")
    try:
        [taken] = backend.signature().inputs
        width = next(axis for axis in taken.shape if isinstance(axis, int) and axis > 1)
        rng = np.random.default_rng(3)
        items = [{taken.name: rng.normal(size=width).astype(np.float32)} for _ in range(5)]
        together = backend.run(items)
        alone = [backend.run([item])[0] for item in items]
        for one, other in zip(together, alone, strict=True):
            assert all(np.allclose(one[key], other[key], atol=1e-5) for key in other)
    finally:
        backend.close()


def test_what_the_server_refuses_is_the_callers_error(provider: str) -> None:
    backend = opened("linear", unbatched=True)
    try:
        [taken] = backend.signature().inputs
        [answer] = backend.run([{taken.name: np.zeros((1, 999), np.float32)}])
        assert isinstance(answer, TautenError)
        [named] = backend.run([{"wrong": np.zeros(2, np.float32)}])
        assert isinstance(named, BackendError)
        assert taken.name in named.message
    finally:
        backend.close()


def test_a_model_that_is_not_there(provider: str) -> None:
    with pytest.raises(BackendError, match="E460"):
        opened("nothing")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there(file: Path, scheme: str) -> None:
    file.write_text(providers_toml({"ours": f"{scheme}://127.0.0.1:9"}))
    with pytest.raises(BackendError, match="E460"):
        opened("linear", timeout_ms=5000)


@pytest.mark.parametrize(
    "change",
    [{"options": {}}, {"options": {"provider": "ours", "timeout_ms": 0}}, {"precision": "int8"}],
    ids=["no provider", "no time", "a precision"],
)
def test_what_it_cannot_honour_is_refused(provider: str, change: dict[str, Any]) -> None:
    spec = ModelSpec("linear", **{"options": {"provider": "ours"}, **change})
    with pytest.raises(PlanError):
        OipRemoteBackend(spec).open()


def test_a_run_that_is_stopped_ends_and_the_next_knows_nothing(running: Running, file: Path) -> None:
    """The model sleeps for half a minute; that this ends at all is the test."""
    file.write_text(providers_toml({"ours": f"http://{running.http}"}))
    backend = opened("slow", unbatched=True)
    try:
        name = backend.signature().inputs[0].name
        before = ZOMBIES.begun  # by other tests of this process
        backend.begin()
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(backend.run([{name: np.array(["x"])}])))
        thread.start()
        while not ZOMBIES.running:
            time.sleep(0.002)
        backend.stop()
        thread.join(20)
        assert not thread.is_alive()
        assert isinstance(found[0], BackendError)
        [[call]] = backend.account()
        assert (call.outcome, call.units["requests"]) == ("cancelled", 1.0)
        assert call.units["sent_bytes"] > 0
        while ZOMBIES.running:  # the server saw the connection close
            time.sleep(0.002)
        backend.begin()
        backend.stop()
        [stopped] = backend.run([{name: np.array(["x"])}])
        assert isinstance(stopped, BackendError)
        assert ZOMBIES.begun == before + 1
    finally:
        backend.close()


ANSWER = b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}]}'
RAW = (
    b'{"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}}]}'
)


def test_answers_in_json_and_raw() -> None:
    assert wire.answer(ANSWER, None)["y"].tolist() == [1.0, 2.0]
    body = RAW + np.array([5], "<i8").tobytes()
    assert wire.answer(body, str(len(RAW)))["y"].tolist() == [5]


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"no", None),
        (b"{}", None),
        (ANSWER.replace(b"[2]", b"[3]"), None),
        (ANSWER, "x"),
        (RAW, str(len(RAW))),
        (RAW.replace(b": 8", b": -8") + bytes(8), str(len(RAW) + 1)),
        (RAW.replace(b"INT64", b"INT63") + bytes(8), str(len(RAW))),
    ],
)
def test_an_answer_that_is_none_is_the_servers_fault(body: bytes, length: str | None) -> None:
    with pytest.raises(BackendError, match="no inference"):
        wire.answer(body, length)


def test_refusals_have_their_kinds() -> None:
    assert isinstance(refusal("wrong", "x"), InputError)
    limited = refusal("limit", "x", 3.0)
    assert isinstance(limited, Overloaded)
    assert limited.retry_after_s == 3.0
    assert isinstance(refusal("denied", "x"), BackendError)
