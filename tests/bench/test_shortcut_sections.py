"""Each section of the shortcuts in a tiny run with stand-ins: its form, its sums, and checks that can fail."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import functools
import importlib
import random
from collections import Counter
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from bench.kit_shortcuts import (
    Peer,
    embed,
    embed_all,
    embedding,
    form,
    measured,
    rows,
    section,
    vector,
    verdicts,
)
from headlines.kit_headlines import how
from tauten.describe.payload import Text
from tauten.examples.paraphrases import Pair, pairs
from tauten.improve.labelled import TOPIC
from tauten.improve.recording import Item, Label
from tauten.statistics import clopper_pearson, needed_items

judging, repeats, trace = (
    importlib.import_module(f"bench.shortcuts.{name}") for name in ("judging", "repeats", "trace")
)
environments = importlib.import_module("bench.ground.environments")

pytestmark = pytest.mark.usefixtures("undisturbed")


def pair(kind: str, kept: str, asked: str) -> Pair:
    return Pair("dev", "made", kind, kept, asked)


PAIRS = [
    pair("paraphrase", "How do I open a file?", "How can I open a file?"),
    pair("negation", "How do I open a file?", "How do I close a file?"),
    pair("paraphrase", "Is a list sorted?", "Are lists sorted?"),
]


# -- what hits were ---------------------------------------------------------------------------------------


def test_hits_are_judged_by_the_pairs_and_what_no_pair_speaks_of_is_wrong() -> None:
    judge = judging.Judge(PAIRS)
    assert judge.asked == ["How can I open a file?", "How do I close a file?", "Are lists sorted?"]
    found = judge.figures(["How do I open a file?", "How do I open a file?", "How do I open a file?"])
    assert (found["hits"], found["wrong"], found["error"]) == (3, 2, 2 / 3)
    assert found["hit_rate"] == 1 / 2, "right hits of the paraphrases"
    assert found["bound"] == clopper_pearson(2, 3, 0.95, 1).high
    assert found["needed"] == needed_items(0.02, 0.05, 2)
    assert "“How do I close a file?” got “How do I open a file?”" in found["wrong_ones"]
    none = judge.figures([None, None, None])
    assert (none["hits"], none["hit_rate"], none["error"], none["bound"]) == (0, 0.0, None, None)
    assert judge.figures([None, "How do I close a file?", None])["wrong"] == 0, "equal words are no likeness"


def test_149_hits_without_an_error_prove_two_percent() -> None:
    assert judging.bound(0, 149) <= 0.02 < judging.bound(0, 148)
    assert judging.bound(1, 149) > 0.02


# -- exact_hit --------------------------------------------------------------------------------------------


def test_an_exact_hit_is_measured_at_the_api_in_process_and_at_peers() -> None:
    """A server of ours, a Redis server where there is one, and stand-ins for the caches that others make."""
    module = section("exact_hit")

    @asynccontextmanager
    async def peer(name: str) -> Any:
        if name == "gone":
            raise environments.CannotInstall("no such package")
        yield Peer(wrong=2 * (name == "worse"))

    few = module.Parts(peer, ("other", "worse", "gone"), embed_all, 0.02)
    found = measured("exact_hit", few)
    by = {row.name: row for row in found.rows}
    assert [
        name for name, row in by.items() if row.reason and "edis" not in name and "called" not in name
    ] == []
    for name in (module.UNCACHED, module.API["in_memory"], module.API["on_disk"]):
        assert by[name].get("errors") == 0
        assert by[name].get("p50_us") > 0
    assert by[module.NEAR].get("missed") == 0
    assert by["other hit, called"].get("p50_us") == 5.0
    assert "2 of 64" in by["worse hit, called"].reason
    assert "no such package" in by["gone hit, called"].reason
    seen = verdicts(found.checks)
    assert seen["requests that failed at the API"] is True
    assert seen["lookups in memory that missed"] is True
    assert "our hit in process over: other hit, called" in seen
    assert not any("gone" in name for name in seen)


def test_a_slow_hit_is_a_missed_check() -> None:
    module = section("exact_hit")
    made = {module.UNCACHED: {"p50_us": 401_000.0}, module.API["in_memory"]: {"p50_us": 1_300.0, "p99_us": 2_000.0, "errors": 1.0},
            module.NEAR: {"p50_us": 30.0, "missed": 3.0}, module.PLAIN_NEAR: {"p50_us": 20.0}}  # fmt: skip
    checks = module.judged(0.4, rows(**made))
    assert set(verdicts(checks).values()) == {False}
    assert checks[-1].seen == 1.5
    assert set(verdicts(module.judged(0.4, form.Rows())).values()) == {None}


def test_a_lookup_that_misses_is_counted_and_one_that_gives_something_else_is_refused() -> None:
    lookups = importlib.import_module("bench.shortcuts.lookups")

    async def never(number: int) -> Any:
        raise lookups.Missed("gone")

    found = asyncio.run(lookups.timed(never, 7))
    assert found["missed"] == 7

    async def other(number: int) -> Any:
        return "another answer"

    with pytest.raises(lookups.Missed, match="found another answer"):
        asyncio.run(lookups._check(other, str))


# -- semantic_hits ----------------------------------------------------------------------------------------


def semantic(**more: Any) -> Any:
    @asynccontextmanager
    async def peer(name: str) -> Any:
        if name == "gone":
            raise environments.CannotInstall("no such package")
        yield Peer()

    module = section("semantic_hits")
    few = {"held_out": lambda: pairs("held_out")[:60], "dev": lambda: pairs("dev")[:60]}
    return module.Parts(**{**few, "embed": embed_all, "peer": peer, "peers": ("other", "gone"), **more})


def test_paraphrases_and_traps_are_asked_of_every_cache() -> None:
    found = measured("semantic_hits", semantic())
    by = {row.name: row for row in found.rows}
    module = section("semantic_hits")
    ours, loose = by[module.OURS], by[module.cosine_name(0.70)]
    assert ours.get("hits") > 0
    assert loose.get("wrong") > 0, "likeness of words alone takes traps"
    assert loose.get("error") == pytest.approx(loose.get("wrong") / loose.get("hits"))
    hits = [by[module.cosine_name(each)].get("hits") for each in module.THRESHOLDS]
    assert all(one >= other for one, other in pairwise(hits))
    assert by["other, its default threshold"].get("p50_us") == 7.0
    assert "no such package" in by["gone, its default threshold"].reason
    assert found.conditions["kept questions"] + found.conditions["asked questions"] > 60
    enough = "our hits on the held-out half, against those that prove 2 %"
    assert verdicts(found.checks)[enough] is False, "sixty pairs prove nothing"
    assert found.curves["error among hits over paraphrases answered"]


def test_a_gate_without_evidence_lets_nothing_pass() -> None:
    module = section("semantic_hits")
    found = measured("semantic_hits", semantic(dev=lambda: PAIRS, peers=()))
    gated = [row for row in found.rows if "a gate at" in row.name]
    assert len(gated) == len(module.GATED)
    assert [row.get("hits") for row in gated] == [0.0, 0.0]
    assert all("labelled hits" in row.note for row in gated)


def test_the_tuned_threshold_is_the_least_that_keeps_the_error() -> None:
    module = section("semantic_hits")
    kept = "now open the file please"
    few = [
        pair("paraphrase", kept, "please open the file now"),
        pair("negation", kept, "please close the file now"),
    ]
    judge = judging.Judge(few)
    texts = {text: vector(text) for each in few for text in (each.kept, each.asked)}
    chosen = module.tuned(judge, texts)
    cache = module.Cosine(judge, texts)
    above = [(cache.nearest(asked), asked) for asked in judge.asked]
    wrong = [asked for (score, kept), asked in above if score >= chosen and not judge.right(kept, asked)]
    assert not wrong
    traps = judging.Judge([pair("negation", "Turn it on now", "Turn it off now")])
    both = {text: vector(text) for text in ("Turn it on now", "Turn it off now")}
    assert module.tuned(traps, both) is None


def test_the_promise_needs_enough_hits_and_few_errors() -> None:
    module = section("semantic_hits")
    good = module.judged(rows(**{module.OURS: {"hits": 180, "wrong": 0, "bound": 0.0165}}))
    bad = module.judged(rows(**{module.OURS: {"hits": 180, "wrong": 1, "bound": 0.026}}))
    assert set(verdicts(good).values()) == {True}
    assert set(verdicts(bad).values()) == {False}
    assert bad[0].bound == 236


# -- document_chat ----------------------------------------------------------------------------------------

ASKED = [("open", "How do I open a file?"), ("sort", "How do I sort a list?"), ("open", "How do I open a file?"),
         ("open", "How can I open a file?"), ("sort", "How do I sort a list?")]  # fmt: skip


def chat_parts(answer: Any) -> Any:
    module = section("document_chat")

    async def full(question: str) -> str:
        await asyncio.sleep(0)
        return str(answer(question))

    @asynccontextmanager
    async def chat() -> Any:
        yield module.Chat(full, embed, "words")

    def items() -> list[Any]:
        seen: Counter[str] = Counter()
        found = []
        for place, (topic, question) in enumerate(ASKED):
            came = "repeated" if seen[question] else "reworded" if seen[topic] else "first"
            seen.update({question, topic})
            render = lambda question=question: {"question": Text(question)}  # noqa: E731
            found.append(Item(id=f"{place}", render=render, label=Label(), tags=(came, f"{TOPIC}{topic}")))
        return found

    def metric(given: Text, item: Any) -> float:
        return float(given.text == f"about {item.tags[1]}")

    return module.Parts(chat, items, metric)


def topic_of(question: str) -> str:
    return f"about {TOPIC}{'open' if 'open' in question else 'sort'}"


def test_the_chat_is_answered_out_of_each_layer() -> None:
    found = measured("document_chat", chat_parts(topic_of))
    by = {row.name: row for row in found.rows}
    counts = {name: [by[name].get(key) for key in ("computed", "memory", "semantic")] for name in by}
    assert counts == {"no cache": [5, 0, 0], "exact": [3, 2, 0], "exact and semantic": [2, 2, 1]}
    assert {row.get("right") for row in found.rows} == {1.0}
    assert {row.get("other_topic") for row in found.rows} == {0.0}
    assert by["no cache"].get("memory_p50_ms") is None
    assert (
        found.conditions["asked word for word before"],
        found.conditions["asked before in other words"],
    ) == (2, 1)
    seen = verdicts(found.checks)
    assert seen["right answers lost to both caches"] is True
    assert seen["hits about another topic"] is True


def test_a_chat_that_loses_right_answers_is_a_missed_check() -> None:
    module = section("document_chat")
    lost = {"no cache": {"right": 0.9, "computed_p50_ms": 100.0, "mean_ms": 100.0},
            "exact": {"memory_p50_ms": 10.0},
            "exact and semantic": {"right": 0.8, "semantic_p50_ms": 50.0, "mean_ms": 120.0, "other_topic": 2.0}}  # fmt: skip
    assert set(verdicts(module.judged(rows(**lost))).values()) == {False}
    assert set(verdicts(module.judged(form.Rows())).values()) == {None}


# -- repeat_rate ------------------------------------------------------------------------------------------


def test_requests_resemble_earlier_ones_as_often_as_is_said() -> None:
    known = pairs("held_out")
    for rate in (0.0, 0.3, 0.5):
        found = repeats.requests(known, rate, 150, "1")
        assert found == repeats.requests(known, rate, 150, "1") != repeats.requests(known, rate, 150, "2")
        seen: set[str] = set()
        meant: set[str] = set()
        for each in found:
            assert (each.question in seen) is (each.came == "repeated")
            assert (each.meaning in meant) is (each.came != "first")
            seen.add(each.question)
            meant.add(each.meaning)
        again = sum(each.came != "first" for each in found) / len(found)
        assert again == pytest.approx(rate, abs=0.12)
    assert any(each.came == "reworded" for each in repeats.requests(known, 0.5, 150, "1"))
    with pytest.raises(ValueError, match="need more than"):
        repeats.requests(PAIRS, 0.0, 50, "1")


def test_what_repeats_is_not_computed_again() -> None:
    module = section("repeat_rate")
    found = measured("repeat_rate", module.Parts(embedding, lambda: pairs("held_out"), 0.0))
    by = {row.name: row for row in found.rows}
    assert len(by) == len(module.RATES) * len(module.LAYERS)
    for rate in module.RATES:
        for layers in module.LAYERS:
            row = by[module.row_name(layers, rate)]
            assert row.get("computed") + row.get("memory") + row.get("semantic") == module.QUICK_REQUESTS
            assert row.get("memory") <= row.get("repeated")
            cents = found.conditions["cents of a call"]
            assert row.get("cents") == pytest.approx(
                1000 * cents * row.get("computed") / module.QUICK_REQUESTS
            )
    assert by["0%, exact"].get("computed") == module.QUICK_REQUESTS
    assert by["50%, exact"].get("computed") < module.QUICK_REQUESTS
    assert {by[module.row_name(layers, 0.5)].get("wrong") for layers in ("no cache", "exact")} == {0.0}
    assert set(found.curves) == {
        "mean latency over the share of repeats",
        "cents a thousand requests over the share of repeats",
    }


def test_caches_that_save_nothing_are_a_missed_check() -> None:
    module = section("repeat_rate")
    same = {module.row_name(layers, rate): {"mean_ms": 100.0, "cents": 20.0, "wrong": 1.0}
            for layers in module.LAYERS for rate in module.RATES}  # fmt: skip
    seen = verdicts(module.judged(rows(**same)))
    assert seen["half repeats: cents with an exact cache, of those without"] is False
    assert seen["half repeats: mean with both caches, of that without"] is False
    assert seen["wrong answers of both caches at all shares"] is False
    assert seen["no repeats: mean with both caches, of that without"] is True


def spread(row: Any, key: str, high: float) -> None:
    row.figures[key] = {"median": 0.0, "low": 0.0, "high": high, "rounds": 5}


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("repeat_rate", "wrong", "wrong answers of both caches at all shares"),
        ("document_chat", "other_topic", "hits about another topic"),
        ("exact_hit", "errors", "requests that failed at the API"),
        ("exact_hit", "missed", "lookups in memory that missed"),
    ],
)
def test_what_went_wrong_in_one_round_of_five_is_not_lost_in_a_median(name: str, key: str, said: str) -> None:
    module = section(name)
    label = {
        "wrong": lambda: module.row_name(module.BOTH, 0.5),
        "other_topic": lambda: module.BOTH,
        "errors": lambda: module.API["in_memory"],
        "missed": lambda: module.NEAR,
    }[key]()
    judged = functools.partial(module.judged, 0.4) if name == "exact_hit" else module.judged
    for high, met in ((0.0, True), (2.0, False)):
        found = rows(**{label: {}})
        spread(found[label], key, high)
        assert verdicts(judged(found))[said] is met


# -- modality_cache ---------------------------------------------------------------------------------------

FACTS = {"text": trace.Fact(300, 350, 400.0), "embedding": trace.Fact(1536, 50, 5.0),
         "image": trace.Fact(700_000, 90_000, 4.0), "audio": trace.Fact(500_000, 250_000, 2.0)}  # fmt: skip
FEW = {name: trace.Share(60, share.part) for name, share in trace.SHARES.items()}


def test_the_trace_follows_its_law_and_its_seed() -> None:
    found = trace.trace(FACTS, 6_000, "1", FEW)
    assert found == trace.trace(FACTS, 6_000, "1", FEW) != trace.trace(FACTS, 6_000, "2", FEW)
    parts = Counter(each.modality for each in found)
    for name, share in FEW.items():
        assert parts[name] / len(found) == pytest.approx(share.part, abs=0.03)
    first = Counter(each.key for each in found[:600] if each.modality == "text").most_common()
    assert first[0][1] > 3 * first[len(first) // 2][1], "few are asked for often"
    last = Counter(each.key for each in found[-600:] if each.modality == "text")
    assert [key for key, _ in first[:10]] != [key for key, _ in last.most_common(10)], "and others later"
    large = max(found, key=lambda each: each.held_bytes)
    ratio = large.held_bytes / FACTS[large.modality].held_bytes
    assert large.cost_ms == pytest.approx(ratio * FACTS[large.modality].cost_ms, rel=0.01)


def test_the_one_lru_is_one() -> None:
    """Against a list that is searched."""
    module = section("modality_cache")
    rng = random.Random(3)
    things = [trace.Thing(f"{n}".encode(), "text", rng.randrange(1, 900), 1, 1.0) for n in range(30)]
    cache, kept = module.Lru(5_000), list[Any]()

    async def step(thing: Any) -> None:
        hit = thing in kept
        if hit:
            kept.remove(thing)
        kept.append(thing)
        while sum(each.held_bytes + module.ENTRY_BYTES for each in kept) > 5_000:
            kept.pop(0)
        assert await cache.hit(thing) is hit
        assert cache.used_bytes == sum(each.held_bytes + module.ENTRY_BYTES for each in kept)

    async def run() -> None:
        for _ in range(2_000):
            await step(rng.choice(things))

    asyncio.run(run())


def test_the_trace_is_played_through_every_cache() -> None:
    module = section("modality_cache")

    async def facts() -> Any:
        return FACTS

    found = measured("modality_cache", module.Parts(facts, FEW))
    assert len(found.rows) == len(module.MAKES) * len(module.SIZES_MB)
    for row in found.rows:
        assert 0.0 < row.get("hit_ratio") < 1.0
        assert 0.0 <= row.get("saved_share") <= 1.0
    whole = [row for row in found.rows if row.name.endswith(f"{module.SIZES_MB[-1]} MB")]
    first = {row.get("fetched_mb") for row in whole if row.name.startswith(("one LRU", "ours,"))}
    assert len(first) == 1, "where all fits, all caches hold the same"
    assert {line.name for line in found.curves["hits over the size of the cache"]} == set(module.MAKES)


def test_the_sums_of_a_trace() -> None:
    module = section("modality_cache")
    things = [trace.Thing(b"a", "text", 10, 5, 30.0), trace.Thing(b"b", "image", 10, 7_000_000, 10.0)]
    found = asyncio.run(module.play(module.Lru(10_000), [things[0], things[1], things[0], things[0]]))
    assert (found["hit_ratio"], found["fetched_mb"]) == (0.5, 7.000005)
    assert found["saved_share"] == 60.0 / 100.0
    assert (found["text_hits"], found["image_hits"], found["audio_hits"]) == (2 / 3, 0.0, None)


def test_what_beats_one_lru_is_said_and_what_does_not_is_missed() -> None:
    module = section("modality_cache")

    def seen(ours: float, hits: float) -> set[Any]:
        made = {module.row_name(module.LRU, 256): {"fetched_mb": 100.0, "hit_ratio": 0.5, "saved_share": 0.5},
                module.row_name(module.OURS, 256): {"fetched_mb": ours, "hit_ratio": hits, "saved_share": hits}}  # fmt: skip
        return set(verdicts(module.judged(rows(**made))).values())

    assert seen(70.0, 0.6) == {True}
    assert seen(90.0, 0.4) == {False}


# -- prefix_cache -----------------------------------------------------------------------------------------


def test_the_prefix_is_read_once_a_round() -> None:
    log: list[Any] = []
    module = section("prefix_cache")
    found = measured("prefix_cache", module.Parts(lambda settings: how(log, quick=settings.quick)), count=2)
    by = {row.name: row for row in found.rows}
    assert by["on"].get("computed") < by["off"].get("computed") / 2
    assert by["on"].get("later_ms") < by["off"].get("later_ms") / 2
    assert 0.5 < by["on"].get("found") < 1.0
    assert by["off"].get("found") == 0.0
    prompts = {each["messages"][0]["content"] for each in log if "messages" in each}
    assert len(prompts) == 2, "each round has a prompt of its own"
    first = "first token of later questions, of that without"
    assert verdicts(found.checks)[first] is True
    assert verdicts(module.judged(rows(on={"later_ms": 9.0}, off={"later_ms": 10.0})))[first] is False


def test_a_measurement_that_is_repeated_has_another_prompt() -> None:
    module = section("prefix_cache")
    turns: list[int] = []

    async def trial(turn: int) -> Any:
        turns.append(turn)
        return {("shared prefix", "share found"): 50.0, ("shared prefix", "tokens computed"): 10.0}

    async def twice() -> Any:
        measure = module._tried(trial)
        await measure(3)
        return await measure(3)

    assert asyncio.run(twice())["found"] == 0.5
    assert turns == [3, 3 + module.AGAIN]
