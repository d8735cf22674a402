"""The Open Inference Protocol over gRPC, asked by its own client, and by bytes that no client would send."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serve.kit_asgi import site
from serve.kit_oip import BODY_BYTES, SAME, ZOMBIES, Running, served, shout
from tauten.errors import InputError, TautenError
from tauten.run.oip.messages import SERVICE, message
from tauten.serve import probes
from tauten.serve.door import Caller, Door
from tauten.serve.oip.grpc_stream import Stream
from tauten.serve.service import Service

WEIGHT = np.add.outer(np.arange(4), np.arange(3)).astype(np.float32)
X = np.arange(8, dtype=np.float32).reshape(2, 4)
METHODS = [each.name for each in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]


class Stranger(InputError):
    """No key."""

    http_status = 401
    grpc_status = "UNAUTHENTICATED"


def identify(exchange: Any) -> Caller:
    """A key by either header; who brings none is anybody, except where a test asks for a key."""
    token = exchange.headers.get("authorization", "") or exchange.headers.get("x-api-key", "")
    if token == "Bearer wrong":
        raise Stranger("a key that nobody has", help="ask for one")
    return Caller(name=token, admin=token == "admin")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    door = Door(body_bytes=BODY_BYTES, identify=identify)
    with served(tmp_path_factory.mktemp("models"), door) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    made = triton.InferenceServerClient(running.grpc)
    yield made
    made.close()


def tensor(name: str, array: Any, datatype: str = "FP32") -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def text(value: str) -> Any:
    return tensor("text", np.array([value], object), "BYTES")


def test_every_method_of_the_service_and_its_messages_are_known() -> None:
    """Field by field against the client's own description."""
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    for name, their in theirs.items():
        if name in ("MemoryUsage",):
            continue
        ours = message(name).DESCRIPTOR.fields_by_number
        for number, field in ours.items():
            other = their.fields_by_number[number]
            assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)
        missing = {field.name for field in their.fields} - {field.name for field in ours.values()}
        assert missing <= {"memory_usage"}, name


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear", "1")
    assert client.get_server_metadata().name == "tauten"
    told = client.get_model_metadata("linear")
    assert (told.platform, list(told.inputs[0].shape)) == ("onnx_onnxv1", [-1, 4])
    config = client.get_model_config("words").config
    assert config.model_transaction_policy.decoupled
    assert client.get_model_config("linear", as_json=True)["config"]["input"][0]["data_type"] == "TYPE_FP32"
    assert "linear" in {each.name for each in client.get_model_repository_index().models}


@pytest.mark.parametrize("dtype", SAME)
def test_every_datatype_comes_back_as_it_went(client: Any, dtype: str) -> None:
    datatype, kind = SAME[dtype]
    values: Any = [["ä", "", "b" * 300]] if dtype == "str" else [[0, 1, 1]]
    sent = np.array(values, kind)
    answer = client.infer(f"same_{dtype}", [tensor("x", sent, datatype)], request_id="9")
    shown = [each.decode() if isinstance(each, bytes) else each for each in answer.as_numpy("y").ravel()]
    assert shown == sent.ravel().tolist()
    assert answer.get_response().id == "9"


CONTENTS = {
    "float32": ("FP32", "fp32_contents", [1.5, -2.0]),
    "float64": ("FP64", "fp64_contents", [1.5, -2.0]),
    "int8": ("INT8", "int_contents", [1, -2]),
    "int64": ("INT64", "int64_contents", [1, -(1 << 60)]),
    "uint16": ("UINT16", "uint_contents", [1, 65535]),
    "bool": ("BOOL", "bool_contents", [True, False]),
    "str": ("BYTES", "bytes_contents", [b"a", "ä".encode()]),
}


def asked(model: str, datatype: str, shape: list[int], field: str, values: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name=model)
    given = request.inputs.add(name="x", datatype=datatype, shape=shape)
    getattr(given.contents, field).extend(values)
    return request


@pytest.mark.parametrize("dtype", CONTENTS)
def test_typed_contents_are_taken_too(client: Any, dtype: str) -> None:
    datatype, field, values = CONTENTS[dtype]
    request = asked(f"same_{dtype}", datatype, [1, 2], field, values)
    answer = triton.InferResult(client._client_stub.ModelInfer(request))
    assert answer.as_numpy("y").tolist() == [values]


def test_requested_outputs_parallel_calls_and_compression(client: Any) -> None:
    a = np.array([[1, 2]], np.int64)
    given_ = [tensor("a", a, "INT64"), tensor("b", a, "INT64")]
    one = client.infer("two", given_, outputs=[triton.InferRequestedOutput("first")])
    assert [each.name for each in one.get_response().outputs] == ["first"]
    answers: queue.Queue[Any] = queue.Queue()
    for n in range(16):
        client.async_infer(
            "linear",
            [tensor("x", X * n)],
            callback=lambda result, error: answers.put((result, error)),
            request_id=str(n),
        )
    for _ in range(16):
        result, error = answers.get(timeout=10)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("y"), X * int(result.get_response().id) @ WEIGHT)
    packed = client.infer("linear", [tensor("x", X)], compression_algorithm="gzip")
    np.testing.assert_allclose(packed.as_numpy("y"), X @ WEIGHT)


def test_the_asynchronous_client_and_its_stream(running: Running) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(running.grpc) as client:
            answer = await client.infer("shout", [text("hé")])
            assert answer.as_numpy("output").tolist() == ["HÉ".encode()]

            async def requests() -> Any:
                for n in range(6):
                    yield {"model_name": "linear", "inputs": [tensor("x", X * n)], "request_id": str(n)}
                yield {"model_name": "nope", "inputs": [tensor("x", X)], "request_id": "bad"}
                yield {"model_name": "linear", "inputs": [tensor("x", X)], "request_id": "last"}

            seen: list[str] = []
            async for result, error in client.stream_infer(requests()):
                seen.append("error" if error else result.get_response().id)
            assert seen == ["0", "1", "2", "3", "4", "5", "error", "last"]

    asyncio.run(main())


def test_a_streaming_workflow_has_many_answers(client: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    client.async_stream_infer("words", [text("one two")], request_id="w", enable_empty_final_response=True)
    found = [answers.get(timeout=10) for _ in range(3)]
    assert [each.as_numpy("output").tolist() for each, _ in found[:2]] == [[b"one "], [b"two "]]
    finals = [each.get_response().parameters["triton_final_response"].bool_param for each, _ in found]
    assert finals == [False, False, True]
    client.async_stream_infer("words", [text("one FAIL")], request_id="f")
    assert answers.get(timeout=10)[0].as_numpy("output").tolist() == [b"one "]
    said = str(answers.get(timeout=10)[1])
    assert said.startswith("E404 the request failed inside the server")
    assert "asked to fail" not in said  # what a stage says stays in the log
    client.stop_stream()
    assert client.infer("words", [text("one two")]).as_numpy("output").tolist() == [b"one two "]


def gone(running: Running) -> bool:
    """Whether no work is left over, within five seconds."""
    until = time.monotonic() + 5
    while running.on_loop(lambda: ZOMBIES.running) and time.monotonic() < until:
        time.sleep(0.01)
    return not running.on_loop(lambda: ZOMBIES.running)


def test_deadlines_stop_the_work(running: Running, client: Any) -> None:
    for more in ({"timeout": 30_000}, {"headers": {"x-tauten-deadline-ms": "30"}}, {"client_timeout": 0.1}):
        with pytest.raises(InferenceServerException, match=r"(?i)deadline") as late:
            client.infer("slow", [text("x")], **more)
        assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert gone(running)
    with pytest.raises(InferenceServerException, match="E298"):
        client.infer("linear", [tensor("x", X)], timeout=-5)


def test_clients_that_leave_stop_their_work(running: Running, client: Any) -> None:
    begun = ZOMBIES.begun
    call = client.async_infer("slow", [text("x")], callback=lambda result, error: None)
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put(error))
    client.async_stream_infer("slow", [text("x")])
    until = time.monotonic() + 5
    while ZOMBIES.begun < begun + 2 and time.monotonic() < until:
        time.sleep(0.01)
    call.cancel()
    client.stop_stream(cancel_requests=True)
    assert gone(running)
    stats = client.get_inference_statistics("slow").model_stats[0]
    assert stats.response_stats["tauten"].cancel.count >= 2
    assert running.on_loop(lambda: running.app.site.in_flight) == 0


class Told:
    """A call's context that hears nothing."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self) -> None:
        return None


def test_a_stream_that_ends_as_a_request_is_read_leaves_nothing_in_flight() -> None:
    async def main() -> None:
        async with site(Service(shout), apis=["oip"]) as app:

            async def requests() -> AsyncIterator[bytes]:
                talk.cancel()  # heard before the request takes its first step
                yield b""
                await asyncio.sleep(3600)

            talk = asyncio.create_task(Stream(app.site).talk(requests(), Told()))
            with pytest.raises(asyncio.CancelledError):
                await talk
            assert app.site.in_flight == 0

    asyncio.run(main())


def test_statistics_are_the_same_as_over_http(running: Running, client: Any) -> None:
    client.infer("linear", [tensor("x", X)])
    stats = client.get_inference_statistics("linear").model_stats[0]
    assert stats.inference_count >= 2
    assert stats.inference_stats.success.count == stats.inference_stats.queue.count
    assert stats.inference_stats.compute_infer.ns > 0
    assert {each.name for each in client.get_inference_statistics().model_stats} >= {"linear", "two"}


def test_mistakes_have_their_status(client: Any) -> None:
    cases: list[tuple[str, list[Any], str, str]] = [
        ("nope", [tensor("x", X)], "NOT_FOUND", "no model is served"),
        ("linear", [tensor("x", X[:, :3])], "INVALID_ARGUMENT", r"the model takes \[n, 4\]"),
        ("linear", [tensor("x", X.astype(np.int64), "INT64")], "INVALID_ARGUMENT", "the model takes float32"),
        ("linear", [], "INVALID_ARGUMENT", "'x' is missing"),
        ("pick", [tensor("ids", np.array([7]), "INT64")], "INVALID_ARGUMENT", "refused the input"),
        ("linear", [tensor("x", np.zeros((30_000, 4), np.float32))], "RESOURCE_EXHAUSTED", ""),
    ]
    for model, inputs, status, words in cases:
        with pytest.raises(InferenceServerException, match=words or "larger than max") as wrong:
            client.infer(model, inputs)
        assert wrong.value.status() == f"StatusCode.{status}"
    for refused in (
        lambda: client.register_system_shared_memory("r", "/key", 64),
        lambda: client.update_log_settings({"log_info": False}),
        lambda: client.load_model("linear"),
        lambda: client.unload_model("linear"),
    ):
        with pytest.raises(InferenceServerException, match="E297"):
            refused()
    assert client.get_log_settings().settings["log_error"].bool_param
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]


def test_classes_of_scores_are_refused_and_not_left_out(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="no classifications"):
        client.infer("linear", [tensor("x", X)], outputs=[triton.InferRequestedOutput("y", class_count=2)])
    plain = client.infer("linear", [tensor("x", X)], outputs=[triton.InferRequestedOutput("y")])
    assert plain.as_numpy("y").shape == (2, 3)


def test_metadata_may_be_as_large_as_headers(client: Any) -> None:
    """A token of 8 KiB, a cookie: whatever passes over HTTP."""
    assert (
        client.infer("linear", [tensor("x", X)], headers={"x-large": "a" * 40_000}).as_numpy("y") is not None
    )


def test_a_server_whose_model_is_broken_is_not_ready(
    running: Running, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "broken", lambda view: "linear" in view.label)
    assert not client.is_server_ready()
    assert not client.is_model_ready("linear")
    assert client.is_model_ready("shout")


def test_keys_pass_the_same_door_and_ids_come_back(running: Running, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="a key that nobody has") as stranger:
        client.infer("linear", [tensor("x", X)], headers={"authorization": "Bearer wrong"})
    assert stranger.value.status() == "StatusCode.UNAUTHENTICATED"
    assert client.is_server_live(headers={"authorization": "Bearer wrong"})  # probes need no key
    with pytest.raises(InferenceServerException, match="with parameters"):
        client.load_model("linear", headers={"x-api-key": "admin"}, config="{}")
    with grpc.insecure_channel(running.grpc) as channel:
        mine = [("x-request-id", "abc-1")]
        ask = channel.unary_unary(f"/{SERVICE}/ServerMetadata")
        with pytest.raises(grpc.RpcError) as refused:  # before it was let in
            ask(b"", metadata=[*mine, ("authorization", "Bearer wrong")], timeout=10)
        assert dict(refused.value.trailing_metadata())["x-request-id"] == "abc-1"
        ask = channel.unary_unary(f"/{SERVICE}/ServerLive")
        _, call = ask.with_call(b"", metadata=[("x-request-id", "abc-1")], timeout=10)
        assert ("x-request-id", "abc-1") in [(key, value) for key, value in call.trailing_metadata()]


def test_a_calls_metadata_are_its_headers(running: Running, client: Any) -> None:
    calls: list[Any] = []

    class Watch:
        def finished(self, exchange: Any, call: Any, error: Any, seconds: float) -> None:
            calls.append(call)

    observers = running.app.site.observers
    running.on_loop(lambda: observers.append(Watch()))
    try:
        headers = {
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "x-request-id": "mine",
            "x-tauten-priority": "-3",
        }
        client.infer("shout", [text("x")], headers=headers)
    finally:
        running.on_loop(observers.pop)
    [call] = calls
    assert (call.request.id, call.request.priority) == ("mine", -3)
    assert (call.parent.trace_id, call.parent.span_id) == (
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
    )


# -- bytes that no client would send --------------------------------------------------------------------------

_TYPES = {
    "INT": st.integers(-(1 << 63), (1 << 63) - 1),
    "NAME": st.sampled_from(["linear", "x", "1", "", "FP32", "BYTES", "BOOL", "shout", "text", "same_str"]),
}


def status_of(running: Running, method: str, data: bytes) -> str:
    with grpc.insecure_channel(running.grpc) as channel:
        path = f"/{SERVICE}/{method}"
        try:
            if method == "ModelStreamInfer":
                for answer in channel.stream_stream(path)(iter([data]), timeout=10):
                    words = service_pb2.ModelStreamInferResponse.FromString(answer).error_message
                    assert not words.startswith("E5"), words
            else:
                channel.unary_unary(path)(data, timeout=10)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
    return "OK"


FINE = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(METHODS), st.binary(max_size=200))
def test_random_bytes_are_refused_and_the_server_goes_on(running: Running, method: str, data: bytes) -> None:
    assert status_of(running, method, data) in FINE


@st.composite
def infer_requests(draw: Any) -> bytes:
    name, number = _TYPES["NAME"], _TYPES["INT"]
    request = service_pb2.ModelInferRequest(
        model_name=draw(st.sampled_from(["linear", "same_str", "shout", "double", "two"])),
        model_version=draw(st.sampled_from(["", "1", "2"])),
    )
    for _ in range(draw(st.integers(0, 2))):
        tensor_ = request.inputs.add(
            name=draw(name),
            datatype=draw(st.sampled_from(["FP32", "BYTES", "BOOL", "BF16", "FP16", "INT8", "FP99"])),
            shape=draw(st.lists(st.sampled_from([0, 1, 2, 4, -1, 1 << 62]) | number, max_size=4)),
        )
        tensor_.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=4)))
        tensor_.contents.int_contents.extend(
            draw(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=2))
        )
        tensor_.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=8), max_size=2)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=32), max_size=2)))
    for _ in range(draw(st.integers(0, 1))):
        request.outputs.add(name=draw(name))
    for key in draw(st.lists(st.sampled_from(["timeout", "priority", "sequence_id", "x"]), max_size=2)):
        choice = request.parameters[key]
        kind = draw(st.sampled_from(["int64_param", "string_param", "double_param", "bool_param"]))
        value: Any = draw(
            {"int64_param": number, "string_param": name, "double_param": st.floats()}.get(
                kind, st.booleans()
            )
        )
        setattr(choice, kind, value)
    return request.SerializeToString()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(["ModelInfer", "ModelStreamInfer"]), infer_requests())
def test_random_fields_are_refused_in_words(running: Running, method: str, data: bytes) -> None:
    request = service_pb2.ModelInferRequest.FromString(data)
    allowed = FINE | ({"DEADLINE_EXCEEDED"} if "timeout" in request.parameters else set())
    assert status_of(running, method, data) in allowed


def test_the_server_is_alive_after_it_all(client: Any) -> None:
    np.testing.assert_allclose(client.infer("linear", [tensor("x", X)]).as_numpy("y"), X @ WEIGHT)


def test_a_port_that_is_taken_is_said(running: Running, tmp_path: Path) -> None:
    from tauten.serve.oip.grpc import serve_grpc

    async def main() -> None:
        port = int(running.grpc.rpartition(":")[2])
        with pytest.raises(TautenError, match="cannot listen"):
            await serve_grpc(running.app.site, "127.0.0.1", port)

    asyncio.run(main())
