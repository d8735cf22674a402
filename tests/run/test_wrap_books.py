"""A wrapped client's calls in the books: tokens and money however they end, budgets, and models that keep failing."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tauten as tt
from kit.virtual import virtual
from tauten.describe.stage import AMBIENT
from tauten.errors import BackendError, Overloaded, StageError, TautenError
from tauten.run.engine import Engine
from tauten.run.remote.circuit import FAULTS
from tauten.run.usage.budgets import Budgets, Exhausted
from tauten.run.usage.limits import read_limits
from tauten.run.usage.row import UsageRow
from tauten.run.usage.sqlite import Sqlite
from tauten.run.wrapped.answer import Answer, units_of
from usage.kit_usage import prices, quiet, rows

ASKED = {"model": "small", "messages": [{"role": "user", "content": "How is the sea?"}], "max_tokens": 20}
USAGE = SimpleNamespace(
    prompt_tokens=12,
    completion_tokens=3,
    prompt_tokens_details=SimpleNamespace(cached_tokens=4),
    completion_tokens_details=None,
)


class StatusError(Exception):
    """As clients raise it for an answer that is an error."""

    def __init__(self, status: int) -> None:
        super().__init__(f"told to say {status}")
        self.status_code = status


class APIConnectionError(Exception):
    """As clients call an error of the way."""


def chunk(text: str = "", usage: Any = None) -> Any:
    delta = SimpleNamespace(content=text)
    return SimpleNamespace(choices=[SimpleNamespace(delta=delta)], usage=usage, model="small-1", id="req-9")


class AsyncClient:
    """Meets each call with the next act; the last one stays."""

    def __init__(self, *acts: Any, base_url: str = "https://house.example/v1") -> None:
        self.base_url = base_url
        self.acts = list(acts)
        self.made = 0

    def with_options(self, **_: Any) -> AsyncClient:
        return self

    async def create(self, *, model: str = "", stream: bool = False, **_: Any) -> Any:
        self.made += 1
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        await asyncio.sleep(0.5)
        if isinstance(act, Exception):
            raise act
        return self.said(act) if stream else act

    async def said(self, pieces: list[Any]) -> AsyncIterator[Any]:
        for each in pieces:
            await asyncio.sleep(0.1)
            if isinstance(each, Exception):
                raise each
            yield each

    async def models(self) -> list[str]:
        return ["small"]


class Client(AsyncClient):
    """The same, blocking."""

    def create(self, *, model: str = "", stream: bool = False, **_: Any) -> Any:  # type: ignore[override]
        self.made += 1
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        if isinstance(act, Exception):
            raise act
        return iter(act) if stream else act


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our table of providers."""
    path = tmp_path / "providers.toml"
    path.write_text('[house]\nurl = "https://house.example/v1"\nregion = "eu"\nkey = "HOUSE_KEY"\n')
    monkeypatch.setenv("TAUTEN_PROVIDERS", str(path))
    return path


Use = Callable[[Any], Any]


def scene(
    folder: Path, client: Any, use: Use, *, budgets: Budgets | None = None
) -> tuple[Any, list[UsageRow]]:
    """What a workflow gives or raises that uses the client once, and what is booked of it."""
    book = quiet(folder, budgets=budgets)
    wrapped = tt.wrap(client)

    @tt.workflow
    async def asking(words: tt.Text) -> str:
        return str(await use(wrapped))

    async def body(engine: Engine) -> Any:
        engine.door.book = book
        await engine.open(asking)
        request = engine.request(tenant="desk")
        try:
            return (await engine.run(asking.bind("hi"), request=request)).value
        except Exception as error:  # noqa: BLE001  # it is what the test asks for
            return error

    return virtual(body), rows(book)


async def once(client: Any) -> str:
    return str((await client.create(**ASKED)).text)


async def listen(client: Any) -> str:
    stream = await client.create(**ASKED, stream=True)
    return "".join([each.choices[0].delta.content async for each in stream])


WHOLE = SimpleNamespace(text="calm", usage=USAGE, model="small-1", id="req-7")


def test_a_call_is_a_line_of_its_provider_with_tokens_and_price(tmp_path: Path) -> None:
    value, [line] = scene(tmp_path, AsyncClient(WHOLE), once)
    assert value == "calm"
    assert (line.provider, line.model, line.region, line.credential) == ("house", "small", "eu", "HOUSE_KEY")
    assert (line.outcome, line.counted, line.tenant, line.provider_request) == (
        "ok",
        "provider",
        "desk",
        "req-7",
    )
    assert line.units == {"input_tokens": 12, "cached_tokens": 4, "output_tokens": 3, "requests": 1}
    assert line.nano == 8 * 1000 + 4 * 100 + 3 * 2500
    assert line.seconds == pytest.approx(0.5)


def test_a_stream_is_one_call_whose_last_count_holds(tmp_path: Path) -> None:
    first = SimpleNamespace(prompt_tokens=12, completion_tokens=1)
    pieces = [chunk("a"), chunk("b", first), chunk(), chunk("", USAGE)]
    value, [line] = scene(tmp_path, AsyncClient(pieces), listen)
    assert value == "ab"
    assert (line.outcome, line.units["output_tokens"], line.units["input_tokens"]) == ("ok", 3, 12)


@pytest.mark.parametrize(
    ("act", "outcome", "counted", "nano"),
    [
        (StatusError(429), "refused", "estimate", 0),
        (StatusError(400), "failed", "estimate", 0),
        (StatusError(503), "failed", "estimate", 0),
        (APIConnectionError("lost"), "failed", "none", None),
        (SimpleNamespace(text="no count"), "ok", "none", None),
    ],
)
def test_however_a_call_ends_it_is_booked(
    tmp_path: Path, act: Any, outcome: str, counted: str, nano: int | None
) -> None:
    value, [line] = scene(tmp_path, AsyncClient(act), once)
    assert isinstance(value, Exception) == isinstance(act, Exception)
    assert (line.outcome, line.counted, line.nano) == (outcome, counted, nano)
    assert line.units["requests"] == 1


def test_a_stream_that_breaks_off_is_booked_by_what_came(tmp_path: Path) -> None:
    pieces = [chunk("The "), chunk("sea "), APIConnectionError("lost")]
    value, [line] = scene(tmp_path, AsyncClient(pieces), listen)
    assert isinstance(value, APIConnectionError | StageError | TautenError)
    assert (line.outcome, line.counted, line.units["output_tokens"]) == ("cut", "estimate", 2)
    assert line.units["input_tokens"] > 0


def test_a_stream_that_is_left_is_booked_by_what_came(tmp_path: Path) -> None:
    async def some(client: Any) -> str:
        stream = await client.create(**ASKED, stream=True)
        async for each in stream:
            await stream.aclose() if hasattr(stream, "aclose") else None
            return str(each.choices[0].delta.content)
        return ""

    async def left(client: Any) -> str:
        said = await some(client)
        gc.collect()
        await asyncio.sleep(0.1)  # its generator is closed in a turn of the loop
        return said

    value, [line] = scene(tmp_path, AsyncClient([chunk("The "), chunk("sea ")]), left)
    assert value == "The "
    assert (line.outcome, line.units["output_tokens"]) == ("cancelled", 1)


def test_a_stream_that_nobody_reads_is_booked_when_it_is_let_go(tmp_path: Path) -> None:
    async def ignored(client: Any) -> str:
        await client.create(**ASKED, stream=True)
        gc.collect()
        return "done"

    _, [line] = scene(tmp_path, AsyncClient([chunk("The ")]), ignored)
    assert (line.outcome, line.counted) == ("cancelled", "estimate")


def test_a_request_that_is_cancelled_has_its_call_booked(tmp_path: Path) -> None:
    book = quiet(tmp_path)
    wrapped = tt.wrap(AsyncClient(WHOLE))

    @tt.workflow
    async def asking(words: tt.Text) -> str:
        return str((await wrapped.create(**ASKED)).text)

    async def body(engine: Engine) -> None:
        engine.door.book = book
        await engine.open(asking)
        request = engine.request()
        asyncio.get_running_loop().call_later(0.2, request.cancel)
        with pytest.raises(asyncio.CancelledError):
            await engine.run(asking.bind("hi"), request=request)

    virtual(body)
    [line] = rows(book)
    assert (line.outcome, line.ended) == ("cancelled", "cancelled")


def test_a_blocking_client_is_booked_as_well(tmp_path: Path) -> None:
    async def both(client: Any) -> str:
        whole = client.create(**ASKED)
        client._target.acts = [[chunk("a"), chunk("b", USAGE)]]
        pieces = client.create(**ASKED, stream=True)
        return whole.text + "".join(each.choices[0].delta.content for each in pieces)

    value, lines = scene(tmp_path, Client(WHOLE), both)
    assert value == "calmab"
    assert [(line.outcome, line.units["output_tokens"]) for line in lines] == [("ok", 3), ("ok", 3)]


def test_a_client_that_a_client_makes_is_wrapped(tmp_path: Path) -> None:
    async def other(client: Any) -> str:
        return str((await client.with_options(timeout=3).create(**ASKED)).text)

    _, lines = scene(tmp_path, AsyncClient(WHOLE), other)
    assert [line.provider for line in lines] == ["house"]


class Opened:
    """A stream that begins when its block is entered, as some clients have it."""

    def __init__(self, client: AsyncClient, pieces: list[Any]) -> None:
        self.client, self.pieces = client, pieces

    async def __aenter__(self) -> Any:
        self.client.made += 1
        return self.client.said(self.pieces)

    async def __aexit__(self, *why: Any) -> None:
        return


class AsyncOpening(AsyncClient):
    def stream(self, *, model: str = "", **_: Any) -> Opened:
        return Opened(self, self.acts[0])


@pytest.mark.parametrize(("takes", "outcome", "made"), [(9, "ok", 3), (1, "cancelled", 1)])
def test_a_stream_that_a_block_opens_is_one_call(tmp_path: Path, takes: int, outcome: str, made: int) -> None:
    async def opened(client: Any) -> str:
        said = ""
        async with client.stream(**ASKED) as stream:
            async for each in stream:
                said += each.choices[0].delta.content
                takes_left = takes - len(said)
                if takes_left <= 0:
                    break
        return said

    client = AsyncOpening([chunk("a"), chunk("b", USAGE)])
    _, [line] = scene(tmp_path, client, opened)
    assert (line.outcome, line.units["output_tokens"], client.made) == (outcome, made, 1)


def test_what_is_no_call_of_a_model_is_no_line_of_a_provider(tmp_path: Path) -> None:
    async def listed(client: Any) -> str:
        return ",".join(await client.models())

    value, [line] = scene(tmp_path, AsyncClient(WHOLE), listed)
    assert (value, line.provider, line.asked) == ("small", "", 1)


def test_an_address_that_no_table_has_is_called_by_its_host(tmp_path: Path) -> None:
    _, [line] = scene(tmp_path, AsyncClient(WHOLE, base_url="https://api.other.example/v1"), once)
    assert (line.provider, line.nano) == ("api.other.example", None)
    (tmp_path / "other").mkdir()
    _, [line] = scene(tmp_path / "other", AsyncClient(WHOLE, base_url=""), once)
    assert line.provider == AsyncClient.__module__.partition(".")[0]


def test_a_model_that_keeps_failing_is_left_alone(tmp_path: Path) -> None:
    client = AsyncClient(StatusError(500))

    async def often(wrapped: Any) -> str:
        seen = []
        for _ in range(FAULTS + 2):
            try:
                await wrapped.create(**ASKED)
            except (StatusError, BackendError) as error:
                seen.append(type(error).__name__)
        client.acts = [WHOLE]
        await asyncio.sleep(2.0)
        return " ".join([*seen, (await wrapped.create(**ASKED)).text])

    value, lines = scene(tmp_path, client, often)
    assert value == " ".join(["StatusError"] * FAULTS + ["BackendError"] * 2 + ["calm"])
    assert len(lines) == client.made == FAULTS + 1


def test_an_error_of_the_callers_says_nothing_of_the_provider(tmp_path: Path) -> None:
    client = AsyncClient(StatusError(400))

    async def often(wrapped: Any) -> str:
        for act in [StatusError(400)] * FAULTS + [ValueError("ours")] * FAULTS + [StatusError(429)] * FAULTS:
            client.acts = [act]
            with pytest.raises(type(act)):
                await wrapped.create(**ASKED)
        return "still"

    value, lines = scene(tmp_path, client, often)
    assert (value, len(lines)) == ("still", 3 * FAULTS)


def test_a_limit_of_the_provider_is_waited_for_before_it_is_hit(tmp_path: Path, file: Path) -> None:
    file.write_text('[house]\nurl = "https://house.example/v1"\nlimits = { requests_per_minute = 2 }\n')

    async def thrice(client: Any) -> str:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(client.create(**ASKED) for _ in range(3)))
        return f"{asyncio.get_running_loop().time() - began:.1f}"

    value, lines = scene(tmp_path, AsyncClient(WHOLE), thrice)
    assert value == "30.5"
    assert [line.seconds for line in lines] == pytest.approx([0.5, 0.5, 0.5])


def test_a_refusal_keeps_others_out_for_as_long_as_it_says(tmp_path: Path) -> None:
    refused = StatusError(429)
    refused.response = SimpleNamespace(headers={"retry-after": "20"})  # type: ignore[attr-defined]
    client = AsyncClient(refused, WHOLE)
    seen: list[str] = []

    async def twice(wrapped: Any) -> str:
        with pytest.raises(StatusError):
            await wrapped.create(**ASKED)
        began = asyncio.get_running_loop().time()
        said = (await wrapped.create(**ASKED)).text
        seen.append(f"{asyncio.get_running_loop().time() - began:.1f}")
        return str(said)

    value, lines = scene(tmp_path, client, twice)
    assert (value, seen) == ("calm", ["20.5"])
    assert [line.outcome for line in lines] == ["refused", "ok"]


def test_a_limit_that_outlasts_the_request_is_said_with_its_time() -> None:
    refused = StatusError(429)
    refused.response = SimpleNamespace(headers={"retry-after": "20"})  # type: ignore[attr-defined]
    wrapped = tt.wrap(AsyncClient(refused))

    @tt.workflow
    async def asking(words: tt.Text) -> str:
        for _ in range(2):
            try:
                await wrapped.create(**ASKED)
            except StatusError:
                continue
        return ""

    async def body(engine: Engine) -> None:
        await engine.open(asking)
        with pytest.raises(Overloaded, match="E462") as raised:
            await engine.run(asking.bind("hi"), deadline_ms=5000)
        assert raised.value.retry_after_s == pytest.approx(20.0)

    virtual(body)


# -- budgets: on a real loop, as these have threads of their own ----------------------------------------------


@pytest.fixture
def budgets(tmp_path: Path) -> Iterator[Budgets]:
    (tmp_path / "budgets.toml").write_text('tauten = "budgets/1"\n[budget.all]\ncalls = 2\nperiod = "ever"\n')
    made = Budgets(
        read_limits(tmp_path / "budgets.toml"), prices(tmp_path), lambda: Sqlite(tmp_path / "held.db")
    )
    yield made
    made.close()


@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_budgets_are_asked_before_a_call_is_made(tmp_path: Path, budgets: Budgets, kind: Any) -> None:
    client = kind(WHOLE)
    wrapped = tt.wrap(client)
    book = quiet(tmp_path, budgets=budgets)

    @tt.workflow
    async def asking(words: tt.Text) -> str:
        given = wrapped.create(**ASKED)
        return str((await given if asyncio.iscoroutine(given) else given).text)

    async def main() -> list[str]:
        async with Engine(book=book) as engine:
            await engine.open(asking)
            ends = []
            for _ in range(3):
                try:
                    ends.append((await engine.run(asking.bind("hi"))).value)
                except Exhausted as error:
                    ends.append(error.code)
            return ends

    assert asyncio.run(main()) == ["calm", "calm", "E451"]
    assert client.made == 2
    [state] = budgets.states()
    assert (state.spent, state.held) == (2, 0)
    assert [line.provider for line in rows(book)] == ["house", "house", ""]


# -- reading answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, {"input_tokens": 5, "output_tokens": 2}),
        (
            {
                "input_tokens": 5,
                "cache_read_input_tokens": 7,
                "cache_creation_input_tokens": 1,
                "output_tokens": 2,
            },
            {"input_tokens": 13, "cached_tokens": 7, "cache_write_tokens": 1, "output_tokens": 2},
        ),
        (
            {"prompt_token_count": 5, "candidates_token_count": 2, "thoughts_token_count": 4},
            {"input_tokens": 5, "output_tokens": 6, "reasoning_tokens": 4},
        ),
        ({"prompt_tokens": True, "completion_tokens": -2}, {}),
        ({"prompt_tokens": float("inf"), "completion_tokens": "7"}, {}),
        (None, {}),
        ("five", {}),
    ],
)
def test_counts_are_read_whoever_wrote_them(usage: Any, units: dict[str, float]) -> None:
    assert units_of(usage) == units


def test_events_that_carry_an_answer_are_read() -> None:
    answer = Answer()
    usage = SimpleNamespace(input_tokens=9, output_tokens=1)
    answer.add(SimpleNamespace(type="message_start", message=SimpleNamespace(usage=usage, model="m", id="x")))
    answer.add(SimpleNamespace(type="content_block_delta", delta=SimpleNamespace(text="four ")))
    answer.add(SimpleNamespace(type="message_delta", usage=SimpleNamespace(output_tokens=6)))
    assert (answer.units, answer.model, answer.request_id) == (
        {"input_tokens": 9, "output_tokens": 6},
        "m",
        "x",
    )
    assert (answer.pieces, answer.made_tokens) == (1, 6.0)


def test_outside_a_request_nothing_is_watched() -> None:
    assert AMBIENT.get(None) is None
    client = AsyncClient(WHOLE)
    assert asyncio.run(tt.wrap(client).create(**ASKED)).text == "calm"
