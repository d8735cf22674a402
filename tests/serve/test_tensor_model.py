"""A model alone: its tensors, its batches, its mistakes; by any API."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from serve.kit_asgi import ask, site
from serve.kit_onnx import linear, pick, two, write
from tauten.errors import InputError, StoreError
from tauten.plan.plan import Batch, Plan, StagePlan
from tauten.run.deploy.deployment import Deployment
from tauten.serve.app import App, Site
from tauten.serve.oip.calls import statistics_of
from tauten.serve.oip.statistics import PARTS, SIZES, ModelStatistics
from tauten.serve.tensor_model import STAGE, TensorService, tensor_model

X = np.arange(8, dtype=np.float32).reshape(2, 4)
WEIGHT = np.add.outer(np.arange(4), np.arange(3)).astype(np.float32)


def deployment(service: TensorService) -> Deployment:
    found = service.engine.plans[service.plan_id].bound[STAGE].deployments[STAGE]
    assert isinstance(found, Deployment)
    return found


async def run(service: TensorService, **arrays: Any) -> Any:
    answer = await service.engine.run({"tensors": service.fitted(arrays)})
    return answer.value


def test_requests_that_wait_together_share_a_run_and_get_their_own_rows(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tensor_model(linear(tmp_path), threads=1), apis=["oip"]) as app:
            service: Any = app.site.services["linear"]
            asked = [np.full((1 + n % 3, 4), n, np.float32) for n in range(10)]
            found = await asyncio.gather(*(run(service, x=x) for x in asked))
            for x, answer in zip(asked, found, strict=True):
                np.testing.assert_allclose(answer["y"], x @ WEIGHT)
            assert deployment(service).batches < 10

    asyncio.run(main())


def test_statistics_count_runs_by_their_rows(tmp_path: Path) -> None:
    body = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist()}]}

    async def main() -> None:
        async with site(tensor_model(linear(tmp_path), threads=1), apis=["oip"]) as app:
            service: Any = app.site.services["linear"]
            before = deployment(service).batches  # the warm-up's
            done = await asyncio.gather(
                *(ask(app, "POST", "/v2/models/linear/infer", body) for _ in range(9))
            )
            assert {each.status for each in done} == {200}
            shown = statistics_of(app.site).shown(service)
            assert shown["inference_count"] == 18
            assert shown["execution_count"] == deployment(service).batches - before
            runs = {each["batch_size"]: each["compute_infer"]["count"] for each in shown["batch_stats"]}
            assert sum(size * count for size, count in runs.items()) == 18
            assert sum(runs.values()) == shown["execution_count"]

    asyncio.run(main())


def test_a_plan_says_how_it_runs(tmp_path: Path) -> None:
    plan = Plan(stages={STAGE: StagePlan(batch=Batch(max=1), threads=1)})

    async def main() -> None:
        async with site(tensor_model(linear(tmp_path), name="mine", plan=plan), apis=["oip"]) as app:
            service: Any = app.site.services["mine"]
            before = deployment(service).batches
            await asyncio.gather(*(run(service, x=X) for _ in range(6)))
            assert deployment(service).batches - before == 6
            assert (await ask(app, "GET", "/v2/models/mine/config")).json["max_batch_size"] == 1

    asyncio.run(main())


def test_axes_of_other_names_are_never_joined(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tensor_model(linear(tmp_path, axis="other"), threads=1), apis=["oip"]) as app:
            service: Any = app.site.services["linear"]
            before = deployment(service).batches
            await asyncio.gather(*(run(service, x=X) for _ in range(6)))
            assert deployment(service).batches - before == 6
            assert service.max_batch == 0

    asyncio.run(main())


def test_one_bad_request_leaves_the_others_of_its_run_their_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tensor_model(pick(tmp_path), threads=1), apis=["oip"]) as app:
            service: Any = app.site.services["pick"]
            asked = [np.array([n % 3 if n != 5 else 99]) for n in range(9)]
            found = await asyncio.gather(*(run(service, ids=ids) for ids in asked), return_exceptions=True)
            assert isinstance(found.pop(5), InputError)
            assert [answer["rows"].tolist()[0][0] for answer in found] == [0, 2, 4, 0, 2, 0, 2, 4]

    asyncio.run(main())


def test_openvino_runs_it_too(tmp_path: Path) -> None:
    async def main() -> None:
        path = linear(tmp_path)
        async with site(tensor_model(path, backend="openvino", threads=1), apis=["oip"]) as app:
            service: Any = app.site.services["linear"]
            found = await asyncio.gather(*(run(service, x=X * n) for n in range(4)))
            for n, answer in enumerate(found):  # its own choice of precision may be bfloat16
                np.testing.assert_allclose(answer["y"], X * n @ WEIGHT, rtol=0.02)
            told = (await ask(app, "GET", "/v2/models/linear")).json["inputs"]
            assert told == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]

    asyncio.run(main())


def test_the_native_api_gives_it_lists(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tensor_model(two(tmp_path), threads=1), apis=["native"]) as app:
            tensors = {"a": [[1, 2]], "b": [[10, 20]]}
            done = await ask(app, "POST", "/v1/workflows/two", {"inputs": {"tensors": tensors}})
            assert (done.status, done.json["output"]["total"]) == (200, [[11, 22]])
            for wrong in ({"a": [[1, 2]]}, {**tensors, "a": [[1], [2, 3]]}, {**tensors, "a": "x"}, {}):
                done = await ask(app, "POST", "/v1/workflows/two", {"inputs": {"tensors": wrong}})
                assert (done.status, done.json["error"]["code"]) == (400, "E296"), done

    asyncio.run(main())


def test_a_swap_drops_nothing_and_metadata_wait_for_the_file(tmp_path: Path) -> None:
    other = Plan(name="other", stages={STAGE: StagePlan(batch=Batch(max=4), threads=1)})
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}

    async def main() -> None:
        app = App(Site([tensor_model(linear(tmp_path), threads=1)]), names=["oip"])
        assert (await ask(app, "GET", "/v2/models/linear")).status == 503
        await app.site.services.open()
        service: Any = app.site.services["linear"]
        swap = asyncio.create_task(service.swap(other))
        while not swap.done():
            assert (await ask(app, "POST", "/v2/models/linear/infer", body)).status == 200
            assert (await ask(app, "GET", "/v2/models/linear/config")).status == 200
        await swap
        assert (await ask(app, "GET", "/v2/models/linear/config")).json["max_batch_size"] == 4
        await app.site.services.close()

    asyncio.run(main())


def test_files_that_are_no_models_are_said(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    odd = write(
        tmp_path / "odd.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": ("float32", [1, "m"])},
        {"y": ("float32", [1, "m"])},
    )

    async def main() -> None:
        with pytest.raises(InputError, match="no file"):
            await tensor_model(tmp_path / "none.onnx").open()
        broken = tensor_model(str(tmp_path / "text.onnx"))
        with pytest.raises(StoreError, match="cannot load"):
            await broken.open()
        assert not broken.ready
        await broken.close()
        fixed = tensor_model(odd, threads=1)
        await fixed.open()
        assert (await run(fixed, x=np.ones((1, 3), np.float32)))["y"].shape == (1, 3)
        with pytest.raises(InputError, match=r"the model takes \[1, m\]"):
            fixed.fitted({"x": np.ones((2, 3), np.float32)})
        await fixed.close()

    asyncio.run(main())


@pytest.mark.models
def test_a_model_of_the_catalog_by_its_name() -> None:
    async def main() -> None:
        async with site(tensor_model("minilm-l6-v2:fp32", threads=1), apis=["oip"]) as app:
            service: Any = app.site.services["minilm-l6-v2"]
            ids = np.array([[101, 7592, 102]], np.int64)
            given = {info.name: np.ones_like(ids) for info in service.signature.inputs}
            answer = await run(service, **{**given, service.signature.inputs[0].name: ids})
            assert next(iter(answer.values())).shape[0] == 1

    asyncio.run(main())


def test_sizes_of_runs_are_bounded_in_number_and_their_counts_are_whole() -> None:
    found, runs = ModelStatistics(), 3 * SIZES
    for rows in range(1, runs + 1):
        for _ in range(2):
            found._executed([0.0, 1.0, 2.0, 3.0, 0.0], float(rows), 1.0)
    shown = found.shown_batches()
    assert [each["batch_size"] for each in shown[:SIZES]] == list(range(1, SIZES + 1))
    assert [each["batch_size"] for each in shown[SIZES:]] == [2 * SIZES, 4 * SIZES]
    for part, seconds in zip(PARTS[1:], (1, 2, 3), strict=True):
        told = [each[part] for each in shown]
        assert sum(each["count"] for each in told) == found.executions == 2 * runs
        assert sum(each["ns"] for each in told) == 2 * runs * seconds * 10**9
