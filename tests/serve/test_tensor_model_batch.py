"""A model whose file fixes its batch, served raw: fewer rows are filled up, more refused, requests share it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from serve.kit_asgi import ask, site
from serve.kit_http import Peer, run
from serve.kit_onnx import batch_of, linear, write
from serve.test_express import Gate, Taken, asked, gate, listening, request, taken
from tauten.errors import InputError
from tauten.plan.plan import Batch, Plan, StagePlan
from tauten.run.deploy.deployment import Deployment
from tauten.serve.tensor_model import STAGE, TensorService, tensor_model

__all__ = ["gate", "taken"]  # the fixtures

WEIGHT = np.add.outer(np.arange(4), np.arange(3)).astype(np.float32)


def rows(count: int, of: float = 1.0) -> Any:
    return (np.arange(count * 4, dtype=np.float32).reshape(count, 4) + 1) * of


def deployment(service: TensorService) -> Deployment:
    found = service.engine.plans[service.plan_id].bound[STAGE].deployments[STAGE]
    assert isinstance(found, Deployment)
    return found


async def answer(service: TensorService, array: Any) -> Any:
    return (await service.engine.run({"tensors": service.fitted({"x": array})})).value["y"]


def body(array: Any) -> dict[str, Any]:
    given = {"name": "x", "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
    return {"inputs": [given]}


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_any_number_of_rows_up_to_the_batch_and_no_more(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        service = tensor_model(batch_of(tmp_path, 4), backend=backend, threads=1)
        async with site(service, apis=["oip"]) as app:
            for count in (1, 3, 4):
                done = await ask(app, "POST", "/v2/models/batch/infer", body(rows(count)))
                assert done.status == 200, done.body
                (output,) = done.json["outputs"]
                assert output["shape"] == [count, 3]
                found = np.array(output["data"]).reshape(count, 3)
                np.testing.assert_allclose(found, rows(count) @ WEIGHT, rtol=0.02)  # it may be bfloat16
            for count in (5, 0):
                done = await ask(app, "POST", "/v2/models/batch/infer", body(rows(count)))
                assert done.status == 400, done.body
                assert (
                    f"E296 input 'x' has {count} rows; the model's batch is fixed at 4" in done.json["error"]
                )
            done = await ask(app, "POST", "/v2/models/batch/infer", body(np.ones((2, 5), np.float32)))
            assert (done.status, done.json["error"][:4]) == (400, "E296")

    asyncio.run(main())


def test_metadata_tell_the_shape_of_the_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tensor_model(batch_of(tmp_path, 4), threads=1), apis=["oip"]) as app:
            told = (await ask(app, "GET", "/v2/models/batch")).json
            assert [each["shape"] for each in (*told["inputs"], *told["outputs"])] == [[4, 4], [4, 3]]
            config = (await ask(app, "GET", "/v2/models/batch/config")).json
            assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [4, 4])

    asyncio.run(main())


def test_requests_share_the_batch_where_their_rows_fit(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tensor_model(batch_of(tmp_path, 4), threads=1), apis=["oip"]):
            pass
        service = tensor_model(batch_of(tmp_path, 4), threads=1)
        async with site(service, apis=["oip"]):
            alone = {count: await answer(service, rows(count)) for count in (1, 2, 3, 4)}
            before = deployment(service).batches
            counts = (1, 2, 1, 3, 1, 4, 2, 2)  # four batches of four
            found = await asyncio.gather(*(answer(service, rows(count)) for count in counts))
            for count, each in zip(counts, found, strict=True):
                np.testing.assert_array_equal(each, alone[count])
                np.testing.assert_allclose(each, rows(count) @ WEIGHT, rtol=1e-5)
            assert deployment(service).batches - before <= 5

    asyncio.run(main())


@pytest.mark.parametrize(("each", "sizes"), [(1, {4}), (2, {2}), (3, {1})])
def test_those_who_come_in_one_turn_are_parted_by_what_the_batch_holds(
    tmp_path: Path, gate: Gate, taken: Taken, each: int, sizes: set[int]
) -> None:
    """Of requests that travel as one item no more run together than have room."""

    async def main() -> None:
        service = tensor_model(batch_of(tmp_path, 4), name="linear", threads=1)
        async with site(service, apis=["oip"]) as app, listening(app) as port, AsyncExitStack() as stack:
            peers = [await Peer.of(port) for _ in range(9)]
            for peer in peers:
                stack.push_async_callback(peer.close)
                for _ in range(3):  # then their head is known
                    assert (await asked(peer, request(rows(each))))[0] == 200
            known, before = taken.count, dict(deployment(service).batch_sizes)
            gate.entered.clear()
            gate.open.clear()
            arrays = [rows(each, number) for number in range(len(peers))]
            await peers[0].say(request(arrays[0]))
            assert await asyncio.to_thread(gate.entered.wait, 10)
            for peer, array in zip(peers[1:], arrays[1:], strict=True):
                await peer.say(request(array))
            while service.engine.door.limit.running < len(peers):
                await asyncio.sleep(0.001)
            gate.open.set()
            for peer, array in zip(peers, arrays, strict=True):
                status, headers, content = await peer.answer()
                assert status == 200, content
                found = np.frombuffer(content[int(headers["inference-header-content-length"]) :], np.float32)
                np.testing.assert_allclose(found.reshape(-1, 3), array @ WEIGHT, rtol=1e-5)
            assert taken.count - known == len(peers)
            after = deployment(service).batch_sizes
            grown = {size for size, times in after.items() if times > before.get(size, 0)}
            assert grown == sizes | {1}

    run(main)


def test_only_a_first_axis_that_all_share_is_a_batch(tmp_path: Path) -> None:
    square = write(
        tmp_path / "square.onnx",
        [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])],
        {"x": ("float32", [4, 3])},
        {"y": ("float32", [3, 4])},
    )

    async def main() -> None:
        service = tensor_model(square, threads=1)
        async with site(service, apis=["oip"]):
            whole = rows(3).reshape(4, 3)
            for found in await asyncio.gather(*(answer(service, whole) for _ in range(3))):
                np.testing.assert_array_equal(found, whole.T)
            with pytest.raises(InputError, match="has shape"):
                await answer(service, whole[:2])

    asyncio.run(main())


def test_openvino_is_compiled_for_the_sizes_of_a_plan(tmp_path: Path) -> None:
    plan = Plan(stages={STAGE: StagePlan(batch=Batch(max=32), threads=1, settings={"sizes": [8, 1, 2]})})

    async def main() -> None:
        service = tensor_model(linear(tmp_path), backend="openvino", plan=plan)
        async with site(service, apis=["oip"]) as app:
            properties = deployment(service).properties
            assert properties["batch"] == "filled up to 1, 2, 8"
            assert deployment(service).max_batch == 8
            for count in (1, 2, 3, 8):
                np.testing.assert_allclose(
                    await answer(service, rows(count)), rows(count) @ WEIGHT, rtol=0.02
                )
            with pytest.raises(InputError, match="fixed at 8"):
                await answer(service, rows(9))
            told = (await ask(app, "GET", "/v2/models/linear")).json["inputs"]
            assert told[0]["shape"] == [8, 4]

    asyncio.run(main())
