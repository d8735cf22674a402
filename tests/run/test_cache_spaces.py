"""What names the work of a step: two stages that could answer otherwise are never named alike."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from tauten.describe.stage import StageKind, stage
from tauten.errors import PlanError
from tauten.plan.plan import CachePlan, ModelChoice, Plan, StagePlan
from tauten.run.caching.spaces import space_of
from tauten.run.engine import Engine

Kind = StageKind[..., Any]


def named(kind: Kind, **models: ModelChoice) -> bytes:
    return space_of("step", kind, {}, models, {})


# -- code, and what it holds -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Translator:
    language: str

    async def translate(self, words: tt.Text) -> str:
        return f"{self.language} {words.text}"


class Indexed:
    """An object that says by a text what it is."""

    def __init__(self, revision: str) -> None:
        self.revision = revision

    async def translate(self, words: tt.Text) -> str:
        return f"{self.revision} {words.text}"


class Stranger:
    def __init__(self, language: str) -> None:
        self.language = language

    async def translate(self, words: tt.Text) -> str:
        return f"{self.language} {words.text}"


async def into(language: str, words: tt.Text) -> str:
    return f"{language} {words.text}"


async def onto(language: str, words: tt.Text) -> str:
    return f"{words.text} {language}"


def closure(language: str) -> Kind:
    async def translate(words: tt.Text) -> str:
        return f"{language} {words.text}"

    return stage(pure=True)(translate)


def method(language: str) -> Kind:
    return stage(pure=True)(Translator(language).translate)


def of_an_index(language: str) -> Kind:
    return stage(pure=True)(Indexed(language).translate)


def partial(language: str) -> Kind:
    return stage(pure=True)(functools.partial(into, language))


def by_keyword(language: str) -> Kind:
    async def translate(words: tt.Text, to: str = "en") -> str:
        return f"{to} {words.text}"

    return stage(pure=True)(functools.partial(translate, to=language))


def default(language: str) -> Kind:
    async def translate(words: tt.Text, to: str = language) -> str:
        return f"{to} {words.text}"

    return stage(pure=True)(translate)


def decorated(language: str) -> Kind:
    def around(body: Callable[[tt.Text], Any]) -> Callable[[tt.Text], Any]:
        @functools.wraps(body)
        async def inner(words: tt.Text) -> str:
            return f"{language} {await body(words)}"

        return inner

    async def translate(words: tt.Text) -> str:
        return words.text

    return stage(pure=True)(around(translate))


def helped(language: str) -> Kind:
    def help(text: str) -> str:
        return f"{language} {text}"

    ways = {"only": [help, len]}

    async def translate(words: tt.Text) -> str:
        return str(ways["only"][0](words.text))

    return stage(pure=True)(translate)


def loaded(language: str) -> Kind:
    class Translate:
        def __init__(self) -> None:
            self.language = language

        def __call__(self, words: tt.Text) -> str:
            return f"{self.language} {words.text}"

    return stage(pure=True)(Translate)


def patterned(language: str) -> Kind:
    pattern, place = re.compile(language), Path("words")

    async def translate(words: tt.Text) -> str:
        return f"{place} {pattern.sub('', words.text)}"

    return stage(pure=True)(translate)


MAKERS = (
    *(closure, method, of_an_index, partial, by_keyword, default),
    *(decorated, helped, loaded, patterned),
)


@pytest.mark.parametrize("make", MAKERS)
def test_what_code_holds_is_in_its_name(make: Callable[[str], Kind]) -> None:
    assert named(make("fr")) == named(make("fr"))
    assert named(make("fr")) != named(make("de"))


def test_the_code_of_a_partial_is_in_its_name() -> None:
    onto.__qualname__, before = into.__qualname__, onto.__qualname__
    try:
        one, other = (stage(name="one", pure=True)(functools.partial(each, "fr")) for each in (into, onto))
        assert named(one) != named(other)
    finally:
        onto.__qualname__ = before


def test_closures_may_hold_themselves_and_names_that_nothing_has_yet() -> None:
    def counting(step: int) -> Kind:
        def count(number: int) -> int:
            return number and count(number - step)

        async def translate(words: tt.Text) -> str:
            return f"{count(3)} {later}"

        kind = stage(pure=True)(translate)
        if step > 9:
            later = "never"
        return kind

    assert named(counting(1)) == named(counting(1)) != named(counting(2))


def test_what_a_dataclass_is_given_needs_no_name() -> None:
    @dataclass
    class Translate:
        seen: list[str] = field(default_factory=list)

        def __call__(self, words: tt.Text) -> str:
            return words.text

    assert named(stage(pure=True)(Translate))


def test_code_that_holds_what_has_no_name_is_refused() -> None:
    lock = asyncio.Lock()

    async def locked(words: tt.Text) -> str:
        async with lock:
            return words.text

    for body in (Stranger("fr").translate, locked, functools.partial(into, object())):
        with pytest.raises(PlanError, match="its code holds") as refused:
            named(stage(name="held", pure=True)(body))
        assert refused.value.code == "E133"
        assert "`revision`" in (refused.value.help or "")


def test_two_closures_of_one_function_share_no_answer_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAUTEN_RESULTS", str(tmp_path))

    async def process(language: str) -> Any:
        translate = closure(language)

        @tt.workflow
        def desk(words: tt.Text) -> str:
            return translate(words)  # type: ignore[no-any-return]

        assert desk.graph is not None
        rules = CachePlan(tiers=("memory", "disk"))
        plan = Plan(graph=desk.graph.hash, stages={"translate": StagePlan(cache=rules)})
        async with Engine() as engine:
            await engine.open(desk, plan)
            given = (await engine.run(desk.bind("words"))).value
            await engine.deployments.caches.settled()
            return given

    assert [asyncio.run(process(each)) for each in ("fr", "de", "fr")] == ["fr words", "de words", "fr words"]


# -- models that run elsewhere ---------------------------------------------------------------------------------


@stage(pure=True)
async def plain(words: tt.Text) -> str:
    return words.text


HERE = '[vllm]\nurl = "http://10.0.0.5:8000/v1"\nmodels = { small = "qwen-0.5b" }\n'
ELSEWHERE = (
    HERE.replace("qwen-0.5b", "qwen-7b"),
    HERE.replace("10.0.0.5", "10.0.0.6"),
    HERE + 'speaks = "responses"\n',
    HERE + 'without = ["stop"]\n',
    "",  # nobody is known, nobody is asked
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, ModelChoice], bytes]:
    file = tmp_path / "providers.toml"
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(file))

    def name(providers: str, choice: ModelChoice) -> bytes:
        file.write_text(providers)
        return named(plain, model=choice)

    return name


@pytest.mark.parametrize("backend", ["remote", "oip_remote"])
@pytest.mark.parametrize("other", ELSEWHERE)
def test_machines_whose_provider_runs_another_model_share_nothing(
    machine: Callable[[str, ModelChoice], bytes], backend: str, other: str
) -> None:
    choice = ModelChoice(model="small", backend=backend, options={"provider": "vllm"})
    assert machine(HERE, choice) == machine(HERE + 'key = "MINE"\nregion = "us"\n', choice)
    assert machine(HERE, choice) != machine(other, choice)


def test_each_of_several_providers_is_in_the_name(machine: Callable[[str, ModelChoice], bytes]) -> None:
    both = HERE + '[groq]\nurl = "http://10.0.0.7/v1"\n'
    asked = ModelChoice(model="small", backend="remote", options={"provider": ["vllm", "groq/large"]})
    assert machine(both, asked) == machine(both, asked)
    assert machine(both, asked) != machine(both.replace("0.7", "0.8"), asked)
    alone = ModelChoice(model="small", backend="synthetic", options={"provider": "vllm"})
    assert machine(both, alone) == machine("", alone), "what runs here asks nobody"
