"""Drawn workflows: types, absence, names, control words, nesting, user types, text and pictures."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NewType

import msgspec
import pytest

import tauten as tt
from kit.virtual import value
from tauten.errors import InputError, StageError, WorkflowError

ran: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@tt.stage(pure=True)
async def words(question: tt.Text) -> tt.Text:
    ran.append("words")
    return question


@tt.stage(pure=True)
async def seen(photo: tt.Json) -> tt.Text:
    ran.append("seen")
    return tt.Text(f"seen {photo.value}")


@tt.stage(pure=True)
async def joined(a: tt.Text, b: tt.Text | None = None, *, sep: str = "+") -> tt.Text:
    return tt.Text(f"{a}{sep}{b}")


@tt.stage(pure=True)
async def size(text: str) -> int:
    ran.append("size")
    return len(text)


@tt.stage(pure=True, inline=True)
def upper(text: str) -> str:
    ran.append(f"upper {text}")
    return text.upper()


@tt.stage
async def broken(text: str) -> str:
    ran.append("broken")
    raise ValueError("no")


@tt.stage(pure=True)
async def split(text: str) -> list[str]:
    return text.split()


def refused(body: Any, code: str, *parts: str) -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        tt.workflow(body)
    error = caught.value
    assert error.code == code, str(error)
    assert error.where.startswith("test_workflow.py:")
    for part in parts:
        assert part in str(error)
    return error


# -- types -----------------------------------------------------------------------------------------------


def test_a_wrong_port_type_names_the_input_that_fits() -> None:
    def drawn(question: tt.Audio, photo: tt.Image) -> tt.Text:
        return tt.ocr(tt.transcribe(question))  # type: ignore[arg-type]

    refused(
        drawn,
        "E102",
        "ocr(image=...) wants Image, but step 'transcribe' gives Text",
        "did you mean ocr(photo)?",
        "inputs in reach: question (Audio), photo (Image)",
    )


def test_calls_that_do_not_fit() -> None:
    def unknown(q: tt.Text) -> tt.Text:
        return joined(q, sepp="-")  # type: ignore[call-arg]

    def missing(q: tt.Text) -> tt.Text:
        return joined()  # type: ignore[call-arg]

    def twice(q: tt.Text) -> tt.Text:
        return joined(q, a=q)  # type: ignore[misc]

    def many(q: tt.Text) -> tt.Text:
        return joined(q, q, q)  # type: ignore[call-arg]

    def setting(q: tt.Text) -> tt.Text:
        return joined(q, sep=words(q))  # type: ignore[arg-type]

    def literal(q: tt.Text) -> int:
        return size(5)  # type: ignore[arg-type]

    def result(q: tt.Text) -> tt.Image:
        return words(q)  # type: ignore[return-value]

    def listed(q: list[tt.Text]) -> tt.Text:
        return words(q)  # type: ignore[arg-type]

    refused(unknown, "E102", "no parameter `sepp`", "did you mean `sep`?")
    refused(missing, "E102", "needs `a` (Text)")
    refused(twice, "E102", "`a` twice")
    refused(many, "E102", "takes 2 inputs (a, b), 3 were given")
    refused(setting, "E102", "is a setting")
    refused(literal, "E102", "wants str, 5 is given")
    refused(result, "E102", "says it returns Image")

    def gathered(q: tt.Text) -> tt.Text:
        return words([q, words(q)])  # type: ignore[arg-type]

    def named(q: tt.Text) -> int:
        return size({"text": q})  # type: ignore[arg-type]

    refused(listed, "E102", "wants Text, but input 'q' gives list[Text]")
    refused(gathered, "E102", "words(question=) wants Text, and a list of ports is given", "list[Text]")
    refused(named, "E102", "wants str, and a dict of ports")


def test_what_is_returned() -> None:
    refused(lambda_none, "E116", "returns nothing")
    refused(lambda_literal, "E116", "returns 5")


def lambda_none(q: tt.Text) -> tt.Text:
    words(q)  # type: ignore[return-value]


def lambda_literal(q: tt.Text) -> int:
    return 5


def test_a_workflow_without_stages() -> None:
    def same(q: tt.Text) -> tt.Text:
        return q

    assert value(tt.workflow(same), "a") == tt.Text("a")


def test_lists_tuples_and_dicts_as_results_and_inputs() -> None:
    @tt.stage(pure=True)
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    @tt.workflow
    def drawn(q: tt.Text) -> dict[Any, Any]:
        a, b = size(q), size(words(q), name="b")
        return {"pair": (a, b), 3: [a, [b]], "sum": total([a, b, 5]), "text": words(q, name="w2")}

    assert value(drawn, "ab") == {"pair": (2, 2), 3: [2, [2]], "sum": 9, "text": tt.Text("ab")}


def test_text_and_str_flow_into_each_other() -> None:
    @tt.workflow
    def drawn(q: tt.Text) -> tt.Text:
        return upper(words(upper(q, name="first")))  # type: ignore[arg-type,return-value]

    assert value(drawn, "ab") == tt.Text("AB")

    @tt.workflow
    def lists(q: str) -> list[tt.Text]:
        return split(q)  # type: ignore[return-value]

    assert value(lists, "a b") == [tt.Text("a"), tt.Text("b")]


Name = NewType("Name", str)


def test_annotations_that_are_not_classes() -> None:
    @tt.stage(pure=True)
    async def typed(word: Literal["a", "b"], name: Name, many: list[list[str]], number: float) -> Any:
        return [word, name, many, number]

    @tt.stage(pure=True)
    async def anything(given: Any) -> str:
        return repr(given)

    @tt.workflow
    def drawn(q: str, many: list[list[str]]) -> str:
        return anything(typed(q, q, many, size(q)))  # type: ignore[arg-type]

    assert value(drawn, "a", [["x"]]) == "['a', 'a', [['x']], 1]"


@dataclasses.dataclass
class Point:
    x: int
    label: str | None = None


class Box(msgspec.Struct):
    corner: Point
    title: str = ""


def test_user_types_as_ports_and_their_fields() -> None:
    @tt.stage(pure=True)
    async def boxed(point: Point) -> Box:
        return Box(point, point.label or "")

    @tt.stage(pure=True)
    async def doubled(x: int) -> int:
        return 2 * x

    @tt.stage(pure=True)
    async def shown(label: str | None) -> str:
        return f"<{label}>"

    @tt.workflow
    def drawn(point: Point) -> dict[str, Any]:
        box = boxed(point)
        return {
            "x": doubled(box.corner.x),
            "label": shown(box.corner.label),
            "title": upper(box.title),
            "own": point.x,
        }

    assert value(drawn, Point(3, "a")) == {"x": 6, "label": "<a>", "title": "A", "own": 3}
    assert value(drawn, Point(3))["label"] == "<None>"

    def optional(point: Point) -> str:
        return upper(boxed(point).corner.label)  # type: ignore[arg-type]

    refused(optional, "E103")

    def unknown(point: Point) -> str:
        return upper(boxed(point).titel)  # type: ignore[attr-defined,no-any-return]

    refused(unknown, "E101", "no field `titel`", "did you mean `title`?")


@dataclasses.dataclass
class Place:
    city: str


@dataclasses.dataclass
class Visit(Place):
    days: int = 1


def test_a_field_that_a_class_inherits_is_a_port() -> None:
    @tt.stage(pure=True)
    async def planned(question: str) -> Visit:
        return Visit(question, 2)

    @tt.workflow
    def drawn(question: str) -> dict[str, Any]:
        visit = planned(question)
        return {"city": upper(visit.city), "days": visit.days}

    assert value(drawn, "rome") == {"city": "ROME", "days": 2}

    def unknown(question: str) -> str:
        return upper(planned(question).ctiy)  # type: ignore[attr-defined,no-any-return]

    refused(unknown, "E101", "did you mean `city`?")


# -- absence ---------------------------------------------------------------------------------------------


def test_an_absent_input_skips_its_stage() -> None:
    @tt.workflow
    def drawn(q: tt.Text, photo: tt.Json | None = None) -> tt.Text:
        return joined(q, seen(photo))  # type: ignore[arg-type]

    assert value(drawn, "q") == tt.Text("q+None")
    assert ran == []
    assert value(drawn, "q", 7) == tt.Text("q+seen 7")


def test_absence_must_have_somewhere_to_go() -> None:
    def drawn(q: tt.Text, photo: tt.Json | None = None) -> tt.Text:
        return joined(seen(photo))  # type: ignore[arg-type]

    def returned(q: tt.Text, photo: tt.Json | None = None) -> tt.Text:
        return seen(photo)  # type: ignore[arg-type]

    def written(q: tt.Text) -> tt.Text:
        return joined(seen(None))  # type: ignore[arg-type]

    refused(drawn, "E103", "step 'seen' is skipped", "joined(a=) is not optional", "tt.default(")
    refused(returned, "E103", "returns Text", "`Text | None`")
    refused(written, "E103")

    @tt.workflow
    def fine(q: tt.Text, photo: tt.Json | None = None) -> tt.Text | None:
        return seen(photo)  # type: ignore[arg-type]

    assert value(fine, "q") is None


def test_default_fills_what_is_absent() -> None:
    @tt.workflow
    def drawn(q: tt.Text, photo: tt.Json | None = None) -> tt.Text:
        return joined(tt.default(seen(photo), "nothing"), words(q))  # type: ignore[arg-type]

    assert value(drawn, "q") == tt.Text("nothing+q")
    assert value(drawn, "q", 1) == tt.Text("seen 1+q")


def test_a_request_without_what_it_needs() -> None:
    @tt.workflow
    def drawn(question: tt.Text, k: int = 3) -> tt.Text:
        return words(question)

    with pytest.raises(InputError, match=r"E205 .*has no input `questoin`") as caught:
        drawn(questoin="x")
    assert "did you mean `question`?" in caught.value.help
    with pytest.raises(InputError, match="E205"):
        drawn()  # type: ignore[call-arg]
    with pytest.raises(InputError, match=r"E205 .*`question` is absent"):
        drawn(None)  # type: ignore[arg-type]


# -- names -----------------------------------------------------------------------------------------------


def test_a_name_is_used_once() -> None:
    def drawn(q: tt.Text) -> tt.Text:
        return words(words(q))

    refused(drawn, "E106", "'words' names two stages", 'name="words_2"')

    @tt.workflow
    def named(q: tt.Text) -> tt.Text:
        return words(words(q), name="again")

    assert named.graph is not None
    assert list(named.graph.stages) == ["words", "again"]


def test_a_parameter_called_name_is_the_stages_own() -> None:
    @tt.stage(pure=True)
    async def greet(name: str, *, end: str = "!") -> str:
        return f"hello {name}{end}"

    @tt.stage(pure=True)
    async def sign(text: str, *, name: str = "nobody") -> str:
        return f"{text}, {name}"

    @tt.workflow
    def drawn(who: str) -> str:
        return sign(greet(name=who), name="Ada")

    assert drawn.graph is not None
    assert list(drawn.graph.stages) == ["greet", "sign"]
    assert value(drawn, "Bob") == "hello Bob!, Ada"
    assert sign("yours", name="Eve") == "yours, Eve"

    @tt.workflow
    def twice(who: str) -> str:
        return greet(greet(who), name="again")  # type: ignore[call-arg]

    assert twice.graph is not None
    assert list(twice.graph.stages) == ["greet", "again"]

    def template(who: tt.Text) -> tt.Stream[tt.Text]:
        return tt.generate("Dear {{ name }},\nwrite.", name=who)

    refused(template, "E102", "generate(name=) is what the step is called", "another name than `name`")


def test_the_hash_knows_graph_and_settings_and_nothing_else() -> None:
    def draw(sep: str = "+", name: str = "joined", extra: bool = False) -> str:
        def drawn(q: tt.Text) -> tt.Text:
            port = joined(q, words(q), sep=sep, name=name)
            return words(port, name="w2") if extra else port

        graph = tt.workflow(drawn).graph
        assert graph is not None
        return graph.hash

    assert draw() == draw()
    assert len({draw(), draw("-"), draw(name="other"), draw(extra=True)}) == 4


# -- control words ---------------------------------------------------------------------------------------


def test_when_runs_only_the_taken_side() -> None:
    @tt.workflow
    def drawn(q: tt.Text) -> tt.Text:
        return tt.when(tt.equals(words(q), "yes"), upper(q), joined(q, upper(q, name="other")))

    assert value(drawn, "yes") == tt.Text("YES")
    assert ran == ["words", "upper yes"]
    ran.clear()
    assert value(drawn, "no") == tt.Text("no+NO")
    assert ran == ["words", "upper no"]


def test_when_without_otherwise_gives_absent() -> None:
    @tt.workflow
    def drawn(q: tt.Text) -> tt.Text | None:
        return tt.when(tt.equals(q, "yes"), words(q))  # type: ignore[no-any-return]

    assert value(drawn, "yes") == tt.Text("yes")
    assert value(drawn, "no") is None
    assert ran == ["words"]

    def strict(q: tt.Text) -> tt.Text:
        return tt.when(tt.equals(q, "yes"), words(q))  # type: ignore[no-any-return]

    refused(strict, "E103")


def test_nested_whens_and_what_their_sides_share() -> None:
    @tt.workflow
    def drawn(q: str) -> str:
        shared = upper(q, name="shared")
        inner = tt.when(tt.equals(q, "a"), upper(shared, name="a"), shared)
        return tt.when(size(q), inner, upper("empty", name="empty"))  # type: ignore[no-any-return]

    assert value(drawn, "a") == "A"
    assert ran == ["size", "upper a", "upper A"]
    ran.clear()
    assert value(drawn, "b") == "B"
    assert ran == ["size", "upper b"]
    ran.clear()
    assert value(drawn, "") == "EMPTY"
    assert ran == ["size", "upper empty"], "what only the untaken side uses does not run"


def test_a_literal_side_is_text_where_text_is_wanted() -> None:
    @tt.workflow
    def drawn(q: tt.Text) -> tt.Text:
        return words(tt.when(tt.equals(q, "yes"), joined(q), "a plain string"))

    assert value(drawn, "no") == tt.Text("a plain string")


def test_conditions_that_are_neither() -> None:
    class Odd:
        def __bool__(self) -> bool:
            raise ValueError("which one?")

    @tt.stage(pure=True)
    async def odd(q: str) -> Any:
        return Odd()

    @tt.workflow
    def drawn(q: str) -> str:
        return tt.when(odd(q), "a", "b")  # type: ignore[no-any-return]

    with pytest.raises(InputError, match="E206"):
        value(drawn, "x")


def cascade(gates: bool) -> Any:
    def step(name: str, q: Any) -> Any:
        port = upper(q, name=name)
        return tt.option(port, gate=tt.equals(port, "A" if name == "small" else "B", name=f"is_{name}"))

    def by_function(name: str, q: Any) -> Any:
        return tt.option(upper(q, name=name), gate=lambda text: text == ("A" if name == "small" else "B"))

    @tt.workflow
    def drawn(q: str) -> Any:
        one = step if gates else by_function
        return tt.choose(one("small", q), one("middle", q), size(q))

    return drawn


@pytest.mark.parametrize("gates", [True, False])
def test_choose_tries_one_after_the_other(gates: bool) -> None:
    drawn = cascade(gates)
    assert value(drawn, "a") == "A"
    assert ran == ["upper a"], "the later options do not run"
    ran.clear()
    assert value(drawn, "b") == "B"
    assert ran == ["upper b", "upper b"]
    ran.clear()
    assert value(drawn, "c") == 1
    assert ran == ["upper c", "upper c", "size"]


def test_a_gate_that_does_not_need_the_value_keeps_it_from_running() -> None:
    @tt.workflow
    def drawn(q: str) -> str:
        return tt.choose(tt.option(upper(q), gate=tt.equals(q, "a")), q)  # type: ignore[no-any-return]

    assert value(drawn, "b") == "b"
    assert ran == []
    assert value(drawn, "a") == "A"


def test_choose_that_cannot_work() -> None:
    def open_end(q: str) -> str:
        return tt.choose(tt.option(q, gate=size(q)))  # type: ignore[no-any-return]

    def stage_gate(q: str) -> str:
        return tt.choose(tt.option(q, gate=size), q)  # type: ignore[no-any-return]

    def flag(q: str) -> str:
        return tt.choose(tt.option(q, gate=False), q)  # type: ignore[no-any-return]

    refused(open_end, "E102", "needs a last option")
    refused(stage_gate, "E102", "cannot be a gate", "gate=stage(value)")
    refused(flag, "E102", "cannot be a gate")

    @tt.workflow
    def raises(q: str) -> str:
        return tt.choose(tt.option(q, gate=lambda text: text.nothing), q)  # type: ignore[no-any-return]

    with pytest.raises(StageError, match=r"stage 'choose' raised AttributeError"):
        value(raises, "x")


def test_fallback_runs_the_next_only_after_a_failure() -> None:
    @tt.workflow
    def drawn(q: str) -> str:
        return tt.fallback(upper(broken(q)), upper(q, name="second"), upper(q, name="third"))  # type: ignore[no-any-return]

    assert value(drawn, "a") == "A"
    assert ran == ["broken", "upper a"]

    @tt.workflow
    def hopeless(q: str) -> str:
        return tt.fallback(broken(q), broken(q, name="worse"))  # type: ignore[no-any-return]

    with pytest.raises(StageError, match="stage 'worse' raised ValueError: no"):
        value(hopeless, "a")
    refused(lambda_fallback, "E102", "nothing to give")


def lambda_fallback(q: str) -> str:
    return tt.fallback()  # type: ignore[no-any-return]


def test_control_words_outside_a_drawing() -> None:
    for call in (
        lambda: tt.when(1, 2),
        lambda: tt.choose(1),
        lambda: tt.equals(1, 1),
        lambda: tt.default(1, 2),
    ):
        with pytest.raises(WorkflowError, match=r"E113 test_workflow\.py:\d+"):
            call()


# -- map -------------------------------------------------------------------------------------------------


def test_map_keeps_the_order_and_fixed_inputs() -> None:
    @tt.stage(pure=True)
    async def pair(word: tt.Text, end: tt.Text, *, sep: str = "+") -> str:
        return f"{word}{sep}{end}"

    @tt.workflow
    def drawn(q: str) -> list[str]:
        return tt.map(pair, split(q), end="!", sep="-")  # type: ignore[no-any-return]

    assert value(drawn, "a b c") == ["a-!", "b-!", "c-!"]
    assert value(drawn, "") == []

    @tt.workflow
    def literals(q: str) -> list[str]:
        return tt.map(pair, ["a", "b"], end=q)  # type: ignore[no-any-return]

    assert value(literals, "!") == ["a+!", "b+!"]


def test_map_errors() -> None:
    @tt.stage(pure=True)
    async def even(word: str) -> str:
        if len(word) % 2:
            raise ValueError(word)
        return word

    def drawn(how: str) -> Any:
        def body(q: str) -> list[str]:
            return tt.map(even, split(q), errors=how)  # type: ignore[arg-type,no-any-return]

        return tt.workflow(body)

    assert value(drawn("drop"), "aa b cc") == ["aa", "cc"]
    kept = value(drawn("keep"), "aa b cc")
    assert kept[::2] == ["aa", "cc"]
    assert isinstance(kept[1], StageError)
    with pytest.raises(StageError, match=r"stage 'even\[1\]' raised ValueError: b"):
        value(drawn("raise"), "aa b cc")
    with pytest.raises(WorkflowError, match="E102") as caught:
        drawn("dorp")
    assert "did you mean `drop`?" in caught.value.help


def test_map_that_does_not_fit() -> None:
    def whole(q: str) -> list[int]:
        return tt.map(size, q)  # type: ignore[no-any-return]

    def members(q: list[int]) -> list[int]:
        return tt.map(size, q)  # type: ignore[no-any-return]

    def setting(q: list[str]) -> list[tt.Text]:
        return tt.map(joined, q, sepp="-")  # type: ignore[no-any-return]

    def fixed(q: list[str], photo: tt.Image) -> list[tt.Text]:
        return tt.map(joined, q, b=photo)  # type: ignore[no-any-return]

    refused(whole, "E102", "needs a list or stream", "call size(text) directly")
    refused(members, "E102", "wants members of str")
    refused(setting, "E102", "no parameter `sepp`", "did you mean `sep`?")
    refused(fixed, "E102", "wants Text")


@pytest.mark.parametrize("setting", ["first", "errors", "concurrency"])
def test_map_leaves_no_setting_of_a_stage_to_its_own(setting: str) -> None:
    @tt.stage(pure=True)
    async def cut(text: str, *, first: int = 3) -> str:
        return text[:first]

    @tt.stage(pure=True)
    async def told(text: str, *, errors: str = "all") -> str:
        return text + errors

    @tt.stage(pure=True)
    async def asked(text: str, *, concurrency: int = 2) -> str:
        return text * concurrency

    stage: Any = {"first": cut, "errors": told, "concurrency": asked}[setting]

    def drawn(q: str) -> list[str]:
        return tt.map(stage, split(q))  # type: ignore[no-any-return]

    refused(drawn, "E102", f"its setting `{setting}`", "rename it")


# -- nesting ---------------------------------------------------------------------------------------------


def test_a_workflow_in_a_workflow() -> None:
    @tt.workflow
    def inner(q: tt.Text, photo: tt.Json | None = None) -> tt.Text:
        return joined(words(q), seen(photo))  # type: ignore[arg-type]

    @tt.workflow
    def outer(q: tt.Text) -> tt.Text:
        return joined(inner(q), inner(q, 5, name="with_photo"), name="both")  # type: ignore[call-arg]

    assert outer.graph is not None
    assert list(outer.graph.stages) == [
        *("inner.words", "inner.seen", "inner.joined"),
        *("with_photo.words", "with_photo.seen", "with_photo.joined", "both"),
    ]
    assert value(outer, "a") == tt.Text("a+None+a+seen 5")

    def twice(q: tt.Text) -> tt.Text:
        return joined(inner(q), inner(q))

    refused(twice, "E106", "'inner.words' names two stages")

    def wrong(q: tt.Text) -> tt.Text:
        return inner(q, phot=1)  # type: ignore[call-arg]

    refused(wrong, "E102", "did you mean `photo`?")

    def typed(image: tt.Image) -> tt.Text:
        return inner(image)  # type: ignore[arg-type]

    refused(typed, "E102", "inner(q=) wants Text, but input 'image' gives Image")


def test_an_observed_workflow_cannot_be_drawn() -> None:
    @tt.workflow
    async def observed(q: tt.Text) -> tt.Text:
        return q

    def drawn(q: tt.Text) -> tt.Text:
        return observed(q)  # type: ignore[return-value]

    refused(drawn, "E113", "`async def`")


def test_a_session_reaches_nested_workflows() -> None:
    @tt.stage
    async def remembered(q: str, session: tt.Session) -> int:
        session.say("user", q)
        return len(session.history)

    @tt.workflow
    def inner(q: str, session: tt.Session) -> int:
        return remembered(q)  # type: ignore[call-arg]

    @tt.workflow
    def outer(q: str) -> int:
        return inner(q)  # type: ignore[call-arg]

    assert value(outer, "a") == 1


# -- looking ---------------------------------------------------------------------------------------------


def test_describe_and_svg() -> None:
    @tt.stage(pure=True)
    async def parts(text: str) -> tt.Stream[str]:  # type: ignore[misc]
        yield text

    @tt.workflow
    def drawn(q: tt.Text, photo: tt.Json | None = None) -> tt.Stream[tt.Text]:
        return parts(joined(words(q), seen(photo)))  # type: ignore[arg-type,return-value]

    text = drawn.describe()
    assert text.startswith("drawn  (q: Text, photo: Json | None)")
    assert "joined  joined(words -> a, seen -> b)" in text
    svg = drawn.svg()
    assert svg.startswith("<svg ")
    assert svg.count('class="stage"') == 4
    assert svg.count('class="input"') == 2
    import xml.etree.ElementTree as ElementTree

    assert ElementTree.fromstring(svg).tag.endswith("svg")

    @tt.workflow
    async def observed(q: tt.Text) -> tt.Text:
        return q

    assert "observed" in observed.describe()
    assert observed.svg().startswith("<svg ")
    assert repr(drawn) == "<workflow drawn: 4 stages>"


def test_the_decorated_object_keeps_its_signature() -> None:
    import inspect

    @tt.workflow(slo=tt.Slo(p95_ms=800))
    def drawn(q: tt.Text, photo: tt.Json | None = None) -> tt.Text:
        """What it does."""
        return joined(q, seen(photo))  # type: ignore[arg-type]

    assert drawn.__doc__ == "What it does."
    assert list(inspect.signature(drawn).parameters) == ["q", "photo"]
    assert drawn.slo.p95_ms == 800
