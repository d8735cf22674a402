"""One call and the endpoints that may answer it, on virtual time: what the caller sees, and what is booked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from remote.kit_lines import (
    ITEM,
    Act,
    Told,
    ToldReply,
    ask,
    breaks,
    cuts,
    end,
    endpoint,
    hangs,
    line,
    says,
    status,
    word,
)
from tauten.clock import run_virtual
from tauten.errors import BackendError, DeadlineExceeded, InputError, Overloaded
from tauten.run.remote.chat import Chat
from tauten.run.remote.circuit import FAULTS
from tauten.run.remote.endpoint import Endpoint
from tauten.run.remote.errand import Errand
from tauten.run.remote.providers import Limits
from tauten.run.remote.retrying import Retrying
from tauten.run.remote.route import MIRRORED, Route
from tauten.run.remote.trail import Trail
from tauten.run.request import Request
from tauten.run.usage.budgets import Exhausted

WORDS = ("one ", "two ", "six")


def virtually(body: Callable[[], Awaitable[Any]]) -> Any:
    """Run it, and see that it leaves no task behind."""

    async def main() -> Any:
        result = await body()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    return run_virtual(main())


def steady(**options: Any) -> dict[str, Any]:
    return {"retrying": Retrying(lambda: 0.5), **options}


def test_a_whole_answer_is_booked_as_the_provider_counts_it() -> None:
    async def scene() -> tuple[Told, Endpoint]:
        first = endpoint("a", says(*WORDS))
        return await ask(Route([first])), first

    told, first = virtually(scene)
    assert (told.text, told.whole, told.error) == ("one two six", True, None)
    assert told.chunks[0].text == ""
    assert told.chunks[-1].usage == {"input_tokens": 7.0, "cached_tokens": 0.0, "output_tokens": 3.0}
    assert sum(chunk.tokens for chunk in told.chunks) == 3
    assert told.calls == [("a", "", "ok", 7.0, 3.0, "provider")]
    assert told.request.trace.provider_calls[0].key == "A_KEY"
    assert told.spent_s("remote") == pytest.approx(0.12)
    assert line(first).replies[0].ended == "released"
    assert line(first).sent[0]["stream_options"] == {"include_usage": True}
    assert "first byte" in told.request.trace.notes["ask remote"]


def test_before_the_first_word_the_next_endpoint_answers() -> None:
    async def scene() -> Told:
        return await ask(
            Route([endpoint("a", status(503)), endpoint("b", breaks()), endpoint("c", says("yes"))])
        )

    told = virtually(scene)
    assert (told.text, told.error) == ("yes", None)
    assert told.calls == [
        ("a", "", "failed", 0.0, 0.0, "estimate"),  # an error that nobody bills
        ("b", "fallback", "failed", 0.0, 0.0, "none"),  # it may have been read
        ("c", "fallback", "ok", 7.0, 1.0, "provider"),
    ]


def test_a_failing_over_costs_no_retry() -> None:
    async def scene() -> int:
        route = Route([endpoint("a", status(500)), endpoint("b", says("yes"))], **steady())
        answered = 0
        for _ in range(50):
            answered += (await ask(route)).text == "yes"
        return answered

    assert virtually(scene) == 50


def test_retries_end_with_their_budget_and_the_error_says_what_was_seen() -> None:
    async def scene() -> list[Told]:
        route = Route([endpoint("a", *[status(500)] * 4)], **steady())
        return [await ask(route) for _ in range(2)]

    first, second = virtually(scene)
    assert isinstance(first.error, BackendError)
    assert first.error.code == "E460"
    assert "a/m: HTTP 500: told to say 500" in first.error.message
    assert [why for _, why, *_ in first.calls] == ["", "retry", "retry"]  # the reserve
    assert [why for _, why, *_ in second.calls] == [""]  # a tenth of two calls is no call
    assert first.spent_s("remote") == pytest.approx(3 * 0.05 + 0.1 + 0.2)


def test_an_endpoint_that_keeps_failing_is_left_alone_and_found_again() -> None:
    async def scene() -> list[Told]:
        first = endpoint("a", *[status(500)] * FAULTS, says("back"))
        route = Route([first], **steady())
        for _ in range(FAULTS):
            route.retrying = Retrying(lambda: 0.5)
            route.retrying._share.left = 0.0
            await ask(route)
        refused = await ask(route)
        await asyncio.sleep(1.0)
        return [refused, await ask(route)]

    refused, found = virtually(scene)
    assert isinstance(refused.error, BackendError)
    assert "left alone after failures" in refused.error.message
    assert 0.0 < refused.error.retry_after_s <= 1.0
    assert refused.calls == []
    assert found.text == "back"


def test_an_answer_too_slow_for_its_call_counts_as_a_fault() -> None:
    async def scene() -> list[str]:
        first = endpoint("a", says("late", first_s=0.6))
        states = []
        for left_s in [1.0] * FAULTS:
            assert (await ask(Route([first]), left_s=left_s)).whole
            states.append(first.circuit.state)
        other = endpoint("b", says("late", first_s=0.6))
        for _ in range(FAULTS):
            await ask(Route([other]), left_s=10.0)
        return [*states, other.circuit.state]

    assert virtually(scene) == ["closed"] * (FAULTS - 1) + ["open", "closed"]


@pytest.mark.parametrize("left_s", [0.2, 0.5])  # it gives up, or hears the first word when half of it is over
def test_who_leaves_less_than_it_usually_takes_blames_nobody(left_s: float) -> None:
    async def scene() -> tuple[str, str]:
        first = endpoint("a", says("usual", first_s=0.3))
        for _ in range(11):
            assert (await ask(Route([first]), left_s=10.0)).whole
        for _ in range(3 * FAULTS):
            await ask(Route([first]), left_s=left_s)
        hasty = first.circuit.state
        line(first).acts[0] = hangs()
        for _ in range(3 * FAULTS):
            await ask(Route([first]), left_s=0.5)
        return hasty, first.circuit.state

    assert virtually(scene) == ("closed", "open"), "longer than it usually takes is its own fault"


def test_a_refusal_is_a_limit_and_no_fault() -> None:
    async def scene() -> tuple[Told, Endpoint]:
        first = endpoint("a", status(429, headers={"retry-after": "2"}), says("yes"))
        return await ask(Route([first], **steady())), first

    told, first = virtually(scene)
    assert told.text == "yes"
    assert told.calls == [
        ("a", "", "refused", 0.0, 0.0, "none"),
        ("a", "retry", "ok", 7.0, 1.0, "provider"),
    ]
    assert told.spent_s("limit") == pytest.approx(2.0 * 1.125)
    assert first.circuit.state == "closed"


def test_a_limit_that_outlasts_the_call_is_said_with_its_time() -> None:
    async def scene() -> list[Told]:
        first = endpoint("a", status(429, headers={"retry-after": "20"}))
        route = Route([first], **steady())
        return [await ask(route, left_s=5.0) for _ in range(2)]

    refused, known = virtually(scene)
    for told in (refused, known):
        assert isinstance(told.error, Overloaded)
        assert told.error.code == "E462"
    assert refused.error.retry_after_s == 20.0
    assert known.error.retry_after_s == pytest.approx(20.0, abs=0.1)
    assert known.calls == []  # it was known, and not asked again


def test_a_limit_is_kept_before_it_is_hit() -> None:
    async def scene() -> list[Told]:
        first = endpoint("a", says("yes"), limits=Limits(requests_per_minute=2))
        route = Route([first])
        return list(await asyncio.gather(*(ask(route) for _ in range(3))))

    told = virtually(scene)
    assert [each.text for each in told] == ["yes"] * 3
    assert [each.spent_s("limit") for each in told] == pytest.approx([0.0, 0.0, 30.0])


def test_a_count_that_no_call_can_have_uses_up_no_limit() -> None:
    async def act() -> ToldReply:
        return ToldReply([(0.1, word("yes")), (0.0, end(900_000_000_000_000))], 200, {})

    async def scene() -> tuple[Told, float]:
        first = endpoint("a", act, limits=Limits(tokens_per_minute=1000))
        return await ask(Route([first])), first.wait_s(900.0)

    told, wait_s = virtually(scene)
    assert told.whole
    assert wait_s == 0.0


def test_an_endpoint_without_a_wait_is_asked_first() -> None:
    async def scene() -> Told:
        first = endpoint("a", says("slow"), limits=Limits(requests_per_minute=1))
        route = Route([first, endpoint("b", says("quick"))])
        await ask(route)
        return await ask(route)

    assert virtually(scene).calls[0][0] == "b"


def test_a_request_that_is_wrong_is_not_carried_from_door_to_door() -> None:
    async def scene() -> tuple[Told, Endpoint]:
        other = endpoint("b", says("never"))
        return await ask(Route([endpoint("a", status(400)), other])), other

    told, other = virtually(scene)
    assert isinstance(told.error, InputError)
    assert told.error.code == "E230"
    assert line(other).sent == []


def test_a_door_that_stays_shut_is_not_knocked_at_twice() -> None:
    async def scene() -> list[Told]:
        alone = await ask(Route([endpoint("a", status(401))], **steady()))
        both = await ask(
            Route([endpoint("a", status(404)), endpoint("b", status(500), says("yes"))], **steady())
        )
        return [alone, both]

    alone, both = virtually(scene)
    assert [provider for provider, *_ in alone.calls] == ["a"]
    assert "told to say" not in alone.error.message  # such answers repeat keys
    assert both.text == "yes"
    assert [provider for provider, *_ in both.calls] == ["a", "b", "b"]


def test_silence_before_the_first_word_is_given_up_while_another_can_be_asked() -> None:
    async def scene() -> tuple[Told, float]:
        told = await ask(Route([endpoint("a", hangs()), endpoint("b", says("yes"))]), left_s=4.0)
        return told, asyncio.get_running_loop().time()

    told, now = virtually(scene)
    assert told.text == "yes"
    assert now == pytest.approx(2.1)
    assert told.calls == [
        ("a", "", "cancelled", 5.0, 0.0, "estimate"),  # it may have read the prompt
        ("b", "fallback", "ok", 7.0, 1.0, "provider"),
    ]


@pytest.mark.parametrize("away", ["asked", "denied", "left alone", "limited"])
def test_the_last_that_can_be_asked_has_all_the_time_that_is_left(away: str) -> None:
    async def scene() -> Told:
        code = 401 if away == "denied" else 500
        first = endpoint("a", status(code), limits=Limits(requests_per_minute=1))
        if away == "left alone":
            first.circuit._open()
        if away == "limited":
            first.allowance.take(0.0)
        return await ask(Route([first, endpoint("b", says("yes", first_s=3.0))], **steady()), left_s=4.0)

    told = virtually(scene)
    assert (told.text, told.error) == ("yes", None)
    assert told.calls[-1][0] == "b"


def test_who_waits_until_another_is_asked_has_half_of_what_is_left() -> None:
    """An endpoint that may be asked again after a pause is no other one; a third one is."""

    async def scene() -> Told:
        acts = [status(500)], [says("late", first_s=3.0)], [says("yes")]
        route = Route([endpoint(name, *each) for name, each in zip("abc", acts, strict=True)])
        return await ask(route, left_s=4.0)

    told = virtually(scene)
    assert told.text == "yes"
    assert [call[0] for call in told.calls] == ["a", "b", "c"]


def test_silence_of_all_ends_with_the_deadline() -> None:
    async def scene() -> Told:
        return await ask(Route([endpoint("a", hangs())]), left_s=1.0)

    told = virtually(scene)
    assert isinstance(told.error, DeadlineExceeded)
    assert told.calls == [("a", "", "cancelled", 5.0, 0.0, "estimate")]


# -- cut answers ---------------------------------------------------------------------------------------------


def test_a_cut_answer_is_an_error_and_its_words_are_booked() -> None:
    async def scene() -> tuple[Told, Endpoint]:
        other = endpoint("b", says("never"))
        return await ask(Route([endpoint("a", cuts("one ", "two ")), other])), other

    told, other = virtually(scene)
    assert told.text == "one two "
    assert not told.whole
    assert isinstance(told.error, BackendError)
    assert told.error.code == "E461"
    assert "cut its answer after 2 pieces" in told.error.message
    assert told.calls == [("a", "", "cut", 5.0, 2.0, "estimate")]
    assert line(other).sent == []


def test_a_cut_answer_is_gone_on_with_where_the_plan_allows_it() -> None:
    async def scene() -> tuple[Told, Endpoint]:
        other = endpoint("b", says("six"))
        return await ask(Route([endpoint("a", cuts("one ", "two ")), other], continues=True)), other

    told, other = virtually(scene)
    assert (told.text, told.whole, told.error) == ("one two six", True, None)
    assert told.calls == [
        ("a", "", "cut", 5.0, 2.0, "estimate"),
        ("b", "continue", "ok", 7.0, 1.0, "provider"),
    ]
    [sent] = line(other).sent
    assert sent["messages"][-1] == {"role": "assistant", "content": "one two "}
    assert sent["max_tokens"] == ITEM["max_tokens"] - 2
    assert told.chunks[-1].usage == {"input_tokens": 12.0, "cached_tokens": 0.0, "output_tokens": 3.0}
    assert [chunk.text for chunk in told.chunks].count("") == 2  # the first and the last


def test_a_continuation_that_is_cut_too_is_an_error() -> None:
    async def scene() -> Told:
        cutting = [endpoint("a", cuts("one ")), endpoint("b", cuts("two "))]
        return await ask(Route(cutting, continues=True, **steady()))

    told = virtually(scene)
    assert told.text == "one two "
    assert isinstance(told.error, BackendError)
    assert not told.whole
    assert told.error.code == "E461"
    assert [(why, outcome) for _, why, outcome, *_ in told.calls] == [("", "cut"), ("continue", "cut")]


@pytest.mark.parametrize("missing", ["final event", "finish reason"])
def test_an_answer_without_its_end_is_cut(missing: str) -> None:
    def unfinished() -> Act:
        async def act() -> ToldReply:
            last = b"data: [DONE]\n\n"
            if missing == "final event":
                last = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
            return ToldReply([(0.1, word("one ")), (0.1, last)], 200, {})

        return act

    async def scene() -> Told:
        return await ask(Route([endpoint("a", unfinished())]))

    told = virtually(scene)
    assert told.error is not None
    assert told.error.code == "E461"
    assert missing in told.error.message
    assert told.calls == [("a", "", "cut", 5.0, 1.0, "estimate")]


# -- leaving -------------------------------------------------------------------------------------------------


def test_a_caller_who_leaves_closes_the_connection_and_what_came_is_booked() -> None:
    async def scene() -> tuple[Told, Endpoint, float]:
        now = asyncio.get_running_loop().time
        first = endpoint("a", says(*["word"] * 100, gap_s=1.0))
        told = Told(Request(now))
        chunks = Errand(Chat(ITEM), Route([first]), Trail(told.request, "ask")).chunks()
        async for chunk in chunks:
            told.chunks.append(chunk)
            if len(told.chunks) == 4:  # an empty one and three words
                break
        left = now()
        await chunks.aclose()
        return told, first, now() - left

    told, first, took_s = virtually(scene)
    assert told.calls == [("a", "", "cancelled", 5.0, 3.0, "estimate")]
    assert line(first).replies[0].ended == "closed"
    assert took_s == 0.0


def test_a_task_that_is_cancelled_does_the_same_at_once() -> None:
    async def scene() -> tuple[Told, Endpoint, float]:
        first = endpoint("a", says(*["word"] * 100, gap_s=1.0))
        told = Told(Request(asyncio.get_running_loop().time))

        async def reading() -> None:
            async for chunk in Errand(Chat(ITEM), Route([first]), Trail(told.request, "ask")).chunks():
                told.chunks.append(chunk)

        task = asyncio.create_task(reading())
        await asyncio.sleep(2.5)
        task.cancel()
        await asyncio.wait([task])
        return told, first, asyncio.get_running_loop().time()

    told, first, now = virtually(scene)
    assert told.calls == [("a", "", "cancelled", 5.0, 3.0, "estimate")]
    assert line(first).replies[0].ended == "closed"
    assert now == 2.5


def test_who_leaves_while_waiting_for_a_limit_takes_nothing() -> None:
    async def scene() -> float:
        first = endpoint("a", says("yes"), limits=Limits(requests_per_minute=1))
        route = Route([first])
        await ask(route)
        waiting = asyncio.create_task(ask(route))
        await asyncio.sleep(1.0)
        waiting.cancel()
        await asyncio.wait([waiting])
        return first.allowance.wait_s(0.0)

    assert virtually(scene) == pytest.approx(60.0 - 1.1)


# -- hedges --------------------------------------------------------------------------------------------------


def hedged(*acts: Any) -> Route:
    """Two endpoints whose usual call takes 0.5 s, and a share that pays for hedges."""
    route = Route([endpoint("a", *acts), endpoint("b", says("yes", first_s=0.2))], hedges=True, **steady())
    for _ in range(20):
        route.hedging.observe(0.2, 0.3)
    route.hedging.came(1_000_000)
    return route


def test_a_hedge_saves_a_call_that_runs_out_of_time_and_its_loser_is_booked() -> None:
    async def scene() -> tuple[Told, float]:
        route = hedged(hangs())
        told = await ask(route, left_s=1.5)
        return told, asyncio.get_running_loop().time()

    told, now = virtually(scene)
    assert told.text == "yes"
    assert now == pytest.approx(0.7)  # asked when twice a usual call was left
    assert told.calls == [
        ("a", "", "cancelled", 5.0, 0.0, "estimate"),
        ("b", "hedge", "ok", 7.0, 1.0, "provider"),
    ]


def test_no_hedge_where_there_is_no_hurry() -> None:
    async def scene() -> Told:
        return await ask(hedged(says("slow", first_s=3.0)), left_s=60.0)

    told = virtually(scene)
    assert told.calls == [("a", "", "ok", 7.0, 1.0, "provider")]


def test_no_hedge_beyond_its_share_of_the_cost() -> None:
    async def scene() -> Told:
        route = hedged(says("slow", first_s=0.6))
        route.hedging._share.left = 0.0
        return await ask(route, left_s=1.5)

    assert [why for _, why, *_ in virtually(scene).calls] == [""]


def test_ordinary_calls_earn_what_a_hedge_costs() -> None:
    async def scene() -> list[str]:
        route = hedged(*[says("a ", "b", first_s=0.2, gap_s=0.3)] * 20, hangs())
        route.hedging._share.left = 0.0
        whys = []
        for _ in range(21):
            told = await ask(route, left_s=1.5)
            whys += [why for _, why, *_ in told.calls]
        return whys

    assert virtually(scene) == [""] * 21 + ["hedge"]


def test_the_first_may_still_win_and_the_hedge_is_booked() -> None:
    async def scene() -> Told:
        return await ask(hedged(says("slow", first_s=0.6)), left_s=1.5)

    told = virtually(scene)
    assert told.text == "slow"
    assert sorted(told.calls) == [
        ("a", "", "ok", 7.0, 1.0, "provider"),
        ("b", "hedge", "cancelled", 5.0, 0.0, "estimate"),
    ]


def test_a_hedge_that_is_denied_shuts_its_own_door_and_the_first_is_tried_again() -> None:
    async def scene() -> Told:
        route = hedged(hangs(), says("yes"))
        line(route.endpoints[1]).acts[0] = status(401, after_s=0.3)  # after the first one was given up
        return await ask(route, left_s=1.5)

    told = virtually(scene)
    assert (told.text, told.error) == ("yes", None)
    assert [call[:3] for call in told.calls] == [
        ("a", "", "cancelled"),
        ("b", "hedge", "failed"),
        ("a", "retry", "ok"),
    ]


def test_both_of_a_pair_say_how_they_failed() -> None:
    async def scene() -> Told:
        route = hedged(status(403, after_s=0.6))
        line(route.endpoints[1]).acts[0] = status(404, after_s=0.3)
        return await ask(route, left_s=1.5)

    told = virtually(scene)
    assert told.error is not None
    assert told.error.message == "no provider answered: a/m: HTTP 403; b/m: HTTP 404: told to say 404"


def test_a_request_that_is_wrong_for_the_hedge_is_refused_in_its_name() -> None:
    async def scene() -> Told:
        route = hedged(hangs(), says("never"))
        line(route.endpoints[1]).acts[0] = status(400, after_s=0.3)
        return await ask(route, left_s=1.5)

    told = virtually(scene)
    assert isinstance(told.error, InputError)
    assert told.error.message == "b/m refuses the request: HTTP 400: told to say 400"


def test_a_hedge_that_no_budget_pays_for_leaves_the_first_its_failure_and_its_retry() -> None:
    class Poor:
        async def reserve(self, provider: str, *_: Any) -> Free:
            if provider == "b":
                await asyncio.sleep(0.3)
                raise Exhausted("nothing is left")
            return Free()

    class Free:
        def settle(self, _: Any) -> None:
            """Nothing was held."""

    async def scene() -> Told:
        return await ask(hedged(hangs(), says("yes")), left_s=1.5, purse=Poor())

    told = virtually(scene)
    assert (told.text, told.error) == ("yes", None)
    assert [call[:3] for call in told.calls] == [("a", "", "cancelled"), ("a", "retry", "ok")]


def test_a_hedged_call_that_is_cancelled_leaves_nothing_running() -> None:
    async def scene() -> Told:
        route = hedged(hangs())
        line(route.endpoints[1]).acts[0] = hangs()
        told = Told(Request(asyncio.get_running_loop().time, deadline=1.5))

        async def reading() -> None:
            async for chunk in Errand(Chat(ITEM), route, Trail(told.request, "ask")).chunks():
                told.chunks.append(chunk)

        task = asyncio.create_task(reading())
        await asyncio.sleep(0.6)
        task.cancel()
        await asyncio.wait([task])
        return told

    told = virtually(scene)
    assert sorted(told.calls) == [
        ("a", "", "cancelled", 5.0, 0.0, "estimate"),
        ("b", "hedge", "cancelled", 5.0, 0.0, "estimate"),
    ]


# -- mirrors -------------------------------------------------------------------------------------------------


def test_a_share_of_calls_is_sent_elsewhere_too_and_only_booked() -> None:
    async def scene() -> list[Told]:
        mirrored = endpoint("m", says("other", "words", first_s=5.0))
        route = Route([endpoint("a", says("yes"))], mirror=(mirrored, 0.5))
        told = [await ask(route) for _ in range(4)]
        await route.settle()
        return told

    told = virtually(scene)
    assert [each.text for each in told] == ["yes"] * 4
    mirrors = [call for each in told for call in each.calls if call[1] == "mirror"]
    assert mirrors == [("m", "mirror", "ok", 7.0, 2.0, "provider")] * 2


def test_a_mirror_is_asked_for_no_more_than_its_limit_lets_go_at_once() -> None:
    """Who means that endpoint waits for one turn, and not behind all that were mirrored."""

    async def scene() -> tuple[list[Told], Told, float]:
        mirrored = endpoint("m", says("other"), limits=Limits(requests_per_minute=10))
        route = Route([endpoint("a", says("yes"))], mirror=(mirrored, 1.0))
        told = list(await asyncio.gather(*(ask(route) for _ in range(50))))
        await route.settle()
        now = asyncio.get_running_loop().time()
        return told, await ask(Route([mirrored]), left_s=10.0), now

    told, meant, now = virtually(scene)
    assert [each.text for each in told] == ["yes"] * 50
    assert sum(call[1] == "mirror" for each in told for call in each.calls) == 10
    notes = [each.request.trace.notes["ask remote"] for each in told]
    assert sum("m/m (mirror): left out, it would have to wait" in note for note in notes) == 40
    assert now < 1.0
    assert (meant.text, meant.error) == ("other", None)
    assert meant.spent_s("limit") <= 6.0


def test_a_mirror_that_refuses_is_left_alone_until_it_says() -> None:
    async def scene() -> list[int]:
        mirrored = endpoint("m", status(429, headers={"retry-after": "20"}), says("other"))
        route = Route([endpoint("a", says("yes"))], mirror=(mirrored, 1.0))
        sent = []
        for pause_s in (1.0, 20.0, 1.0):
            await ask(route)
            await asyncio.sleep(pause_s)
            sent.append(len(line(mirrored).sent))
        await route.settle()
        return sent

    assert virtually(scene) == [1, 1, 2]


def test_a_mirror_that_hangs_has_so_many_calls_and_no_more() -> None:
    async def scene() -> tuple[int, list[str]]:
        mirrored = endpoint("m", hangs())
        route = Route([endpoint("a", says("yes"))], mirror=(mirrored, 1.0))
        told = [await ask(route) for _ in range(MIRRORED + 5)]
        sent = len(line(mirrored).sent)
        await route.close()
        return sent, [each.request.trace.notes["ask remote"] for each in told]

    sent, notes = virtually(scene)
    assert sent == MIRRORED
    assert sum("m/m (mirror): left out, 64 are under way" in note for note in notes) == 5


def test_a_mirror_that_ends_after_its_request_comes_to_the_same_list() -> None:
    async def scene() -> list[str]:
        mirrored = endpoint("m", status(500, after_s=5.0))
        route = Route([endpoint("a", says("yes"))], mirror=(mirrored, 1.0))
        told = await ask(route)
        before = len(told.calls)
        await route.settle()
        assert before == 1
        return [f"{provider} {outcome}" for provider, _, outcome, *_ in told.calls]

    assert virtually(scene) == ["a ok", "m failed"]


def test_a_mirror_that_runs_when_all_closes_is_ended_and_booked() -> None:
    async def scene() -> Told:
        route = Route([endpoint("a", says("yes"))], mirror=(endpoint("m", hangs()), 1.0))
        told = await ask(route)
        await route.close()
        return told

    assert ("m", "mirror", "cancelled", 5.0, 0.0, "estimate") in virtually(scene).calls
