"""A model alone is warm before it is ready: every replica has run zeros of the shapes that its file names."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from serve.kit_onnx import TYPES, batch_of, identity, linear, two, write
from tauten.plan.plan import Batch, Plan, StagePlan
from tauten.run.backends.onnx import OnnxBackend
from tauten.run.deploy.deployment import Deployment
from tauten.serve.server import Server, Settings
from tauten.serve.tensor_model import STAGE, TensorService, tensor_model

Ran = list[tuple[OnnxBackend, dict[str, Any]]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """What each replica was given."""
    found, execute = Ran(), OnnxBackend._execute

    def noted(self: OnnxBackend, inputs: dict[str, Any]) -> Any:
        found.append((self, dict(inputs)))
        return execute(self, inputs)

    monkeypatch.setattr(OnnxBackend, "_execute", noted)
    return found


def planned(replicas: int = 1, most: int = 8, name: str = "naive") -> Plan:
    return Plan(name=name, stages={STAGE: StagePlan(batch=Batch(max=most), threads=1, replicas=replicas)})


def deployment(service: TensorService) -> Deployment:
    found = service.engine.plans[service.plan_id].bound[STAGE].deployments[STAGE]
    assert isinstance(found, Deployment)
    return found


def opened(service: TensorService) -> None:
    async def main() -> None:
        await service.open()
        await service.close()

    asyncio.run(main())


def test_every_replica_has_run_before_the_service_is_ready(tmp_path: Path, ran: Ran) -> None:
    async def main() -> None:
        service = tensor_model(linear(tmp_path), plan=planned(replicas=3))
        await service.open()
        assert service.ready
        assert len(ran) == len({id(replica) for replica, _ in ran}) == 3
        for _, inputs in ran:
            np.testing.assert_array_equal(inputs["x"], np.zeros((1, 4), np.float32), strict=True)
        assert service.unfit == ""
        assert deployment(service).batches == 1  # the others only rehearse
        await service.close()

    asyncio.run(main())


@pytest.mark.parametrize("dtype", TYPES)
def test_each_type_has_its_zeros(tmp_path: Path, ran: Ran, dtype: str) -> None:
    service = tensor_model(identity(tmp_path, dtype), threads=1)
    opened(service)
    assert service.unfit == ""
    ((_, inputs),) = ran
    assert inputs["x"].tolist() == [["" if dtype == "str" else 0]]
    assert inputs["x"].dtype == ("object" if dtype == "str" else dtype)


def test_all_inputs_are_there_and_sizes_that_the_file_fixes_are_kept(tmp_path: Path, ran: Ran) -> None:
    opened(tensor_model(batch_of(tmp_path, 4), threads=1))
    opened(tensor_model(two(tmp_path), threads=1))
    assert [{name: each.shape for name, each in inputs.items()} for _, inputs in ran] == [
        {"x": (4, 4)},
        {"a": (1, 2), "b": (1, 2)},
    ]


def late(folder: Path) -> Path:
    """Rows of a table by a number from 5: a zero is refused by the engine."""
    nodes = [
        helper.make_node("Sub", ["ids", "five"], ["place"]),
        helper.make_node("Gather", ["table", "place"], ["rows"]),
    ]
    table = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "table")
    five = numpy_helper.from_array(np.array(5, np.int64), "five")
    inputs, outputs = {"ids": ("int64", ["n"])}, {"rows": ("float32", ["n", 2])}
    return write(folder / "late.onnx", nodes, inputs, outputs, [table, five])


def test_a_model_that_refuses_zeros_is_served_and_said_to_be_cold(tmp_path: Path) -> None:
    async def main() -> None:
        service = tensor_model(late(tmp_path), plan=planned(replicas=2))
        said: list[str] = []
        server = Server([service], Settings(port=0, grpc_port=None, lead_s=0.0), progress=said.append)
        rows = []

        async def first() -> None:
            answer = await service.engine.run({"tensors": {"ids": [6]}})
            rows.extend(answer.value["rows"].tolist())
            server.stop(signal.SIGTERM)

        asked: list[asyncio.Task[None]] = []
        await server.run(lambda: asked.append(asyncio.create_task(first())))
        await asked[0]
        assert service.was_ready
        assert rows == [[2.0, 3.0]]
        (cold,) = [line for line in said if "may be cold" in line]
        assert cold.startswith("late may be cold: a made-up sample failed with E407 ")

    asyncio.run(main())


def test_a_swap_warms_up_what_it_opens_and_nothing_that_works_already(tmp_path: Path, ran: Ran) -> None:
    async def main() -> None:
        service = tensor_model(linear(tmp_path), plan=planned())
        await service.open()
        limit = service.engine.door.limit
        limit.count(limit.limit)  # the house is full
        await service.swap(planned(most=4))
        assert [inputs["x"].shape for _, inputs in ran] == [(1, 4)] * 2
        assert deployment(service).done == 1
        await service.swap(planned(most=4, name="same"))
        assert len(ran) == 2
        await service.close()

    asyncio.run(main())
