"""What every slot backend owes: one suite, run over each on the shelf, with a sample of its work."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from remote.kit_provider import StandIn, providers_toml, says
from tauten.clock import run_virtual
from tauten.errors import BackendError, InputError, PlanError, StoreError
from tauten.models import Store
from tauten.run.contracts import Chunk, ModelSpec, find, names

LIMIT_S = 120  # a hang is a failure; no test comes near it


@dataclass(frozen=True)
class Sample:
    """How to open a backend, and what to ask it."""

    spec: Callable[[], ModelSpec]
    bad: dict[str, Any] = field(default_factory=dict)


def llm_spec() -> ModelSpec:
    name = "smollm2-135m-instruct"
    options = {"prefix_cache": True}
    return ModelSpec(name, files=Store().files(name), threads=2, precision="f32", options=options)


SAMPLES = {
    "llm": Sample(
        spec=lambda: ModelSpec("smollm2"),
        bad={
            "precision": {"precision": "int3"},
            "kv_precision": {"options": {"kv_precision": "u7"}},
            "slots": {"options": {"slots": 0}},
            "cache_size_gb": {"options": {"cache_size_gb": 0}},
        },
    ),
    "remote": Sample(
        spec=lambda: ModelSpec("words", options={"provider": "told"}),
        bad={
            "provider": {"options": {}},
            "slots": {"options": {"provider": "told", "slots": 0}},
            "mirror_share": {"options": {"provider": "told", "mirror_share": 2}},
            "precision": {"precision": "f32"},
        },
    ),
    "synthetic_slots": Sample(
        spec=lambda: ModelSpec("synthetic", options={"prefill_ms": 2, "ms_per_token": 1, "tokens": 20}),
        bad={"answer": {"options": {"answer": "wise"}}, "slots": {"options": {"slots": 0}}},
    ),
}
HEAVY = {"llm"}
ALL = [pytest.param(name, marks=pytest.mark.models if name in HEAVY else ()) for name in SAMPLES]
BAD = [
    pytest.param(name, change, id=f"{name}-{key}")
    for name, sample in SAMPLES.items()
    for key, change in sample.bad.items()
]


@pytest.fixture(scope="module", autouse=True)
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A provider in a thread, and the file that names it."""
    path = tmp_path_factory.mktemp("providers") / "providers.toml"
    stand = StandIn(says(*(f"{index} " for index in range(1000)), gap_s=0.001))
    loop, over = asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with stand:
            path.write_text(providers_toml({"told": stand.url}))
            ready.set()
            await over.wait()

    ready = threading.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(LIMIT_S)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAUTEN_PROVIDERS", str(path))
        yield
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


class Bench:
    """An opened backend and the loop it lives on; models take seconds to load, so a module shares one."""

    def __init__(self, name: str) -> None:
        self.runner = asyncio.Runner()
        self.backend = find("backends", name)(llm_spec() if name == "llm" else SAMPLES[name].spec())
        self.run(self.backend.open())

    def run(self, work: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            return await asyncio.wait_for(work, LIMIT_S)

        return self.runner.run(bounded())

    def close(self) -> None:
        self.run(self.backend.close())
        self.runner.close()

    async def collect(self, item: Mapping[str, Any]) -> list[Chunk]:
        return [chunk async for chunk in self.backend.start(item)]

    async def idle(self) -> None:
        while self.backend.active:
            await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def benches(told: None) -> Iterator[dict[str, Bench]]:
    """Opened when first asked for; at the end each is closed twice and refuses work."""
    found: dict[str, Bench] = {}
    yield found
    for bench in found.values():
        bench.run(bench.backend.close())
        bench.run(bench.backend.close())
        with pytest.raises(BackendError, match="open"):
            bench.run(bench.collect(ask("hello")))
        bench.close()


@pytest.fixture(params=ALL)
def bench(request: pytest.FixtureRequest, benches: dict[str, Bench]) -> Bench:
    return benches.get(request.param) or benches.setdefault(request.param, Bench(request.param))


@pytest.fixture
def llm(benches: dict[str, Bench]) -> Bench:
    return benches.get("llm") or benches.setdefault("llm", Bench("llm"))


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 12, **more}


def said(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_every_slot_backend_has_a_sample() -> None:
    shelf = [name for name in names("backends") if hasattr(find("backends", name), "start")]
    assert sorted(shelf) == sorted(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_class_says_its_name_and_its_options(name: str) -> None:
    kind = find("backends", name)
    assert kind.name == name
    assert isinstance(kind.option_keys, frozenset)
    assert kind(SAMPLES[name].spec()).slots >= 1


@pytest.mark.parametrize(("name", "change"), BAD)
def test_an_option_it_cannot_honour_is_a_plan_error(name: str, change: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        find("backends", name)(msgspec.structs.replace(SAMPLES[name].spec(), **change))


def test_a_stream_has_its_shape(bench: Bench) -> None:
    """An empty chunk when the prompt is done, then text, then one final chunk with the counts."""
    chunks = bench.run(bench.collect(ask("Tell me a story.")))
    assert chunks[0].text == ""
    assert chunks[0].tokens == 0
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].finish in ("stop", "length")
    assert said(chunks)
    times = [chunk.at for chunk in chunks]
    assert times == sorted(times)


def test_usage_is_the_real_count(bench: Bench) -> None:
    chunks = bench.run(bench.collect(ask("Tell me a story.", max_tokens=7)))
    usage = chunks[-1].usage
    assert chunks[-1].finish == "length"
    assert usage["output_tokens"] == sum(chunk.tokens for chunk in chunks) == 7
    assert usage["input_tokens"] >= 4
    assert 0 <= usage["cached_tokens"] < usage["input_tokens"]


def test_streams_run_side_by_side(bench: Bench) -> None:
    """Their chunks interleave, and each says what it says alone."""
    order: list[int] = []

    async def one(index: int, text: str) -> str:
        found = []
        async for chunk in bench.backend.start(ask(text)):
            order.append(index)
            found.append(chunk)
        return said(found)

    async def many() -> list[str]:
        return await asyncio.gather(*(one(index, text) for index, text in enumerate(texts)))

    texts = ["Tell me a story.", "Name three animals.", "What is rain?"]
    together = bench.run(many())
    changes = sum(before != after for before, after in itertools.pairwise(order))
    assert changes > len(texts)
    assert together == [said(bench.run(bench.collect(ask(text)))) for text in texts]


def test_the_loop_goes_on_while_it_works(bench: Bench) -> None:
    """Between the chunks of a stream the event loop gets its turns."""

    async def watched() -> int:
        turns = 0

        async def tick() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await bench.collect(ask("Tell me a story."))
        ticking.cancel()
        return turns

    assert bench.run(watched()) > 12  # more turns than tokens: nothing held the loop for the whole stream


def test_closing_the_iterator_frees_the_slot(bench: Bench) -> None:
    async def leave() -> int:
        stream = bench.backend.start(ask("Write a long story.", max_tokens=500))
        count = 0
        async for _ in stream:
            count += 1
            if count == 4:
                break
        await stream.aclose()
        await bench.idle()
        return count

    assert bench.run(leave()) == 4
    assert bench.backend.active == 0


def test_what_the_engine_has_yet_to_drop_is_known(bench: Bench) -> None:
    async def leave() -> list[int]:
        counts = [len(bench.backend.lingering())]
        stream = bench.backend.start(ask("Write a long story.", max_tokens=500))
        await anext(stream)
        await stream.aclose()
        counts.append(len(bench.backend.lingering()))
        assert len(bench.backend.lingering()) == bench.backend.active
        assert all(since <= asyncio.get_running_loop().time() for since in bench.backend.lingering())
        await bench.idle()
        return [*counts, len(bench.backend.lingering())]

    before, at_once, after = bench.run(leave())
    assert (before, after) == (0, 0)
    assert at_once in (0, 1)


def test_cancelling_the_task_frees_the_slot_and_spares_the_others(bench: Bench) -> None:
    async def scene() -> str:
        endless = asyncio.create_task(bench.collect(ask("Write a long story.", max_tokens=500)))
        other = asyncio.create_task(bench.collect(ask("What is rain?")))
        while bench.backend.active < 2:
            await asyncio.sleep(0.001)
        endless.cancel()
        answer = said(await other)
        await asyncio.wait([endless])
        assert endless.cancelled()
        await bench.idle()
        return answer

    assert bench.run(scene()) == said(bench.run(bench.collect(ask("What is rain?"))))


def test_properties_say_what_is_in_force(bench: Bench) -> None:
    facts = bench.backend.properties()
    assert all(facts[key] for key in ("precision", "threads", "device", "slots"))
    assert all(isinstance(value, str) for value in facts.values())


def test_open_twice_is_once(bench: Bench) -> None:
    before = getattr(bench.backend, "worker_pid", None)
    bench.run(bench.backend.open())
    assert getattr(bench.backend, "worker_pid", None) == before


# --- synthetic_slots -----------------------------------------------------------------------------------


def synthetic(**options: Any) -> Any:
    return find("backends", "synthetic_slots")(ModelSpec("synthetic", options=options))


def test_synthetic_streams_keep_to_the_virtual_clock() -> None:
    async def scene() -> list[Chunk]:
        backend = synthetic(prefill_ms=100, ms_per_token=10, answer="constant", value="one two three")
        await backend.open()
        return [chunk async for chunk in backend.start({"prompt": "x y"})]

    chunks = run_virtual(scene())
    assert [round(chunk.at, 9) for chunk in chunks] == [0.1, 0.11, 0.12, 0.13, 0.13]
    assert said(chunks) == "one two three"
    assert chunks[-1].usage == {"input_tokens": 2, "cached_tokens": 0, "output_tokens": 3}


def test_synthetic_streams_slow_each_other_as_told() -> None:
    async def scene() -> float:
        backend = synthetic(ms_per_token=10, slowdown=0.5, tokens=10, answer="constant", value="word")
        await backend.open()

        async def one() -> None:
            async for _ in backend.start({"prompt": "x"}):
                pass

        await asyncio.gather(one(), one())
        return asyncio.get_running_loop().time()

    assert run_virtual(scene()) == pytest.approx(0.150)


def test_synthetic_streams_fail_as_told() -> None:
    async def scene() -> list[bool]:
        backend = synthetic(fail_every=2)
        await backend.open()
        failed = []
        for _ in range(4):
            try:
                async for _ in backend.start({"prompt": "x"}):
                    pass
                failed.append(False)
            except BackendError:
                failed.append(True)
        return failed

    assert run_virtual(scene()) == [False, True, False, True]


# --- llm -----------------------------------------------------------------------------------------------


def test_llm_without_its_file_is_a_store_error() -> None:
    with pytest.raises(StoreError, match=r"model\.gguf"):
        asyncio.run(find("backends", "llm")(ModelSpec("absent")).open())


def test_llm_that_cannot_be_loaded_is_an_error_and_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_STORE", str(tmp_path))
    (tmp_path / "bad.gguf").write_bytes(b"not a model at all")
    backend = find("backends", "llm")(ModelSpec("bad", files={"model.gguf": tmp_path / "bad.gguf"}))

    async def scene() -> None:
        with pytest.raises(StoreError, match="cannot load 'bad'"):
            await backend.open()
        await backend.close()

    asyncio.run(scene())
    assert backend.worker_pid is None
    assert not list((tmp_path / "converted").iterdir())


@pytest.mark.models
def test_llm_keeps_to_the_json_schema(llm: Bench) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "name": {"type": "string", "maxLength": 8}},
        "required": ["count", "name"],
        "additionalProperties": False,
    }
    chunks = llm.run(llm.collect(ask("Give me some JSON.", json_schema=schema, max_tokens=120)))
    value = json.loads(said(chunks))
    assert value.keys() == {"count", "name"}
    assert isinstance(value["count"], int)
    assert isinstance(value["name"], str)


@pytest.mark.models
@pytest.mark.parametrize(
    ("constraint", "allowed"),
    [({"regex": "(yes|no)"}, {"yes", "no"}), ({"grammar": 'root ::= "perhaps"'}, {"perhaps"})],
)
def test_llm_keeps_to_a_pattern_and_a_grammar(llm: Bench, constraint: Any, allowed: set[str]) -> None:
    assert said(llm.run(llm.collect(ask("Is it good?", **constraint)))) in allowed


@pytest.mark.models
def test_llm_never_shows_a_stop_string_or_a_part_of_it(llm: Bench) -> None:
    free = said(llm.run(llm.collect(ask("Tell me a story.", max_tokens=20))))
    stop = free.split()[3] + " " + free.split()[4]
    chunks = llm.run(llm.collect(ask("Tell me a story.", max_tokens=20, stop=[stop])))
    assert said(chunks) == free[: free.index(stop)]
    assert chunks[-1].finish == "stop"
    assert sum(chunk.tokens for chunk in chunks) == chunks[-1].usage["output_tokens"]


@pytest.mark.models
def test_llm_gives_whole_characters_only(llm: Bench) -> None:
    item = ask("ignored", grammar='root ::= "日本語 😀👩‍👩‍👧 naïve"', max_tokens=60)
    chunks = llm.run(llm.collect(item))
    assert said(chunks) == "日本語 😀👩‍👩‍👧 naïve"
    assert all("\ufffd" not in chunk.text for chunk in chunks)
    cut = said(llm.run(llm.collect({**item, "max_tokens": 2})))  # ends within a character
    assert "\ufffd" not in cut
    assert "日本語".startswith(cut)


@pytest.mark.models
def test_llm_gives_a_log_probability_a_token(llm: Bench) -> None:
    chunks = llm.run(llm.collect(ask("Tell me a story.", logprobs=True)))
    values = [each for chunk in chunks if chunk.value for each in chunk.value["logprobs"]]
    assert len(values) == chunks[-1].usage["output_tokens"]
    assert all(value <= 0 for value in values)


@pytest.mark.models
def test_llm_counts_input_tokens_as_its_tokenizer_does(llm: Bench) -> None:
    chunks = llm.run(llm.collect({"prompt": "hello there", "max_tokens": 1}))
    assert chunks[-1].usage["input_tokens"] == 2


@pytest.mark.models
def test_llm_accounts_for_shared_beginnings(llm: Bench) -> None:
    passage = "The harbour was built by salt traders. " * 12
    first = llm.run(llm.collect(ask(passage + "Who built it?", max_tokens=2)))[-1].usage
    second = llm.run(llm.collect(ask(passage + "What was traded?", max_tokens=2)))[-1].usage
    assert first["cached_tokens"] <= 32  # the template's own beginning at most
    assert second["cached_tokens"] >= 64
    assert second["cached_tokens"] % 32 == 0


@pytest.mark.models
@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({}, "E232"),
        ({"prompt": "x", "messages": [{"role": "user", "content": "y"}]}, "E232"),
        ({"messages": [{"role": "user"}]}, "E232"),
        ({"prompt": "x", "temperature": -1}, "E232"),
        ({"prompt": "x", "max_tokens": 0}, "E232"),
        ({"prompt": "x", "colour": "red"}, "E232"),
        ({"prompt": "x", "regex": "a", "grammar": "root ::= a"}, "E232"),
        ({"prompt": "x", "regex": "(a[b"}, "E234"),
        ({"prompt": "x", "json_schema": {"type": "thing"}}, "E234"),
        ({"prompt": "x", "json_schema": {"properties": {"a": {"items": {"type": "thing"}}}}}, "E234"),
        ({"prompt": "word " * 9000}, "E233"),
    ],
)
def test_llm_refuses_what_it_cannot_do(llm: Bench, item: Any, code: str) -> None:
    pid = llm.backend.worker_pid
    with pytest.raises(InputError) as caught:
        llm.run(llm.collect(item))
    assert caught.value.code == code
    assert llm.backend.worker_pid == pid


def test_llm_item_errors_need_no_worker() -> None:
    from tauten.run.backends._llm_item import read_item

    with pytest.raises(InputError, match="temperature"):
        read_item({"prompt": "x", "top_p": 0})


@pytest.mark.models
def test_llm_grammar_that_does_not_compile_is_refused_and_its_worker_replaced(llm: Bench) -> None:
    """Only the engine's compiler can tell, in a step that it does not survive; so it happens once."""
    bad = ask("x", grammar="root ::= nowhere")

    async def scene() -> list[Any]:
        other = llm.collect(ask("Write a long poem.", max_tokens=300))
        return await asyncio.gather(other, llm.collect(bad), return_exceptions=True)

    ended = llm.backend.worker_pid
    bystander, refused = llm.run(scene())
    assert isinstance(bystander, BackendError) or said(bystander)  # asked again, unless it had begun
    assert isinstance(refused, InputError)
    assert refused.code == "E234"
    assert said(llm.run(llm.collect(ask("Tell me a story."))))
    restarted = llm.backend.worker_pid
    assert restarted != ended
    with pytest.raises(InputError, match="nowhere"):
        llm.run(llm.collect(bad))
    assert llm.backend.worker_pid == restarted  # the second time it costs nothing


@pytest.mark.models
def test_llm_worker_that_is_killed_fails_all_its_streams(llm: Bench) -> None:
    backend = llm.backend

    async def killing() -> None:
        count = 0
        async for _ in backend.start(ask("Write a long story.", max_tokens=300)):
            count += 1
            if count == 3:
                os.kill(backend.worker_pid, signal.SIGKILL)

    async def scene() -> list[Any]:
        other = llm.collect(ask("Write a long poem.", max_tokens=300))
        return await asyncio.gather(killing(), other, return_exceptions=True)

    for error in llm.run(scene()):
        assert isinstance(error, BackendError)
        assert error.code == "E405"
    assert backend.active == 0


@pytest.mark.models
def test_llm_worker_that_is_killed_before_the_first_word_is_replaced_and_asked_again(llm: Bench) -> None:
    async def scene() -> list[Any]:
        answer = asyncio.create_task(llm.collect(ask("Tell me a story.")))
        await asyncio.sleep(0)  # it is on its way, and a prompt takes milliseconds to read
        os.kill(llm.backend.worker_pid, signal.SIGKILL)
        return await answer

    llm.run(llm.collect(ask("Hello.", max_tokens=1)))
    ended = llm.backend.worker_pid
    assert said(llm.run(scene()))
    assert llm.backend.worker_pid != ended


PARENT = """
import asyncio, sys
from pathlib import Path
from tauten.run.contracts import ModelSpec, find

async def main():
    backend = find("backends", "llm")(ModelSpec("m", files={"model.gguf": Path(sys.argv[1])}))
    opening = asyncio.create_task(backend.open())
    while backend.worker_pid is None:
        await asyncio.sleep(0.01)
    print(backend.worker_pid, flush=True)
    await opening

asyncio.run(main())
"""


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has collected yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.models
def test_llm_worker_does_not_outlive_a_killed_parent() -> None:
    gguf = Store().files("smollm2-135m-instruct")["model.gguf"]
    with subprocess.Popen([sys.executable, "-c", PARENT, str(gguf)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + LIMIT_S
    while not gone(worker) and time.monotonic() < until:
        time.sleep(0.01)
    assert gone(worker)
