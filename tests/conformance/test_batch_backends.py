"""What every batch backend owes: one suite, run over each on the shelf, with a sample of its work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from remote.kit_provider import providers_toml
from remote.kit_tensors import tensors
from tauten.describe.stage import stage
from tauten.errors import BackendError, InputError, PlanError, StageError, StoreError
from tauten.models import Store
from tauten.run.backends import _mel
from tauten.run.contracts import BatchBackend, ModelSpec, find, names
from tauten.run.deploy.deployment import Deployment
from tauten.run.request import Request

FOX = Path(__file__).with_name("fox.ogg")
"""A sentence said by Kokoro-82M (Apache-2.0; voice jm_kumo) from hand-written phonemes, as 16 kHz Opus."""


@dataclass(frozen=True)
class Sample:
    """How to open a backend, and work that shows its contract."""

    spec: Callable[[Path], ModelSpec]
    items: Callable[[], list[Any]]  # at least three that may share a batch
    unlike: Callable[[], Any]  # must not share it; returns an item
    poison: Callable[[], Any] | None  # fails alone
    bad: dict[str, Any] = field(default_factory=dict)  # changes to the spec that it cannot honour
    same: Callable[[Any, Any], bool] = lambda a, b: bool(a == b)
    heavier: Callable[[], tuple[Any, Any]] | None = None  # a light and a heavy item


def tiny_model(folder: Path, batch: int | str = "n") -> ModelSpec:
    """y = relu(x W + b) over a dynamic batch, or one of a fixed size, and its row sums."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    rng = np.random.default_rng(7)
    weights = [
        numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.normal(size=(3,)).astype(np.float32), "b"),
        numpy_helper.from_array(np.array([1], np.int64), "axes"),
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["z"]),
        helper.make_node("Relu", ["z"], ["y"]),
        helper.make_node("ReduceSum", ["y", "axes"], ["total"], keepdims=0),
    ]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [batch, 4]), ("y", [batch, 3]), ("total", [batch]))
    ]
    graph = helper.make_graph(nodes, "tiny", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, str(folder / "tiny.onnx"))
    return ModelSpec("tiny", files={"model.onnx": folder / "tiny.onnx"}, threads=1)


def vectors() -> list[Any]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=4).astype(np.float32)} for _ in range(5)]


def arrays_agree(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(np.allclose(left[k], right[k], atol=1e-5) for k in left)


TENSORS = {
    "spec": tiny_model,
    "items": vectors,
    "unlike": lambda: {"x": np.zeros(5, np.float32)},
    "poison": lambda: {"wrong": np.zeros(4, np.float32)},
    "same": arrays_agree,
    "heavier": lambda: ({"x": np.zeros(4)}, {"x": np.zeros(400)}),
}


@stage
def shout(word: str, *, mark: str = "!") -> str:
    if word == "poison":
        raise ValueError("not this one")
    return word.upper() + mark


def fox() -> Any:
    import soundfile

    return soundfile.read(FOX, dtype="float32")[0]


def clips() -> list[Any]:
    whole = fox()
    return [{"samples": whole}, {"samples": whole[:28_000]}, {"samples": whole[26_000:]}]


def whisper_spec(_: Path) -> ModelSpec:
    name = "whisper-tiny.en"
    return ModelSpec(name, files=Store().files(name), threads=2, precision="int8")


SAMPLES = {
    "onnx": Sample(
        **TENSORS,
        bad={
            "precision": {"precision": "bf16"},
            "graph_optimization": {"options": {"graph_optimization": "most"}},
            "execution": {"options": {"execution": "random"}},
            "providers": {"options": {"providers": ["NoSuchExecutionProvider"]}},
        },
    ),
    "openvino": Sample(
        **TENSORS,
        bad={
            "precision": {"precision": "int3"},
            "performance": {"options": {"performance": "speedy"}},
            "device": {"options": {"device": "ABACUS"}},
            "sizes": {"options": {"sizes": "1, 4"}},
            "size of none": {"options": {"sizes": [0, 4]}},
            "sizes of no batch": {"options": {"sizes": [4], "unbatched": True}},
        },
    ),
    "whisper": Sample(
        spec=whisper_spec,
        items=clips,
        unlike=lambda: {"samples": np.zeros(16_000 * 20, np.float32), "window": "full"},
        poison=lambda: {"samples": fox(), "language": "de"},
        bad={"precision": {"precision": "int3"}, "device": {"options": {"device": "abacus"}}},
        heavier=lambda: ({"samples": np.zeros(16_000)}, {"samples": np.zeros(160_000)}),
    ),
    "oip_remote": Sample(
        **{**TENSORS, "spec": lambda _: ModelSpec("tiny", options={"provider": "told"})},
        bad={
            "precision": {"precision": "f32"},
            "provider": {"options": {}},
            "timeout_ms": {"options": {"provider": "told", "timeout_ms": 0}},
        },
    ),
    "python": Sample(
        spec=lambda _: ModelSpec("shout", options={"kind": shout}),
        items=lambda: [(("one",), {}), (("two",), {"mark": "?"}), (("three",), {})],
        unlike=lambda: None,
        poison=lambda: (("poison",), {}),
        bad={"kind": {"options": {"kind": len}}},
    ),
    "synthetic": Sample(
        spec=lambda _: ModelSpec("synthetic", options={"seed": 3}),
        items=lambda: ["a", "b", "c"],
        unlike=lambda: None,
        poison=None,
        bad={
            "answer": {"options": {"answer": "wise"}},
            "negative": {"options": {"ms_per_item": -1}},
        },
    ),
}
HEAVY = {"whisper"}
ALL = [pytest.param(name, marks=pytest.mark.models if name in HEAVY else ()) for name in SAMPLES]
BAD = [
    pytest.param(name, change, marks=pytest.mark.models if name in HEAVY else (), id=f"{name}-{key}")
    for name, sample in SAMPLES.items()
    for key, change in sample.bad.items()
]


@pytest.fixture(scope="module", autouse=True)
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server of a tiny model, and the file that names it."""
    path = tmp_path_factory.mktemp("providers") / "providers.toml"
    with tensors() as url, pytest.MonkeyPatch.context() as patch:
        path.write_text(providers_toml({"told": url}))
        patch.setenv("TAUTEN_PROVIDERS", str(path))
        yield


@pytest.fixture(scope="module", params=ALL)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, told: None
) -> Iterator[tuple[Sample, BatchBackend]]:
    name = request.param
    backend = find("backends", name)(SAMPLES[name].spec(tmp_path_factory.mktemp(name)))
    backend.open()
    yield SAMPLES[name], backend
    backend.close()
    backend.close()  # twice must be harmless
    with pytest.raises(BackendError, match="not open"):
        backend.run(SAMPLES[name].items())


def agree(sample: Sample, left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(map(sample.same, left, right))


def test_every_batch_backend_has_a_sample() -> None:
    shelf = [name for name in names("backends") if hasattr(find("backends", name), "run")]
    assert sorted(shelf) == sorted(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_class_says_its_name_and_its_options(name: str) -> None:
    kind = find("backends", name)
    assert kind.name == name
    assert isinstance(kind.option_keys, frozenset)


def test_open_twice_is_once(opened: tuple[Sample, BatchBackend]) -> None:
    sample, backend = opened
    backend.open()
    assert len(backend.run(sample.items())) == len(sample.items())


def test_order_is_kept(opened: tuple[Sample, BatchBackend]) -> None:
    sample, backend = opened
    items = sample.items()
    forth, back = backend.run(items), backend.run(items[::-1])
    assert agree(sample, forth, back[::-1])
    assert not sample.same(forth[0], forth[1])  # the items tell their results apart


def test_a_batch_gives_what_single_items_give(opened: tuple[Sample, BatchBackend]) -> None:
    sample, backend = opened
    items = sample.items()
    assert agree(sample, backend.run(items), [backend.run([item])[0] for item in items])


PREPARES = [name for name in SAMPLES if hasattr(find("backends", name), "prepare")]


@pytest.mark.parametrize("name", PREPARES)
def test_preparing_and_running_is_running(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    backend: Any = find("backends", name)(sample.spec(tmp_path))
    backend.open()
    items = [*sample.items(), sample.unlike(), *sample.items()[:1]]
    if sample.poison is not None:
        items.append(sample.poison())
    first, second = backend.prepare(items), backend.prepare(items[::-1])  # one may wait while another runs
    forth, back = backend.run_prepared(first), backend.run_prepared(second)[::-1]
    alone = [backend.run([item])[0] for item in items]
    backend.close()
    for one, other, known in zip(forth, back, alone, strict=True):
        if isinstance(known, Exception):
            assert str(one) == str(other) == str(known)
        else:
            assert sample.same(one, known)
            assert sample.same(other, known)
    with pytest.raises(BackendError, match="not open"):
        backend.run_prepared(first)


def test_the_engines_of_tensors_prepare_and_may_run_on_the_loop() -> None:
    assert set(PREPARES) == {name for name in SAMPLES if getattr(find("backends", name), "inline", False)}
    assert set(PREPARES) == {"onnx", "openvino"}


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_lone_item_is_not_copied_and_answers_share_their_batch(name: str, tmp_path: Path) -> None:
    backend: Any = find("backends", name)(tiny_model(tmp_path))
    backend.open()
    items = vectors()
    [alone] = backend.prepare(items[:1])
    assert np.shares_memory(alone.inputs["x"], items[0]["x"])
    [together] = backend.prepare(items)
    assert together.inputs["x"].flags.c_contiguous
    assert together.inputs["x"].flags.aligned
    first, second, *_ = backend.run_prepared([together])
    assert first["y"].base is not None
    assert first["y"].base is second["y"].base
    kept = {key: array.copy() for key, array in first.items()}
    backend.run(items[::-1])  # an answer stays what it was, whatever the engine does next
    assert arrays_agree(first, kept)
    backend.close()


@pytest.mark.parametrize(("options", "expected"), [({}, "0"), ({"spin": True}, "1"), ({"spin": False}, "0")])
def test_idle_threads_of_onnx_sleep_unless_told(
    options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    backend: Any = find("backends", "onnx")(msgspec.structs.replace(tiny_model(tmp_path), options=options))
    backend.open()
    settings = backend._session.get_session_options()
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == expected
    backend.close()


def test_no_items_no_results(opened: tuple[Sample, BatchBackend]) -> None:
    assert opened[1].run([]) == []


def test_group_keys_are_hashable_and_tell_unlike_items_apart(opened: tuple[Sample, BatchBackend]) -> None:
    sample, backend = opened
    first, second = sample.items()[0], sample.items()[0]
    assert hash(backend.group(first)) == hash(backend.group(second))
    assert backend.group(first) == backend.group(second)
    if sample.unlike() is not None:
        assert backend.group(first) != backend.group(sample.unlike())


def test_weight_is_positive_and_grows(opened: tuple[Sample, BatchBackend]) -> None:
    sample, backend = opened
    assert all(backend.weight(item) > 0 for item in sample.items())
    if sample.heavier is not None:
        light, heavy = sample.heavier()
        assert backend.weight(light) < backend.weight(heavy)


def test_properties_say_what_is_in_force(opened: tuple[Sample, BatchBackend]) -> None:
    facts = opened[1].properties()
    assert all(facts[key] for key in ("precision", "threads", "device"))
    assert all(isinstance(value, str) for value in facts.values())


def test_a_member_fails_alone(opened: tuple[Sample, BatchBackend]) -> None:
    sample, backend = opened
    if sample.poison is None:
        pytest.skip("no input of this backend can fail by itself; its failures are told by an option")
    items = sample.items()
    mixed = backend.run([items[0], sample.poison(), items[1]])
    assert isinstance(mixed[1], Exception)
    assert agree(sample, [mixed[0], mixed[2]], backend.run(items[:2]))


@pytest.mark.parametrize(("name", "change"), BAD)
def test_an_option_it_cannot_honour_is_a_plan_error(
    name: str, change: dict[str, Any], tmp_path: Path
) -> None:
    spec = msgspec.structs.replace(SAMPLES[name].spec(tmp_path), **change)
    with pytest.raises(PlanError):
        find("backends", name)(spec).open()


@pytest.mark.parametrize("name", ["onnx", "openvino", "whisper"])
def test_a_missing_or_foreign_file_is_a_store_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no file"):
        find("backends", name)(ModelSpec("absent")).open()
    if name == "whisper":
        return
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(StoreError, match="cannot load") as caught:
        find("backends", name)(ModelSpec("odd", files={"model.onnx": tmp_path / "model.onnx"})).open()
    assert caught.value.code == "E325"
    assert "export it again" in caught.value.help
    assert "tauten model" not in caught.value.help  # `odd` is in no catalog


@pytest.mark.parametrize("name", ALL)
def test_one_that_dies_is_followed_by_one_that_answers_as_it_did(name: str, tmp_path: Path) -> None:
    sample, made = SAMPLES[name], []

    def dies(items: Any) -> Any:
        error = BackendError("the engine is gone", help="it is opened anew")
        error.dead = True
        raise error

    def make() -> Any:
        made.append(find("backends", name)(sample.spec(tmp_path)))
        return made[-1]

    async def main() -> list[Any]:
        clock = asyncio.get_running_loop().time
        deployment = Deployment(make, label=name, clock=clock)
        await deployment.open()
        item = sample.items()[0]
        before = await deployment.infer(Request(clock), "s", item)
        made[0].run = dies
        after = await deployment.infer(Request(clock), "s", item)
        await deployment.close()
        assert (deployment.view().restarts, deployment.view().retried) == (1, 1)
        return [before, after]

    assert agree(sample, *([each] for each in asyncio.run(main())))
    with pytest.raises(BackendError, match="not open"):
        type(made[0]).run(made[0], sample.items())  # it was closed


def test_who_can_say_that_it_lives_does_so_whatever_members_fail(opened: tuple[Sample, BatchBackend]) -> None:
    sample, backend = opened
    answers = backend.run([sample.items()[0], *([sample.poison()] if sample.poison is not None else [])])
    assert not any(getattr(each, "dead", False) for each in answers)
    alive = getattr(backend, "alive", None)
    assert alive is None or alive()


# --- certain sizes -------------------------------------------------------------------------------------

SIZED = {
    "onnx, a file of 4": ("onnx", 4, {}, (4,)),
    "openvino, a file of 4": ("openvino", 4, {}, (4,)),
    "openvino, compiled for some": ("openvino", "n", {"sizes": [4, 1, 2]}, (1, 2, 4)),
}


@pytest.fixture(params=SIZED)
def sized(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A backend that runs only certain sizes; those who have others on the shelf belong in SIZED, too."""
    name, batch, options, sizes = SIZED[request.param]
    spec = msgspec.structs.replace(tiny_model(tmp_path, batch), options=options, precision="f32")
    backend = find("backends", name)(spec)
    backend.open()
    assert backend.sizes == sizes
    yield backend
    backend.close()


def test_whatever_has_sizes_is_among_those_that_are_looked_at(opened: tuple[Sample, BatchBackend]) -> None:
    sizes = getattr(opened[1], "sizes", ())
    assert not sizes, "the sample runs any number: give SIZED one that does not"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_a_batch_that_is_filled_up_gives_what_single_items_give(sized: Any, count: int) -> None:
    items = list(itertools.islice(itertools.cycle(vectors()), count))
    items = [{"x": item["x"] + index} for index, item in enumerate(items)]
    answers = sized.run(items)
    assert len(answers) == count
    assert all(map(arrays_agree, answers, [sized.run([item])[0] for item in items]))
    assert all(answer["y"].shape == (3,) for answer in answers)


def test_what_runs_is_a_size_and_items_weigh_their_places_in_it(sized: Any) -> None:
    for count in range(1, 10):
        ran = [len(part.inputs["x"]) for part in sized.prepare((vectors() * 2)[:count])]
        assert set(ran) <= set(sized.sizes)
        assert sum(ran) - count < max(sized.sizes)
        assert ran[-1] == min(size for size in sized.sizes if size >= (count - 1) % 4 + 1)
    assert [sized.weight(item) for item in vectors()] == [1] * 5
    assert sized.properties()["batch"] in ("fixed at 4", "filled up to 1, 2, 4")


def test_a_member_that_fails_takes_no_filling_along(sized: Any) -> None:
    first, last = vectors()[:2]
    answers = sized.run([first, {"wrong": np.zeros(4, np.float32)}, {"x": np.zeros(5, np.float32)}, last])
    assert [isinstance(answer, BackendError) for answer in answers] == [False, True, True, False]
    assert arrays_agree(answers[3], sized.run([last])[0])


def test_openvino_is_not_compiled_for_sizes_that_the_file_has_not(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(tiny_model(tmp_path, 4), options={"sizes": [1, 4]})
    with pytest.raises(PlanError, match="no free first axis") as caught:
        find("backends", "openvino")(spec).open()
    assert caught.value.code == "E122"


# --- onnx and openvino ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_unbatched_items_pass_as_they_are(name: str, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(tiny_model(tmp_path), options={"unbatched": True})
    backend = find("backends", name)(spec)
    backend.open()
    rows = np.stack([item["x"] for item in vectors()])
    answer = backend.run([{"x": rows}, {"x": rows[:2]}])
    assert [each["y"].shape for each in answer] == [(5, 3), (2, 3)]
    assert backend.properties()["batch"] == "no batch axis"
    backend.close()


def test_onnx_and_openvino_agree_at_full_precision(tmp_path: Path) -> None:
    results = []
    for name in ("onnx", "openvino"):
        backend = find("backends", name)(msgspec.structs.replace(tiny_model(tmp_path), precision="f32"))
        backend.open()
        results.append(backend.run(vectors()))
        backend.close()
    assert all(map(arrays_agree, *results))


def test_openvino_tells_the_precision_and_threads_it_took(tmp_path: Path) -> None:
    for precision in ("f32", "bf16"):
        backend = find("backends", "openvino")(
            msgspec.structs.replace(tiny_model(tmp_path), precision=precision)
        )
        backend.open()
        facts = backend.properties()
        assert facts["precision"] in ("f32", "bf16")  # a processor without bf16 says f32
        assert facts["precision"] == "f32" or precision == "bf16"
        assert facts["threads"] == "1"
        backend.close()


def test_openvino_keeps_compiled_models_where_told(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    spec = msgspec.structs.replace(tiny_model(tmp_path), options={"cache_dir": str(cache)})
    backend = find("backends", "openvino")(spec)
    backend.open()
    backend.close()
    assert list(cache.iterdir())


@pytest.mark.models
def test_a_real_embedding_model_agrees_on_both_engines() -> None:
    from tokenizers import Tokenizer

    files = Store().files("minilm-l6-v2")
    tokenizer = Tokenizer.from_file(str(files["tokenizer.json"]))
    tokenizer.no_padding()
    ids = np.array(tokenizer.encode("How do I open a file?").ids, np.int64)
    item = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    found = []
    for name in ("onnx", "openvino"):
        backend = find("backends", name)(ModelSpec("minilm", files=files, threads=2, precision="f32"))
        backend.open()
        one, two = backend.run([item, item])
        assert np.allclose(one["embedding"], two["embedding"], atol=1e-5)
        found.append(one["embedding"])
        backend.close()
    assert np.dot(*found) == pytest.approx(1.0, abs=1e-3)


# --- python --------------------------------------------------------------------------------------------


class Counter:
    """Counts how often it is constructed; its instance remembers its calls."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.calls = 0

    def __call__(self, step: int) -> int:
        self.calls += step
        return self.calls


def python_backend(kind: Any) -> Any:
    backend = find("backends", "python")(ModelSpec("python", options={"kind": kind}))
    backend.open()
    return backend


def test_python_constructs_a_class_once_a_replica() -> None:
    Counter.made = 0
    backend = python_backend(stage(Counter))
    assert backend.run([((1,), {}), ((2,), {})]) == [1, 3]
    backend.open()
    assert Counter.made == 1
    backend.close()


def test_python_calls_a_batched_stage_once_with_lists() -> None:
    calls: list[list[int]] = []

    @stage(max_batch=4)
    def add(left: list[int], right: list[int], *, plus: int = 0) -> list[int]:
        calls.append(left)
        return [a + b + plus for a, b in zip(left, right, strict=True)]

    backend = python_backend(add)
    items = [((1, 2), {}), ((3, 4), {"plus": 10}), ((5, 6), {}), ((7,), {"right": 8})]
    assert backend.run(items) == [3, 17, 11, 15]
    assert [1, 5] in calls
    assert backend.group(items[0]) == backend.group(items[2]) != backend.group(items[1])


@pytest.mark.parametrize("answer", [[1], 7, None])
def test_python_refuses_a_batched_answer_of_another_length(answer: Any) -> None:
    @stage(max_batch=4)
    def wrong(values: list[int]) -> list[int]:
        return answer  # type: ignore[no-any-return]

    with pytest.raises(StageError, match="given 2 items"):
        python_backend(wrong).run([((1,), {}), ((2,), {})])


def test_python_says_where_the_users_code_raised() -> None:
    error = python_backend(shout).run([(("poison",), {})])[0]
    assert isinstance(error, StageError)
    assert "ValueError: not this one" in error.message
    assert error.where.startswith("test_batch_backends.py:")
    assert isinstance(error.__cause__, ValueError)


def test_python_passes_our_own_errors_through() -> None:
    @stage
    def picky(value: int) -> int:
        raise InputError("too small")

    assert isinstance(python_backend(picky).run([((1,), {})])[0], InputError)


# --- synthetic -----------------------------------------------------------------------------------------


def synthetic(**options: Any) -> Any:
    backend = find("backends", "synthetic")(ModelSpec("synthetic", options=options))
    backend.open()
    return backend


def test_synthetic_time_is_that_of_the_batch_and_its_items() -> None:
    assert synthetic(ms_per_batch=10, ms_per_item=2).duration(["a", "b"]) == pytest.approx(0.014)


def test_synthetic_spread_has_the_mean_it_was_told_and_the_same_seed_the_same_times() -> None:
    options = {"ms_per_item": 10, "sigma": 0.5, "seed": 11}
    times = [synthetic(**options).duration("a") for _ in range(2)]
    assert times[0] == times[1]
    backend = synthetic(**options)
    drawn = [backend.duration("a") for _ in range(4000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.010, rel=0.05)
    assert all(math.isfinite(each) and each > 0 for each in drawn)


def test_synthetic_answers_and_fails_as_told() -> None:
    from tauten.run.backends.synthetic import input_hash

    assert synthetic(answer="constant", value=5).answer(["a", "b"]) == [5, 5]
    table = {input_hash("a"): "known"}
    assert synthetic(answer="table", table=table, value="else").answer(["a", "b"]) == ["known", "else"]
    failed = [isinstance(each, BackendError) for each in synthetic(fail_every=3).run(list("abcdef"))]
    assert failed == [False, False, True, False, False, True]


# --- whisper -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whisper() -> Iterator[Any]:
    backend = find("backends", "whisper")(whisper_spec(Path()))
    backend.open()
    yield backend
    backend.close()


@pytest.mark.models
@pytest.mark.parametrize("window", ["clip", "full"])
def test_whisper_hears_the_sentence(whisper: Any, window: str) -> None:
    answer = whisper.run([{"samples": fox(), "window": window}])[0]
    assert answer["text"].lower().startswith("the quick brown fox")
    assert answer["windows"] == 1
    assert not answer["fallback"]
    assert answer["tokens"] >= 9


@pytest.mark.models
@pytest.mark.parametrize(
    "samples",
    [np.zeros(0), np.zeros(48_000), np.full(100, 0.5), 1e-4 * np.sin(np.arange(32_000)), np.full(9, np.nan)],
    ids=["empty", "silent", "very short", "very quiet", "not numbers"],
)
def test_whisper_gives_no_text_for_no_speech_and_runs_no_model(whisper: Any, samples: Any) -> None:
    nothing = {"text": "", "tokens": 0, "windows": 0, "fallback": False, "no_speech": None}
    assert whisper.run([{"samples": samples.astype(np.float32)}]) == [nothing]


@pytest.mark.models
def test_whisper_cuts_long_sound_where_it_is_quiet(whisper: Any) -> None:
    pause = np.zeros(16_000 * 10, np.float32)
    answer = whisper.run([{"samples": np.concatenate([fox(), pause, fox(), pause, fox()])}])[0]
    assert answer["windows"] >= 2
    assert answer["text"].lower().count("lazy dog") == 3  # a sentence that is said again is kept


@pytest.mark.models
def test_whisper_stops_where_the_caller_says(whisper: Any) -> None:
    answer = whisper.run([{"samples": fox(), "max_tokens": 3}])[0]
    assert answer["tokens"] == 3
    assert not answer["fallback"]


@pytest.mark.models
def test_whisper_takes_hot_words_and_refuses_an_unknown_window(whisper: Any) -> None:
    good, bad = whisper.run(
        [{"samples": fox(), "hot_words": ("KeyError", "fox")}, {"samples": fox(), "window": "wide"}]
    )
    assert "fox" in good["text"].lower()
    assert isinstance(bad, InputError)


@pytest.mark.models
def test_whisper_does_a_suspicious_clip_again_in_the_whole_window(
    whisper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tauten.run.backends import whisper as module

    monkeypatch.setattr(module, "_TOKENS_PER_S", 0.0)
    monkeypatch.setattr(module, "_TOKENS_SPARE", 4)  # the sentence has more, so the guard must act
    answer = whisper.run([{"samples": fox()}])[0]
    assert answer["fallback"]
    assert answer["windows"] == 2


@pytest.mark.parametrize("name", SAMPLES)
def test_who_can_be_stopped_is_told_where_a_run_begins(name: str) -> None:
    kind = find("backends", name)
    assert hasattr(kind, "stop") == hasattr(kind, "begin") == (name in ("onnx", "oip_remote", "whisper"))


@pytest.mark.parametrize("early", [False, True])
def test_onnx_run_that_is_stopped_ends_between_two_operators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    """Its members get an exception, and the next run knows nothing of it."""
    from onnx import TensorProto, helper, save

    names = [f"v{index}" for index in range(2000)]
    nodes = [helper.make_node("Sin", [before], [after]) for before, after in itertools.pairwise(names)]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4096]) for name in (names[0], names[-1])
    ]
    graph = helper.make_graph(nodes, "long", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(tmp_path / "long.onnx"))
    backend = find("backends", "onnx")(
        ModelSpec("long", files={"model.onnx": tmp_path / "long.onnx"}, threads=1)
    )
    backend.open()
    item = {"v0": np.ones(4096, np.float32)}
    answers: list[Any] = []
    inside, execute = threading.Event(), backend._execute
    monkeypatch.setattr(backend, "_execute", lambda inputs: (inside.set(), execute(inputs))[1])
    running = threading.Thread(target=lambda: answers.extend(backend.run([item] * 64)))
    backend.begin()
    if early:
        backend.stop()
    running.start()
    assert inside.wait(20)
    backend.stop()
    running.join()
    assert len(answers) == 64
    assert all(isinstance(answer, BackendError) and "terminate" in str(answer) for answer in answers)
    backend.begin()
    assert backend.run([item])[0].keys() == {names[-1]}
    backend.close()


def test_whisper_run_that_is_stopped_before_it_starts_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    backend = find("backends", "whisper")(ModelSpec("whisper"))
    model = SimpleNamespace(is_multilingual=False, n_mels=80, encode=heard.append)
    monkeypatch.setattr(backend, "_model", model)
    monkeypatch.setattr(backend, "_tokenizer", SimpleNamespace(token_to_id=len))
    item = {"samples": np.ones(16_000, np.float32)}
    backend.begin()
    backend.stop()
    with pytest.raises(BackendError, match="stopped"):
        backend.run([item])
    assert heard == []


@pytest.mark.models
def test_whisper_run_that_is_stopped_never_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = find("backends", "whisper")(whisper_spec(Path()))
    backend.open()
    log_mel = _mel.log_mel

    def heard(*args: Any) -> Any:
        backend.stop()
        return log_mel(*args)

    with monkeypatch.context() as patched:
        patched.setattr(_mel, "log_mel", heard)
        backend.begin()
        with pytest.raises(BackendError, match="stopped"):
            backend.run([{"samples": fox()}])
    backend.begin()
    assert "fox" in backend.run([{"samples": fox()}])[0]["text"].lower()
    backend.close()
