"""Prompts by part, versions side by side, values from anywhere, and two templates in turns on a virtual clock."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tauten as tt
from improve.kit_golden import SHOTS, fixed_shots, shots
from improve.kit_prompts import ASK, FIRST_MS, TOKEN_MS, WordReader, asked, items, long_enough, told
from tauten.clock import run_virtual
from tauten.describe.template import parse
from tauten.errors import InputError, PlanError, WorkflowError
from tauten.improve.compress.forms import StoredForms
from tauten.improve.prompts.comparison import Comparison, arm, document, figures, verdict
from tauten.improve.prompts.difference import difference
from tauten.improve.prompts.folder import in_folder, read
from tauten.improve.prompts.parts import PARTS, counted, preview
from tauten.improve.prompts.screen import comparison_text, difference_text, list_text, preview_text
from tauten.improve.prompts.swap import with_template
from tauten.improve.prompts.trial import Arm, Took, cents, trial
from tauten.improve.prompts.values import asking, chosen, given, pick
from tauten.improve.recording import Label
from tauten.models.store import Store
from tauten.plan.plan import ModelChoice
from tauten.run.engine import Engine
from tauten.run.reading import asked as wanted
from tauten.run.reading import prompt_reader
from tauten.run.trace import Trace
from tauten.run.usage.call import Call

GIVEN = {"passage": "A passage of five words", "question": "Why?"}


# -- parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strips", [False, True])
def test_the_parts_add_up_to_the_whole(strips: bool) -> None:
    found = preview(parse(SHOTS, "shots.md"), dict(GIVEN), WordReader(strips=strips), "words")
    assert found.tokens.parts is not None
    assert sum(found.tokens.parts.values()) == found.tokens.total == len(found.text.split())
    assert set(found.tokens.parts) == set(PARTS)
    assert found.tokens.parts["variables"] == 6
    assert found.tokens.parts["system"] == len(
        "Answer from the passage. Write one whole sentence of at most twenty words.".split()
    )
    assert found.tokens.examples is not None
    assert sum(found.tokens.examples.values()) == found.tokens.parts["examples"]
    assert set(found.tokens.examples) == {"loop", "file"}
    assert found.tokens.unchanged == found.text.split().index("A"), "what stands before the first value"
    assert found.values == GIVEN


def test_the_text_is_what_the_reader_makes_of_it() -> None:
    template = parse("[system]\nBe brief.\n[user]\n{{ q }}")
    found = preview(template, {"q": "why?"}, WordReader(), "words")
    assert found.text == "<system> Be brief. <end> <user> why? <end> <say>"
    assert found.tokens.parts == {"system": 2, "examples": 0, "text": 0, "variables": 1, "marks": 5}


def test_a_tokenizer_that_rewrites_the_text_gives_a_total_and_no_parts() -> None:
    template = parse("{{ q }}")
    found = preview(template, {"q": "why not?"}, WordReader(spells=False), "words")
    assert (found.tokens.total, found.tokens.parts, found.tokens.unchanged) == (5, None, None)
    assert "not known" in preview_text(found)


def test_a_chat_template_that_drops_a_message_gives_no_parts() -> None:
    class Dropping(WordReader):
        def _message(self, message: Any) -> str:
            return "" if message["role"] == "system" else super()._message(message)

    _, tokens = counted(parse("[system]\nBe brief.\n[user]\nWhy?").fixed_spans, Dropping())
    assert (tokens.parts, tokens.total) == (None, 4)


def test_a_raw_completion_has_parts_too() -> None:
    _, tokens = counted(parse(ASK).spans({"question": "why not?"}), WordReader())
    assert tokens.parts == {"system": 0, "examples": 6 + 13, "text": 4 + 2, "variables": 2, "marks": 0}
    assert tokens.examples == {"sky": 6, "grass": 13}


def test_a_preview_on_the_screen_is_the_text_and_its_parts() -> None:
    template = parse(SHOTS, "shots.md")
    text = preview_text(preview(template, dict(GIVEN), WordReader(), "words", ["question"]))
    assert "samples stand for question" in text
    assert "short answers" in text
    assert "<system> Answer from the passage." in text
    assert "loop" in text


# -- versions --------------------------------------------------------------------------------------------------


def test_two_versions_differ_in_lines_and_tokens() -> None:
    before = parse(SHOTS, "a.md")
    after = parse(SHOTS.replace("It is an ordinary variable of the function.\n", "\n"), "b.md")
    found = difference(before, after, WordReader(), "words")
    assert not found.same
    assert found.tokens == -8
    assert found.parts is not None
    assert {part: count for part, count in found.parts.items() if count} == {"examples": -8}
    assert any(line.startswith("-Unlike in C") for line in found.lines)
    assert "-8, without values" in difference_text(found)


def test_the_same_version_has_no_difference() -> None:
    found = difference(parse(SHOTS, "a.md"), parse(SHOTS, "b.md"), WordReader(), "words")
    assert (found.same, found.tokens, found.lines) == (True, 0, [])
    assert "the same version" in difference_text(found)


# -- where templates and values are found ------------------------------------------------------------------------


def test_a_folder_lists_templates_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text(SHOTS)
    (tmp_path / "old.md").write_text("[user]\n{{ x }}")
    (tmp_path / "README.md").write_text("# Not one\n\nwith {{ braces }}\n")
    (tmp_path / "bad.md").write_text("+++\nname = 3\n+++\nx")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.md").write_text(SHOTS)
    found = {each.place: each for each in in_folder(tmp_path)}
    assert sorted(found) == ["bad.md", "good.md", "old.md"]
    assert found["good.md"].variables == {"passage": "text", "question": "text"}
    assert (found["good.md"].examples, found["good.md"].formats[0]) == (["loop", "file"], "sentence")
    assert found["old.md"].variables == {"x": "any"}
    assert "E108 bad.md:2" in found["bad.md"].problem
    assert "E108" in list_text(list(found.values()))
    with pytest.raises(InputError, match="no folder"):
        in_folder(tmp_path / "none")
    with pytest.raises(InputError, match="cannot read") as caught:
        read(tmp_path / "none.md")
    assert caught.value.code == "E203"


def test_values_come_from_the_command_line_then_the_request_then_samples() -> None:
    template = parse(
        '+++\n[variables]\na = { type = "number", sample = 1 }\nb = { sample = "B" }\nc = "text"\n+++\n{{ a }} {{ b }} {{ c }}'
    )
    values, sampled = chosen(template, {"a": "2"}, {"c": tt.Text("C"), "other": "x"})
    assert (values["a"], values["b"], values["c"].text, sampled) == (2, "B", "C", ["b"])
    with pytest.raises(InputError, match="no variable `d`"):
        chosen(template, {"d": "2"}, {})
    with pytest.raises(WorkflowError, match=r"\{\{ c \}\} has no value") as caught:
        chosen(template, {}, {})
    assert (caught.value.code, caught.value.where) == ("E103", "template:7")


def test_the_steps_of_a_workflow_that_ask_are_found_with_their_settings() -> None:
    assert set(asking(shots)) == {"generate"}
    assert pick(fixed_shots, "").template.choice == ("words", ("file",))
    plan = told(without_examples=["sky"])
    assert pick(asked, "generate", plan).template.examples == ("sky", "grass")
    assert pick(asked, "generate", plan).template.choice.without == ("sky",)
    with pytest.raises(InputError, match="no step 'x'"):
        pick(shots, "x")

    @tt.workflow
    async def free(x: tt.Text) -> tt.Text:
        return x

    with pytest.raises(PlanError) as caught:
        pick(free, "")
    assert caught.value.code == "E132"


def test_what_a_request_gives_a_step_is_seen_by_running_it() -> None:
    @tt.stage(pure=True, inline=True)
    def shout(question: tt.Text) -> tt.Text:
        return tt.Text(question.text.upper())

    @tt.workflow
    def loud(question: tt.Text) -> tt.Stream[tt.Text]:
        return tt.generate(
            "{{ words }} {{ said }} {{ times }}", words=shout(question), said=question, times=3
        )

    plan = told()
    found = pick(loud, "", plan)
    values = asyncio.run(given(loud, plan, found.step, loud.bind(question="why?")))
    assert (values["words"].text, values["said"].text, values["times"]) == ("WHY?", "why?", 3)


# -- in turns --------------------------------------------------------------------------------------------------


def arms() -> list[Arm]:
    """The workflow's own template, and one without its longer example."""
    shorter = parse(ASK.replace("Q: What is green, and grows wherever it is left alone?\n", ""), "shorter.md")
    found = []
    for name, template in (("own", parse(ASK)), ("shorter", shorter)):
        workflow = with_template(asked, "generate", template)
        assert workflow.graph is not None
        found.append(
            Arm(name, workflow, msgspec.structs.replace(told(), graph=workflow.graph.hash), "generate")
        )
    return found


def tried(count: int = 6, wanted: int = 3, rounds: int = 1, **more: Any) -> list[list[Took]]:
    async def main() -> list[list[Took]]:
        async with Engine(clock=asyncio.get_running_loop().time) as engine:
            return await trial(
                engine, arms(), items(count, wanted), rounds=rounds, metric=long_enough, **more
            )

    found: list[list[Took]] = run_virtual(main())
    return found


def test_another_template_leaves_the_workflow_as_it_is() -> None:
    before = asked.graph
    other = with_template(asked, "generate", parse("Only {{ question }}", "other.md"))
    assert asked.graph is before
    assert other.graph is not None
    assert before is not None
    assert other.graph.hash != before.hash
    with pytest.raises(WorkflowError, match="never used"):
        with_template(asked, "generate", parse("Nothing"))
    with pytest.raises(WorkflowError, match="not given"):
        with_template(asked, "generate", parse("{{ question }} {{ more }}"))
    with pytest.raises(WorkflowError, match="no format `words`"):
        with_template(fixed_shots, "generate", parse("{{ question }} {{ passage }}"))


def test_each_request_is_run_under_each_template() -> None:
    own, shorter = tried(rounds=2)
    assert [each.item for each in own] == [f"item {number}" for number in range(6)] * 2
    assert [each.item for each in shorter] == [each.item for each in own]
    fewer = {one.tokens_in - other.tokens_in for one, other in zip(own, shorter, strict=True)}
    assert fewer == {11.0}, "the words of its question"
    assert {each.tokens_out for each in own} == {3.0}
    assert {each.score for each in own} == {1.0}
    assert all(each.ms == pytest.approx(FIRST_MS + 3 * TOKEN_MS, abs=1.0) for each in own)
    assert all(each.first_ms == pytest.approx(FIRST_MS + TOKEN_MS, abs=1.0) for each in own)
    assert {each.cents for each in own} == {None}, "nobody knows a price"


def test_differences_are_paired_and_stand_beside_what_was_counted() -> None:
    own, shorter = tried()
    found = {each.what: each for each in figures(own, shorter, foretold_in=-11.0)}
    tokens = found["tokens in"]
    assert (tokens.n, tokens.diff, tokens.low, tokens.high, tokens.foretold) == (
        6,
        -11.0,
        -11.0,
        -11.0,
        -11.0,
    )
    assert tokens.a - tokens.b == pytest.approx(11.0)
    assert found["tokens out"].diff == 0.0
    assert "cost" not in found


def test_what_is_foretold_counts_for_the_requests_that_come_to_the_step() -> None:
    own, shorter = tried(count=4)
    own = [msgspec.structs.replace(each, asked=each.item in ("item 0", "item 1")) for each in own]
    assert [each.asked for each in shorter] == [True] * 4
    (tokens, *_) = figures(own, shorter, foretold_in=-11.0)
    assert (tokens.what, tokens.foretold) == ("tokens in", -5.5)


def called(model: str, **more: Any) -> Call:
    content: dict[str, Any] = {"units": {"input_tokens": 5.0}, "outcome": "ok", **more}
    return Call(step="generate", provider="far", model=model, started=0.0, ended=1.0, **content)


def test_a_cost_is_that_of_all_calls_or_not_known() -> None:
    def price(call: Call) -> float | None:
        return 0.01 * call.units["input_tokens"] if call.model == "told" else None

    def cost(*calls: Call) -> float | None:
        trace = Trace(0.0)
        trace.provider_calls.extend(calls)
        return cents(trace, price)

    assert cost() is None, "nothing was bought"
    assert cost(called("told"), called("told", why="retry")) == pytest.approx(0.1)
    assert cost(called("told"), called("other")) is None
    assert cost(called("told"), called("other", outcome="refused")) == pytest.approx(0.05)
    assert cost(called("told"), called("told", counted="none")) is None
    assert cost(called("told"), called("told", units={})) is None
    assert cents(Trace(0.0), None) is None


def test_a_cost_is_compared_where_it_is_known_of_every_request() -> None:
    own, shorter = tried(count=3)
    cheap = [msgspec.structs.replace(each, cents=0.1) for each in shorter]
    dear = [msgspec.structs.replace(each, cents=0.3) for each in own]
    found = {each.what: each for each in figures(dear, cheap)}
    assert found["cost"].diff == pytest.approx(-0.2)
    assert "cost" not in {each.what for each in figures([*own[:1], *dear[1:]], cheap)}


def test_the_verdict_is_that_of_the_gate() -> None:
    own, shorter = tried(count=8)
    found = verdict(own, shorter, 0.05)
    assert found is not None
    assert (found.decision, found.n, found.loss) == ("cannot conclude", 8, 0.0)
    worse = [msgspec.structs.replace(each, score=0.0) for each in shorter]
    rejected = verdict(own, worse, 0.05)
    assert rejected is not None
    assert (rejected.decision, len(rejected.bad_flips)) == ("reject", 8)
    assert verdict([msgspec.structs.replace(each, score=None) for each in own], worse, 0.05) is None


def test_answers_to_one_topic_count_once() -> None:
    own, shorter = tried(count=4)
    one_topic = verdict(own, shorter, 0.05, dict.fromkeys((each.item for each in own), "one"))
    assert one_topic is not None
    assert one_topic.method == "BCa bootstrap"


def test_a_request_that_fails_is_in_no_mean() -> None:
    own, shorter = tried(count=3)
    shorter[0] = msgspec.structs.replace(shorter[0], error="E405 gone", tokens_in=0.0)
    found = {each.what: each for each in figures(own, shorter)}
    assert (found["tokens in"].n, found["tokens in"].diff) == (2, -11.0)
    assert found["tokens in"].low is None, "two are too few for an interval"
    assert arm("b", "1", shorter).failed == 1


def test_rounds_of_an_item_are_one_observation() -> None:
    """Three items asked five times each know no more of other items than three."""

    def took(item: int, round: int) -> Took:
        return Took(
            item=f"q{item}",
            asked=True,
            tokens_in=1.0,
            tokens_cached=0.0,
            tokens_out=1.0,
            cut=0.0,
            ms=100.0 * item + round,
            first_ms=None,
            cents=None,
            score=None,
        )

    few = arm("a", "1", [took(item, round) for item in range(3) for round in range(5)])
    assert [(each.ms, each.low_ms) for each in few.times] == [(102.0, None), (204.0, None)]
    median = arm("a", "1", [took(item, round) for item in range(8) for round in range(5)]).times[0]
    assert (median.low_ms, median.ms, median.high_ms) == (0.0, 304.0, 704.0)


def comparison(**more: Any) -> Comparison:
    own, shorter = tried(count=4)
    content: dict[str, Any] = {
        "workflow": "asked",
        "stage": "generate",
        "recording": "told",
        "machine": "here",
        "rounds": 1,
        "seed": 0,
        "arms": [arm("own", "1", own), arm("shorter", "2", shorter)],
        "figures": figures(own, shorter, -11.0),
        "verdict": verdict(own, shorter, 0.05),
        **more,
    }
    return Comparison(**content)


def test_a_comparison_on_the_screen_and_for_programs() -> None:
    found = comparison(notes=["cost: no price is known"])
    text = comparison_text(found)
    assert all(len(line) <= 96 for line in text.splitlines()), text
    assert "-11 (-11 to -11), foretold -11" in text
    assert "cannot conclude, n >= " in text
    assert "no price is known" in text
    told_to_programs = document(found)
    assert (told_to_programs["schema"], told_to_programs["exit_code"]) == ("tauten.prompts.bench/1", 4)
    assert msgspec.json.encode(told_to_programs)


def test_without_labels_failures_decide() -> None:
    before, after = comparison(verdict=None).arms
    assert comparison(verdict=None).exit_code == 0
    failing = msgspec.structs.replace(after, failed=1)
    assert comparison(verdict=None, arms=[before, failing]).exit_code == 5
    assert "no verdict" in comparison_text(comparison(verdict=None))


def test_items_without_a_label_are_run_and_not_scored() -> None:
    unlabelled = [msgspec.structs.replace(each, label=Label()) for each in items(2)]

    async def main() -> list[list[Took]]:
        async with Engine(clock=asyncio.get_running_loop().time) as engine:
            return await trial(engine, arms(), unlabelled, metric=long_enough)

    own, _ = run_virtual(main())
    assert [each.score for each in own] == [None, None]


# -- the tokenizers of a store ---------------------------------------------------------------------------------


def test_a_model_that_is_not_here_counts_nothing(tmp_path: Path) -> None:
    forms = StoredForms(Store(tmp_path))
    assert forms.counted(ModelChoice(model="smollm2-135m-instruct", backend="llm"), "why?") is None
    assert forms.counted(ModelChoice(model="told", backend="synthetic_slots"), "why?") is None


@pytest.mark.models
def test_a_model_that_is_here_counts_texts_and_messages_with_their_marks() -> None:
    choice = ModelChoice(model="smollm2-135m-instruct", backend="llm")
    forms, template = StoredForms(Store()), parse(SHOTS)
    reader = prompt_reader(Store(), choice.backend, choice.model)
    assert reader is not None
    assert forms.counted(choice, "") == 0
    assert forms.counted(choice, "why not?") == reader.count("why not?") > 1
    whole, shorter = (
        forms.counted(choice, each.fixed) for each in (template, template.choose(without=["loop"]))
    )
    assert whole == reader.read(wanted(template.fixed)).tokens
    assert shorter is not None
    assert whole is not None
    loop = counted(template.fixed_spans, reader)[1].examples
    assert loop is not None
    assert whole - shorter > loop["loop"], "the marks of its two messages go with it"
