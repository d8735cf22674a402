"""The Open Inference Protocol over HTTP, asked by its own client, with and without asyncio."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from serve.kit_oip import BODY_BYTES, SAME, ZOMBIES, Running, served

WEIGHT = np.add.outer(np.arange(4), np.arange(3)).astype(np.float32)


@pytest.fixture(scope="module", params=["thin", "uvicorn"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(tmp_path_factory.mktemp("models"), server=request.param) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    made = triton.InferenceServerClient(running.http, concurrency=4)
    yield made
    made.close()


def tensor(name: str, array: Any, datatype: str = "FP32", *, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def text(value: str | bytes, name: str = "text", *, binary: bool = True) -> Any:
    return tensor(name, np.array([value], object), "BYTES", binary=binary)


X = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    assert not client.is_model_ready("nothing")
    assert client.get_server_metadata()["name"] == "tauten"
    told = client.get_model_metadata("linear")
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert told["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    config = client.get_model_config("linear")
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (32, [4])
    assert {each["name"] for each in client.get_model_repository_index()} >= {"linear", "shout"}


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_tensors_travel_as_bytes_and_as_json(client: Any, binary_in: bool, binary_out: bool | None) -> None:
    wanted = None if binary_out is None else [triton.InferRequestedOutput("y", binary_data=binary_out)]
    for _ in range(2):  # the second finds its head known
        answer = client.infer("linear", [tensor("x", X, binary=binary_in)], outputs=wanted, request_id="a 7")
        np.testing.assert_allclose(answer.as_numpy("y"), X @ WEIGHT)
        assert answer.get_response()["id"] == "a 7"
    answer = client.infer("linear", [tensor("x", X[:1], binary=binary_in)], outputs=wanted)
    np.testing.assert_allclose(answer.as_numpy("y"), X[:1] @ WEIGHT)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", SAME)
def test_every_datatype_comes_back_as_it_went(client: Any, dtype: str, binary: bool) -> None:
    datatype, kind = SAME[dtype]
    values: Any = [["ä", "", "b" * 300]] if dtype == "str" else [[0, 1, 1]]
    sent = np.array(values, kind)
    answer = client.infer(
        f"same_{dtype}",
        [tensor("x", sent, datatype, binary=binary)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
    )
    back = answer.as_numpy("y")
    shown = [each.decode() if isinstance(each, bytes) else each for each in back.ravel().tolist()]
    assert shown == sent.ravel().tolist()
    assert back.shape == sent.shape


def test_bf16_is_taken_where_float32_is(client: Any) -> None:
    given = tensor("x", (X[:1].view(np.uint32) >> 16).astype(np.uint16), "UINT16")
    given._datatype = "BF16"  # its own setter wants another package's arrays
    np.testing.assert_allclose(client.infer("linear", [given]).as_numpy("y"), X[:1] @ WEIGHT)


def test_several_inputs_and_the_outputs_that_are_asked_for(client: Any) -> None:
    a, b = np.array([[1, 2]], np.int64), np.array([[10, 20]], np.int64)
    given = [tensor("b", b, "INT64"), tensor("a", a, "INT64", binary=False)]
    everything = client.infer("two", given)
    assert everything.as_numpy("total").tolist() == [[11, 22]]
    one = client.infer("two", given, outputs=[triton.InferRequestedOutput("first")])
    assert [each["name"] for each in one.get_response()["outputs"]] == ["first"]
    with pytest.raises(InferenceServerException, match="no output is called 'last'"):
        client.infer("two", given, outputs=[triton.InferRequestedOutput("last")])


def test_requests_in_flight_share_runs_and_each_gets_its_own_rows(client: Any) -> None:
    asked = [np.full((1 + n % 3, 4), n, np.float32) for n in range(24)]
    waiting = [client.async_infer("linear", [tensor("x", x)]) for x in asked]
    for x, each in zip(asked, waiting, strict=True):
        np.testing.assert_allclose(each.get_result().as_numpy("y"), x @ WEIGHT)


def test_the_asynchronous_client(running: Running) -> None:
    async def main() -> None:
        async with triton_aio.InferenceServerClient(running.http) as client:
            assert await client.is_model_ready("linear")
            answers = await asyncio.gather(*(client.infer("linear", [tensor("x", X * n)]) for n in range(8)))
            for n, answer in enumerate(answers):
                np.testing.assert_allclose(answer.as_numpy("y"), X * n @ WEIGHT)
            with pytest.raises(InferenceServerException, match="linear"):
                await client.infer("linaer", [tensor("x", X)])

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_are_compressed_both_ways(client: Any, algorithm: str) -> None:
    x = np.zeros((200, 4), np.float32)
    answer = client.infer(
        "linear",
        [tensor("x", x)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert answer.as_numpy("y").shape == (200, 3)


def test_a_workflow_is_a_model(client: Any) -> None:
    assert client.get_model_metadata("shout")["inputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [1]}
    ]
    for binary in (True, False):
        assert client.infer("shout", [text("hé", binary=binary)]).as_numpy("output").tolist() == [
            "HÉ".encode()
        ]
    doubled = client.infer("double", [tensor("numbers", np.array([1, 2], np.int16), "INT16")])
    assert doubled.as_numpy("output").tolist() == [2, 4]
    assert doubled.as_numpy("output").dtype == np.int16
    collected = client.infer("words", [text("one two")]).as_numpy("output")
    assert collected.tolist() == [b"one two "]
    bitmap = b"BM" + bytes(4) + bytes(4) + bytes(40)
    seen = client.infer("size", [text(bitmap, "photo"), text("hm", "note")]).as_numpy("output")
    assert json.loads(seen[0]) == {"bytes": len(bitmap), "note": "hm"}
    with pytest.raises(InferenceServerException, match="image"):
        client.infer("size", [text("/etc/hostname", "photo")])  # text is text, never the name of a file


def test_statistics_add_up(client: Any) -> None:
    def counted(stats: Any, key: str) -> int:
        return int(stats["inference_stats"][key]["count"])

    [before] = client.get_inference_statistics("two")["model_stats"]
    a = np.ones((3, 2), np.int64)
    for _ in range(4):
        client.infer("two", [tensor("a", a, "INT64"), tensor("b", a, "INT64")])
    [after] = client.get_inference_statistics("two")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 12
    assert after["execution_count"] - before["execution_count"] == 4
    for key in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert counted(after, key) - counted(before, key) == 4
        assert after["inference_stats"][key]["ns"] > before["inference_stats"][key]["ns"]
    batches = {each["batch_size"]: each["compute_infer"]["count"] for each in after["batch_stats"]}
    assert batches[3] >= 4
    assert sum(batches.values()) == after["execution_count"]
    parts = sum(after["inference_stats"][key]["ns"] for key in ("queue", "compute_infer"))
    assert parts <= after["inference_stats"]["success"]["ns"]
    assert after["tauten"]["causes"]["compute"]["count"] == after["inference_stats"]["success"]["count"]
    assert {each["name"] for each in client.get_inference_statistics()["model_stats"]} >= {"two", "shout"}


def test_timeouts_and_priorities_are_honoured(running: Running, client: Any) -> None:
    for more in ({"timeout": 30_000}, {"headers": {"x-tauten-deadline-ms": "30"}}):
        with pytest.raises(InferenceServerException, match="deadline") as late:
            client.infer("slow", [text("x")], **more)
        assert late.value.status() == "504"
    assert running.on_loop(lambda: ZOMBIES.running) == 0
    [stats] = client.get_inference_statistics("slow")["model_stats"]
    assert stats["inference_stats"]["fail"]["count"] >= 2
    assert client.infer("linear", [tensor("x", X)], priority=1, timeout=5_000_000).as_numpy("y") is not None
    for wrong in ({"timeout": -1}, {"priority": 5000}):
        with pytest.raises(InferenceServerException, match="E298"):
            client.infer("linear", [tensor("x", X)], **wrong)


def test_a_client_that_leaves_is_counted_and_its_work_stops(running: Running) -> None:
    begun = ZOMBIES.begun
    client = triton.InferenceServerClient(running.http, network_timeout=0.2)
    with pytest.raises(Exception, match="timed out"):
        client.infer("slow", [text("x")])
    client.close()
    assert begun < ZOMBIES.begun
    until = time.monotonic() + 5
    while running.on_loop(lambda: ZOMBIES.running) and time.monotonic() < until:
        time.sleep(0.01)
    assert running.on_loop(lambda: ZOMBIES.running) == 0
    with triton.InferenceServerClient(running.http) as other:
        [stats] = other.get_inference_statistics("slow")["model_stats"]
    assert stats["tauten"]["cancel"]["count"] >= 1


def test_mistakes_are_answered_with_what_to_do(client: Any) -> None:
    nothing = np.zeros((1, 5), np.float32)
    cases = [
        ("nope", [tensor("x", X)], "404", "no model is served as 'nope'"),
        ("linear", [tensor("x", nothing)], "400", r"shape \[1, 5\]; the model takes \[n, 4\]"),
        ("linear", [tensor("x", X.astype(np.int32), "INT32")], "400", "int32; the model takes float32"),
        ("linear", [tensor("y", X)], "400", "no input is called 'y'"),
        ("two", [tensor("a", np.ones((1, 2), np.int64), "INT64")], "400", "input 'b' is missing"),
        ("pick", [tensor("ids", np.array([7]), "INT64")], "400", "the engine refused the input"),
        ("shout", [text(b"\xff\xfe")], "400", "no UTF-8"),
        ("linear", [tensor("x", np.zeros((20_000, 4), np.float32))], "413", "--max-body-mb"),
    ]
    for model, inputs, status, words in cases:
        with pytest.raises(InferenceServerException, match=words) as wrong:
            client.infer(model, inputs)
        assert wrong.value.status() == status
    with pytest.raises(InferenceServerException, match="no version '2'"):
        client.infer("linear", [tensor("x", X)], model_version="2")
    assert BODY_BYTES < 20_000 * 16


def test_rows_of_one_request_must_agree(client: Any) -> None:
    a, b = np.ones((1, 2), np.int64), np.ones((2, 2), np.int64)
    with pytest.raises(InferenceServerException, match=r"shape \[2, 2\]; the model takes \[n, 2\]"):
        client.infer("two", [tensor("a", a, "INT64"), tensor("b", b, "INT64")])


def test_what_is_not_offered_is_said(client: Any) -> None:
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []
    assert client.get_log_settings()["log_error"] is True
    assert client.get_trace_settings("linear")["trace_level"] == ["OFF"]
    for refused in (
        lambda: client.register_system_shared_memory("r", "/key", 64),
        lambda: client.update_log_settings({"log_info": False}),
        lambda: client.update_trace_settings("linear", {"trace_level": ["TIMESTAMPS"]}),
        lambda: client.load_model("linear"),
        lambda: client.unload_model("linear"),
    ):
        with pytest.raises(InferenceServerException, match="E297"):
            refused()
    client.unregister_system_shared_memory()
    assert client.is_model_ready("linear")


def post(running: Running, path: str, body: Any) -> tuple[int, bytes, str]:
    request = urllib.request.Request(f"http://{running.http}{path}", json.dumps(body).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), answer.headers["content-type"]
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers["content-type"]


def test_text_is_generated_whole_and_as_it_comes(running: Running) -> None:
    status, body, _ = post(running, "/v2/models/shout/generate", {"text_input": "hi", "id": "4"})
    assert (status, json.loads(body)) == (
        200,
        {"model_name": "shout", "model_version": "1", "text_output": "HI", "id": "4"},
    )
    assert (
        json.loads(post(running, "/v2/models/shout/generate", {"text": "by name"})[1])["text_output"]
        == "BY NAME"
    )
    status, body, kind = post(running, "/v2/models/words/generate_stream", {"text_input": "one two"})
    events = [json.loads(each.removeprefix(b"data: ")) for each in body.split(b"\n\n") if each]
    assert (status, kind) == (200, "text/event-stream")
    assert [each["text_output"] for each in events] == ["one ", "two "]
    status, body, _ = post(running, "/v2/models/words/generate_stream", {"text_input": "one FAIL"})
    assert status == 200
    last = json.loads(body.split(b"\n\n")[-2].removeprefix(b"data: "))["error"]
    assert last.startswith("E404 the request failed inside the server")
    assert b"asked to fail" not in body  # what a stage says stays in the log
    assert post(running, "/v2/models/words/generate_stream", {"text_input": "FAIL"})[0] == 500
    assert post(running, "/v2/models/linear/generate", {"text_input": "x"})[0] == 400
    assert post(running, "/v2/models/shout/generate", {})[0] == 400


def test_a_model_without_a_replica_is_not_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One answer for every API's probes."""
    from serve.kit_asgi import ask, site
    from serve.kit_onnx import linear
    from tauten.serve import probes
    from tauten.serve.tensor_model import tensor_model

    async def main() -> None:
        async with site(tensor_model(linear(tmp_path), threads=1)) as app:
            for broken, status in ((False, 200), (True, 503)):
                monkeypatch.setattr(probes, "broken", lambda view, broken=broken: broken)
                for path in ("/health/ready", "/v2/health/ready", "/v2/models/linear/ready"):
                    assert (await ask(app, "GET", path)).status == status, path

    asyncio.run(main())


def test_an_administrator_may_unload_and_load(tmp_path: Path) -> None:
    from serve.kit_asgi import ask, site
    from serve.kit_onnx import linear
    from tauten.serve.door import Caller, Door
    from tauten.serve.tensor_model import tensor_model

    async def main() -> None:
        door = Door(identify=lambda exchange: Caller(admin=True))
        async with site(tensor_model(linear(tmp_path), threads=1), door=door, apis=["oip"]) as app:
            body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
            assert (await ask(app, "POST", "/v2/repository/models/linear/unload")).status == 200
            assert (await ask(app, "POST", "/v2/models/linear/infer", body)).status == 503
            [row] = (await ask(app, "POST", "/v2/repository/index")).json
            assert (row["state"], row["reason"]) == ("UNAVAILABLE", "it was unloaded")
            assert (await ask(app, "GET", "/v2/health/ready")).status == 503
            assert (await ask(app, "POST", "/v2/repository/models/linear/load")).status == 200
            assert (await ask(app, "POST", "/v2/models/linear/infer", body)).status == 200

    asyncio.run(main())


def test_a_server_is_ready_without_a_model_that_was_unloaded(tmp_path: Path) -> None:
    from serve.kit_asgi import ask, site
    from serve.kit_onnx import linear
    from tauten.serve.door import Caller, Door
    from tauten.serve.tensor_model import tensor_model

    async def main() -> None:
        door = Door(identify=lambda exchange: Caller(admin=True))
        file = linear(tmp_path)
        models = [tensor_model(file, name=name, threads=1) for name in ("one", "two")]
        async with site(*models, door=door, apis=["oip", "operations"]) as app:

            async def ready() -> list[int]:
                paths = ("/v2/health/ready", "/health/ready", "/v2/models/one/ready", "/v2/models/two/ready")
                return [(await ask(app, "GET", path)).status for path in paths]

            assert await ready() == [200, 200, 200, 200]
            assert (await ask(app, "POST", "/v2/repository/models/one/unload")).status == 200
            assert await ready() == [200, 200, 503, 200]
            assert (await ask(app, "POST", "/v2/repository/models/two/unload")).status == 200
            assert await ready() == [503, 503, 503, 503], "nothing is served"
            assert (await ask(app, "POST", "/v2/repository/models/one/load")).status == 200
            assert await ready() == [200, 200, 200, 503]

    asyncio.run(main())
