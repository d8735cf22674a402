"""Replicas: each runs where the plan binds it, and has run what warmed up any of them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tauten as tt
from serve.kit_onnx import linear
from tauten.clock import real, run_virtual
from tauten.describe.stage import Role
from tauten.errors import BackendError, InputError
from tauten.plan.plan import Batch, ModelChoice, Plan, StagePlan
from tauten.run.backends.onnx import OnnxBackend
from tauten.run.backends.synthetic import SyntheticBackend
from tauten.run.contracts import ModelSpec, find
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.deployments import Deployments
from tauten.run.request import Request
from tauten.serve.service import Service
from tauten.serve.tensor_model import STAGE, Feed, tensor_model

LIMIT_S = 20.0  # a hang is a failure; no test comes near it
HERE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
X = np.arange(8, dtype=np.float32).reshape(2, 4)

# -- processors ------------------------------------------------------------------------------------------------


def allowed() -> dict[str, set[int]]:
    """The processors of each thread of this process."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        bits = next(line.split()[1] for line in lines if line.startswith("Cpus_allowed:"))
        number = int(bits.replace(",", ""), 16)
        found[task.name] = {cpu for cpu in range(number.bit_length()) if number >> cpu & 1}
    return found


class _Files:
    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self, model: str, variant: str | None = None) -> dict[str, Path]:
        return {"model.onnx": self.path}


@pytest.mark.skipif(len(HERE) < 2, reason="of one processor there is no part to be bound to")
@pytest.mark.parametrize("cpu", [HERE[0], HERE[-1]] if HERE else [])
@pytest.mark.parametrize(
    ("backend", "options"), [("onnx", {}), ("onnx", {"execution": "parallel"}), ("openvino", {})]
)
def test_all_threads_of_a_bound_replica_stay_on_its_processors(
    tmp_path: Path, backend: str, options: dict[str, Any], cpu: int
) -> None:
    path = linear(tmp_path)

    async def main() -> None:
        deployments = Deployments(_Files(path), real)
        choice = ModelChoice(
            model="linear", backend=backend, batch=Batch(max=1), cpus=(str(cpu),), options=options
        )
        before = allowed()
        try:
            deployment = await deployments.take([], choice, {"model.onnx": path})
            assert isinstance(deployment, Deployment)
            for _ in range(3):
                await deployment.infer(Request(real), "s", {"x": X[0]})
            made = {task: cpus for task, cpus in allowed().items() if task not in before}
            assert made
            assert all(cpus == {cpu} for cpus in made.values()), made
            assert deployment.properties["threads"] == "1"
        finally:
            await deployments.close()

    asyncio.run(main())


@pytest.mark.parametrize("backend", ["onnx", "openvino", "whisper"])
def test_engines_are_told_how_many_processors_a_bound_thread_has(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(os, "cpu_count", lambda: 8)

    def threads(asked: int, bound: int) -> Any:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)), raising=False)
        made = find("backends", backend)(
            ModelSpec("m", files={"model.bin": Path("m/model.bin")}, threads=asked)
        )
        return _THREADS[backend](made)

    told = [threads(0, 3), threads(2, 3), threads(0, 8)]
    assert told == [3, 2, 0]


class _Kept:
    """Whatever an engine is told."""

    def __init__(self, **given: Any) -> None:
        self.__dict__.update(given)

    def __getattr__(self, name: str) -> Any:
        return _Kept()

    def add_session_config_entry(self, *_: str) -> None: ...


class _Engine:
    class models:  # noqa: N801  # as CTranslate2 calls it
        @staticmethod
        def Whisper(folder: str, **given: Any) -> Any:  # noqa: N802
            return _Kept(**given)


_THREADS: dict[str, Callable[[Any], Any]] = {
    "onnx": lambda made: made._settings(_Kept(SessionOptions=_Kept)).intra_op_num_threads,
    "openvino": lambda made: made._config().get("INFERENCE_NUM_THREADS", 0),
    "whisper": lambda made: made._load(_Engine, "default").intra_threads,
}

# -- warming up ------------------------------------------------------------------------------------------------


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """What each replica of an ONNX model ran, in their order."""
    found: dict[int, list[float]] = {}
    execute = OnnxBackend._execute

    def noted(self: OnnxBackend, inputs: dict[str, Any]) -> dict[str, Any]:
        found.setdefault(id(self), []).append(float(inputs["x"].sum()))
        return execute(self, inputs)

    monkeypatch.setattr(OnnxBackend, "_execute", noted)
    return found


def tensors(folder: Path, replicas: int, samples: Sequence[Any], name: str = "three") -> Service:
    service = tensor_model(linear(folder), threads=1)
    service._plan = plan_of(service, replicas, name)
    service.samples = [{"tensors": Feed(x=sample)} for sample in samples]
    return service


def plan_of(service: Service, replicas: int, name: str) -> Plan:
    assert service.workflow.graph is not None
    stage = StagePlan(batch=Batch(max=4), threads=1, replicas=replicas)
    return Plan(name=name, graph=service.workflow.graph.hash, stages={STAGE: stage})


def deployment_of(service: Service, plan: str = "") -> Deployment:
    found = service.engine.plans[plan or service.plan_id].bound[STAGE].deployments[STAGE]
    assert isinstance(found, Deployment)
    return found


def test_each_replica_has_run_each_sample_when_its_service_is_ready(
    tmp_path: Path, ran: dict[int, list[float]]
) -> None:
    samples = [X, X + 1, X + 2]
    sums = [float(sample.sum()) for sample in samples]

    async def main() -> None:
        service = tensors(tmp_path, 3, samples)
        await service.open()
        try:
            assert list(ran.values()) == [sums] * 3
            view = deployment_of(service).view()
            assert (view.done, view.batches, view.idle, view.running) == (3, 3, 3, 0)
            ran.clear()
            other = plan_of(service, 2, "two")
            await service.swap(other)
            assert list(ran.values()) == [sums] * 2, "as those of another plan"
        finally:
            await service.close()

    asyncio.run(main())


def test_what_fails_in_a_warm_up_leaves_no_replica_back(tmp_path: Path, ran: dict[int, list[float]]) -> None:
    async def main() -> None:
        service = tensors(tmp_path, 3, [X, X[:, :3]])
        try:
            with pytest.raises(InputError):
                await service.open()
            assert len(ran) == 1
            service.samples = []
            await service.open()
            assert deployment_of(service).view().idle == 3
            service.samples = [{"tensors": Feed(x=X[:, :3])}]
            with pytest.raises(InputError):
                await service.swap(plan_of(service, 2, "two"))
            assert [plan.partition("@")[0] for plan in service.engine.plans] == ["three"]
        finally:
            await service.close()

    asyncio.run(main())


class Told(SyntheticBackend):
    """Notes what it ran, with when; a "fatal" item kills each but the first once."""

    made: list[Told]

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.ran: list[tuple[float, list[Any]]] = []
        self.made.append(self)

    def answer(self, items: Sequence[Any]) -> list[Any]:
        self.ran.append((asyncio.get_running_loop().time(), list(items)))
        if "fatal" in items and len([each for each in self.made if each.ran]) > 1:
            error = BackendError("the engine is gone", help="it is opened anew")
            error.dead = True
            raise error
        return super().answer(items)


def rehearsed(body: Callable[[Deployment, list[Told]], Awaitable[None]], replicas: int = 3) -> None:
    async def main() -> None:
        Told.made = []
        spec = ModelSpec("told", options={"ms_per_batch": 1000.0})
        clock = asyncio.get_running_loop().time
        deployment = Deployment(
            lambda: Told(spec), label="told", clock=clock, replicas=replicas, max_batch=4, wait="off"
        )
        await deployment.open()
        deployment.keep_back()
        try:
            await body(deployment, Told.made)
        finally:
            await deployment.close()

    run_virtual(main())


async def asked(deployment: Deployment, *items: Any) -> list[Any]:
    requests = [Request(deployment.clock) for _ in items]
    pairs = zip(requests, items, strict=True)
    return await asyncio.gather(*(deployment.infer(each, "s", item) for each, item in pairs))


def test_replicas_rehearse_side_by_side_what_one_of_them_ran_and_nobody_counts_it() -> None:
    async def body(deployment: Deployment, made: list[Told]) -> None:
        await asked(deployment, "a")
        await asked(deployment, "b", "c")
        learned = deployment.durations.runs
        await deployment.rehearse()
        assert deployment.clock() == 4.0, "two runs of the first, then two of each other at once"
        assert [[items for _, items in each.ran] for each in made] == [[["a"], ["b", "c"]]] * 3
        view = deployment.view()
        assert (view.done, view.batches, view.idle, view.bisected) == (3, 2, 3, 0)
        assert deployment.durations.runs == learned
        await deployment.rehearse()
        assert deployment.clock() == 4.0, "once"

    rehearsed(body)


def test_requests_that_come_during_a_rehearsal_are_answered_and_not_by_those_who_rehearse() -> None:
    async def body(deployment: Deployment, made: list[Told]) -> None:
        await asked(deployment, "a")
        rehearsal = asyncio.ensure_future(deployment.rehearse())
        await asyncio.sleep(0.5)
        assert await asked(deployment, *"bcdefghijklm") == list("bcdefghijklm")
        await rehearsal
        ran = [items for each in made for _, items in each.ran]
        assert ran.count(["a"]) == 3
        assert deployment.view().done == 13

    rehearsed(body)


def test_a_replica_that_dies_in_a_rehearsal_is_opened_anew_like_any_other() -> None:
    async def body(deployment: Deployment, made: list[Told]) -> None:
        await asked(deployment, "fatal")
        await deployment.rehearse()
        await asyncio.sleep(1.0)
        view = deployment.view()
        assert (view.restarts, view.replicas, view.idle) == (2, 3, 3)
        assert len(made) == 5
        assert await asked(deployment, "a", "b") == ["a", "b"]

    rehearsed(body)


def test_a_deployment_that_is_closed_in_a_rehearsal_keeps_nobody_waiting() -> None:
    async def body(deployment: Deployment, made: list[Told]) -> None:
        await asked(deployment, "a")
        await asked(deployment, "b")
        rehearsal = asyncio.ensure_future(deployment.rehearse())
        await asyncio.sleep(0.5)
        await deployment.close()
        await asyncio.wait_for(rehearsal, LIMIT_S)
        assert [len(each.ran) for each in made if each.ran][-1] == 2
        assert deployment.view().running == 0

    rehearsed(body)


calls: list[str] = []


@tt.stage(pure=True)
class Instance:
    """A user's own, of which there are several."""

    def __call__(self, text: str) -> str:
        calls.append(text)
        return text


@tt.workflow
def with_instances(text: str) -> str:
    return Instance(text)


def test_a_users_own_code_runs_once_a_sample() -> None:
    async def main() -> None:
        calls.clear()
        graph = with_instances.graph
        assert graph is not None
        (step,) = graph.stages
        plan = Plan(graph=graph.hash, stages={step: StagePlan(replicas=3)})
        service = Service(with_instances, plan, samples=[{"text": "one"}, {"text": "two"}])
        await service.open()
        await service.close()
        assert calls == ["one", "two"]

    asyncio.run(main())


@tt.stage(pure=True, roles={"model": Role("told", ("synthetic",))})
async def met(text: str, *, ctx: tt.Context) -> str:
    answer: str = await ctx.infer("model", text)
    return answer


@tt.workflow
async def program(text: str) -> str:
    return await met(text)


def test_models_that_a_program_meets_in_its_warm_up_rehearse_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[int, list[Any]] = {}
    run = SyntheticBackend.run

    def noted(self: SyntheticBackend, items: Sequence[Any]) -> list[Any]:
        ran.setdefault(id(self), []).extend(items)
        return run(self, items)

    monkeypatch.setattr(SyntheticBackend, "run", noted)

    async def main() -> None:
        plan = Plan(stages={"met": StagePlan(replicas=3)})
        service = Service(program, plan, samples=[{"text": "one"}, {"text": "two"}])
        await service.open()
        await service.close()
        assert list(ran.values()) == [["one", "two"]] * 3

    asyncio.run(main())
