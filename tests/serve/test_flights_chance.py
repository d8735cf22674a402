"""Single-flight of what may draw by lot: models alone by every API, and what decides whether a request draws."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import tauten as tt
from serve.kit_asgi import Answered, ask, site
from serve.kit_stream import Client
from tauten.describe.stages.generate import chat
from tauten.errors import Overloaded
from tauten.plan.plan import Plan, StagePlan
from tauten.serve.app import App
from tauten.serve.door import Caller, Door
from tauten.serve.kept.flights import shareable
from tauten.serve.ready_made import ready_made
from tauten.serve.service import Service

LLM = "smollm2-135m-instruct"
WORDS = "one two three four"
MESSAGES = [{"role": "user", "content": WORDS}]
APIS = ["openai", "native", "oip"]


def model(**options: Any) -> Service:
    """A language model alone, as `tauten serve smollm2` makes it, on told words."""
    graph = ready_made("smollm2")[0].workflow.graph
    assert graph is not None
    told = StagePlan(backend="synthetic_slots", settings={"slots": 4, "ms_per_token": 5, **options})
    [service] = ready_made("smollm2", plan=Plan(graph=graph.hash, stages={"chat": told}))
    return service


def computed(service: Service) -> int:
    """The streams that the model was asked for."""
    [(deployment, _)] = service.engine.deployments._held.values()
    return int(deployment.backend._seen)  # type: ignore[union-attr]


def posed(api: str, stream: bool, settings: dict[str, Any]) -> tuple[str, Any]:
    """One question to the model by one of the APIs."""
    given = {"messages": MESSAGES, **settings}
    if api == "openai":
        return "/v1/chat/completions", {"model": LLM, "stream": stream, **given}
    if api == "native":
        return f"/v1/workflows/{LLM}?stream={str(stream).lower()}", {"inputs": given}
    return f"/v2/models/{LLM}/generate{'_stream' if stream else ''}", {"parameters": given}


async def both(app: App, first: tuple[str, Any], second: tuple[str, Any]) -> list[Answered]:
    answers = await asyncio.gather(ask(app, "POST", *first), ask(app, "POST", *second))
    assert [each.status for each in answers] == [200, 200]
    return list(answers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", APIS)
def test_equal_requests_to_a_model_alone_share_unless_each_is_owed_a_draw(api: str, stream: bool) -> None:
    async def main() -> None:
        service = model()
        async with site(service, apis=APIS) as app:
            for settings, runs in (
                ({}, 1),
                ({"temperature": 0}, 1),
                ({"temperature": 0.7}, 2),
                ({"temperature": 0.7, "seed": 0}, 1),
                ({"temperature": 0.7, "seed": 7, "max_tokens": 3}, 1),
            ):
                before = computed(service)
                same = posed(api, stream, settings)
                answers = await both(app, same, same)
                assert computed(service) - before == runs, settings
                assert all(b"three" in each.body for each in answers)
            assert app.site.door.flights.joined == 4

    asyncio.run(main())


@pytest.mark.parametrize(
    "other",
    [
        {"max_tokens": 2},
        {"stop": ["three"]},
        {"top_p": 0.5},
        {"seed": 1},
        {"messages": [{"role": "user", "content": "one two three five"}]},
        {"messages": [{"role": "system", "content": WORDS}]},
    ],
)
@pytest.mark.parametrize("api", APIS)
def test_requests_that_differ_in_anything_do_not_share(api: str, other: dict[str, Any]) -> None:
    async def main() -> None:
        service = model()
        async with site(service, apis=APIS) as app:
            before = computed(service)
            await both(app, posed(api, True, {}), posed(api, True, other))
            assert (computed(service) - before, app.site.door.flights.joined) == (2, 0)

    asyncio.run(main())


def test_tools_are_part_of_what_is_asked() -> None:
    @tt.stage(pure=True)
    async def chosen(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        runs.append(tools)
        await asyncio.sleep(0.02)
        return str(tools)

    @tt.workflow
    def equipped(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        return chosen(messages, tools)

    def asked(name: str) -> tuple[str, Any]:
        tool = {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        return "/v1/chat/completions", {"model": "equipped", "messages": MESSAGES, "tools": [tool]}

    runs: list[Any] = []

    async def main() -> None:
        async with site(Service(equipped), apis=["openai"]) as app:
            await both(app, asked("time"), asked("time"))
            assert len(runs) == 1
            await both(app, asked("time"), asked("date"))
            assert len(runs) == 3

    asyncio.run(main())


def test_another_tenants_question_is_never_answered_with_ones_own() -> None:
    async def main() -> None:
        service = model()
        door = Door(identify=lambda exchange: Caller(tenant=exchange.headers["who"]))
        async with site(service, door=door, apis=["openai"]) as app:
            before = computed(service)
            path, body = posed("openai", True, {})
            await asyncio.gather(*(ask(app, "POST", path, body, {"who": who}) for who in ("a", "b", "a")))
            assert computed(service) - before == 2

    asyncio.run(main())


@pytest.mark.parametrize("api", APIS)
def test_who_joins_a_models_stream_late_gets_its_beginning_at_once_then_the_rest(api: str) -> None:
    async def main() -> None:
        service = model(ms_per_token=20)
        path, body = posed(api, True, {})
        async with site(service, apis=APIS) as app:
            before = computed(service)
            leader = Client(app, "POST", path, body)
            await leader.until(b" two")
            follower = Client(app, "POST", path, body)
            await follower.until(b"one")
            assert b" three" not in follower.body
            for each in (await leader.done(), await follower.done()):
                assert [word for word in WORDS.split() if word.encode() in each.body] == WORDS.split()
            assert computed(service) - before == 1

    asyncio.run(main())


def test_many_other_conversations_do_not_hide_the_same_one() -> None:
    def asked(number: int) -> tuple[str, Any]:
        said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"say {number}"}]
        return posed("openai", True, {"messages": said})

    async def main() -> None:
        service = model(slots=64)
        async with site(service, apis=["openai"]) as app:
            before = computed(service)
            numbers = [*range(40), *range(40)]
            await asyncio.gather(*(ask(app, "POST", *asked(number)) for number in numbers))
            assert (computed(service) - before, app.site.door.flights.joined) == (40, 40)

    asyncio.run(main())


def test_who_draws_is_refused_at_the_door_and_who_may_share_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise Overloaded("too many wait", help="come back later")

    async def main() -> None:
        service = model()
        async with site(service, apis=["native"]) as app:
            monkeypatch.setattr(service.engine, "knock", full)
            for settings, status in (
                ({}, 200),
                ({"temperature": 0}, 200),
                ({"temperature": 0.7, "seed": 1}, 200),
                ({"temperature": 0.7}, 429),
                ({"temperature": "hot"}, 400),
            ):
                answer = await ask(app, "POST", *posed("native", False, settings))
                assert answer.status == status, settings

    asyncio.run(main())


@pytest.mark.parametrize("name", [LLM, "minilm", "whisper-tiny", "kokoro"])
def test_every_model_alone_may_share(name: str) -> None:
    [service] = ready_made(name)
    assert service.shares({})


# -- what decides ---------------------------------------------------------------------------------------------


class Settings(msgspec.Struct):
    """Settings that a client sends together."""

    temperature: float | None = None
    seed: int | None = None


@tt.stage(pure=True)
async def said(text: str, temperature: float | None = None, seed: int | None = None) -> str:
    return text


@tt.stage(pure=True)
async def warm(text: str, temperature: float = 0.7, *, seed: int | None = None) -> str:
    return text


@tt.stage(pure=True)
async def hot(text: str, *, temperature: float = 0.9, seed: int | None = None) -> str:
    return text


@tt.stage(pure=True)
async def guessed(text: str) -> float:
    return 0.5


@tt.stage(pure=True)
async def at(temperature: float, text: str) -> str:
    return text


@tt.workflow
def asked(text: str, temperature: float | None = None, seed: int | None = None) -> str:
    return said(text, temperature, seed)


@tt.workflow
def usually(text: str, temperature: float = 0.7, seed: int | None = None) -> str:
    return said(text, temperature, seed)


@tt.workflow
def fixed(text: str, temperature: float | None = None) -> str:
    return said(text, temperature, 3)


@tt.workflow
def dice(text: str, seed: int | None = None) -> str:
    return said(text, 0.7, seed)


@tt.workflow
def together(text: str, settings: Settings | None = None) -> str:
    return said(text, settings.temperature, settings.seed)  # type: ignore[union-attr]


@tt.workflow
def inferred(text: str, seed: int | None = None) -> str:
    return said(text, guessed(text), seed)


@tt.workflow
def spread(text: str, heat: list[float]) -> list[str]:
    return tt.map(at, heat, text=text)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("workflow", "inputs", "shares"),
    [
        (asked, {}, True),
        (asked, {"temperature": 0.0}, True),
        (asked, {"temperature": 0.1}, False),
        (asked, {"temperature": 0.1, "seed": 0}, True),
        (usually, {}, False),
        (usually, {"temperature": 0.0}, True),
        (usually, {"seed": 1}, True),
        (fixed, {"temperature": 0.7}, True),
        (dice, {}, False),
        (dice, {"seed": 1}, True),
        (together, {}, True),
        (together, {"settings": Settings(0.7)}, False),
        (together, {"settings": Settings(0.7, 1)}, True),
        (inferred, {}, False),
        (inferred, {"seed": 1}, True),
        (spread, {"heat": [0.5, 0.9]}, False),
    ],
)
def test_temperature_and_seed_decide_wherever_they_come_from(
    workflow: Any, inputs: dict[str, Any], shares: bool
) -> None:
    service = Service(workflow)
    assert service.shareable
    assert service.shares(inputs) == service.shares(workflow.bind(text="a", **inputs)) == shares


def test_a_default_that_samples_is_a_draw_and_one_that_a_plan_sets_is_too() -> None:
    @tt.workflow
    def lukewarm(text: str) -> str:
        return warm(text)

    @tt.workflow
    def heated(text: str) -> str:
        return hot(text)

    @tt.workflow
    def cooled(text: str) -> str:
        return hot(text, temperature=0.0)

    @tt.workflow
    def planned(question: str) -> tt.Stream[tt.Text]:
        return tt.generate("{{ question }}", question=question)

    assert [shareable(each) for each in (lukewarm, heated, cooled, planned)] == [False, False, True, True]

    async def shares(**settings: Any) -> bool:
        told = StagePlan(model="told", backend="synthetic_slots", settings=settings)
        service = Service(planned, Plan(graph=planned.graph.hash, stages={"generate": told}))
        await service.open()
        try:
            return service.shares({"question": "a"}, service.plan_id)
        finally:
            await service.close()

    assert asyncio.run(shares())
    assert not asyncio.run(shares(temperature=0.8))


def test_the_stages_of_the_catalogs_models_are_pure() -> None:
    from tauten.describe.stages.detect_speech import detect_speech
    from tauten.describe.stages.embed import embed
    from tauten.describe.stages.speak import speak
    from tauten.describe.stages.transcribe import transcribe
    from tauten.serve.ready_made import cut

    assert all(kind.pure for kind in (chat, embed, speak, transcribe, detect_speech, cut))
