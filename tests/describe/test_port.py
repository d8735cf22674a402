"""Every misuse of a port in a drawn workflow is an error with the user's file, line, source text and a fix."""
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: SIM300, C416, UP031, UP032, RET504  # the misuses are written as people write them

from __future__ import annotations

import functools
import math
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from tauten.describe.ports import port_type
from tauten.errors import WorkflowError


@tt.stage(pure=True)
async def words(question: tt.Text) -> tt.Text:
    return question


@tt.stage(pure=True)
async def number(question: tt.Text) -> int:
    return len(question.text)


MISUSES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "if": ("E101", lambda port: 1 if port else 2),
    "and": ("E101", lambda port: port and 1),
    "or": ("E101", lambda port: port or 1),
    "not": ("E101", lambda port: not port),
    "while": ("E101", lambda port: [1 for _ in range(2) if port]),
    "==": ("E105", lambda port: port == "x"),
    "!=": ("E105", lambda port: port != "x"),
    "<": ("E105", lambda port: port < 3),
    "<=": ("E105", lambda port: port <= 3),
    ">": ("E105", lambda port: 3 > port),
    ">=": ("E105", lambda port: port >= 3),
    "in a port": ("E101", lambda port: "x" in port),
    "in a list": ("E105", lambda port: port in ["a", "b"]),
    "len": ("E101", len),
    "iter": ("E101", iter),
    "for": ("E101", lambda port: [each for each in port]),
    "unpack": ("E101", lambda port: (lambda a, b: a)(*port)),
    "list": ("E101", list),
    "next": ("E101", next),
    "reversed": ("E101", reversed),
    "str": ("E101", str),
    "print": ("E101", print),
    "f-string": ("E101", lambda port: f"{port}"),
    "f-string !s": ("E101", lambda port: f"{port!s:>4}"),
    "format": ("E101", lambda port: "{}".format(port)),
    "%": ("E101", lambda port: "%s" % port),
    "join": ("E101", lambda port: "".join(map(str, [port]))),
    "bytes": ("E101", bytes),
    "int": ("E101", int),
    "float": ("E101", float),
    "complex": ("E101", complex),
    "round": ("E101", round),
    "floor": ("E101", math.floor),
    "abs": ("E101", abs),
    "neg": ("E101", lambda port: -port),
    "invert": ("E101", lambda port: ~port),
    "index": ("E101", lambda port: [1, 2][port]),
    "range": ("E101", range),
    "getitem": ("E101", lambda port: port[0]),
    "slice": ("E101", lambda port: port[:80]),
    "setitem": ("E101", lambda port: port.__setitem__(0, 1)),
    "del": ("E101", lambda port: port.__delitem__(0)),
    "getattr": ("E101", lambda port: port.upper),
    "method": ("E101", lambda port: port.lower()),
    "setattr": ("E101", lambda port: setattr(port, "text", "x")),
    "call": ("E101", lambda port: port()),
    "+": ("E101", lambda port: port + "x"),
    "+ right": ("E101", lambda port: "x" + port),
    "sum": ("E101", lambda port: sum([port, port])),
    "* @ ** // % <<": ("E101", lambda port: port * 2 @ 3),
    "divmod": ("E101", lambda port: divmod(port, 2)),
    "pow": ("E101", lambda port: pow(2, port)),
    "&": ("E101", lambda port: port & 1),
    "|": ("E101", lambda port: 1 | port),
    "fspath": ("E101", os.fspath),
    "sorted": ("E101", sorted),
    "max": ("E105", lambda port: max(port, 3)),
    "dict": ("E101", dict),
    "kwargs": ("E101", lambda port: dict(**port)),
    "isinstance sequence": ("E101", lambda port: [*port]),
    "match": ("E105", lambda port: _matched(port)),
}


def _matched(port: Any) -> str:
    match port:
        case "a":
            return "b"
    return "c"


@pytest.mark.parametrize(("code", "misuse"), MISUSES.values(), ids=MISUSES)
def test_a_value_asked_of_a_port(code: str, misuse: Callable[[Any], Any]) -> None:
    with pytest.raises(WorkflowError) as caught:

        @tt.workflow
        def drawn(question: tt.Text) -> tt.Text:
            misuse(words(question))
            return words(question, name="second")

    error = caught.value
    assert error.code == code
    assert re.fullmatch(r"test_port\.py:\d+", error.where)
    assert "step 'words' (Text)" in error.message
    assert "`" in error.message, "the user's source text is shown"
    assert re.search(r"async def|@tt\.stage", error.help)


def test_the_message_shows_the_line_and_the_fix() -> None:
    with pytest.raises(WorkflowError) as caught:

        @tt.workflow
        def drawn(question: tt.Text) -> tt.Text:
            if words(question):
                return words(question, name="yes")
            return words(question, name="no")

    assert "`if words(question):` needs the value of step 'words' (Text)" in str(caught.value)
    assert "help: tt.when(port, then, otherwise)" in str(caught.value)


def test_a_comparison_names_equals() -> None:
    with pytest.raises(WorkflowError, match=r"E105 .*compares the placeholder") as caught:

        @tt.workflow
        def drawn(question: tt.Text) -> tt.Text:
            return words(question) == "x"  # type: ignore[return-value]

    assert "tt.when(tt.equals(port, value)" in caught.value.help


def test_with_and_await_and_async_iteration() -> None:
    kept: list[Any] = []

    @tt.workflow
    def drawn(question: tt.Text) -> tt.Text:
        kept.append(words(question))
        return kept[0]  # type: ignore[no-any-return]

    port = kept[0]
    with pytest.raises(WorkflowError, match="E101"), port:
        pass
    for use, help in ((lambda: port.__await__(), "drop the `await`"), (lambda: port.__aiter__(), "tt.map")):
        with pytest.raises(WorkflowError, match="E101") as caught:
            use()
        assert help in caught.value.help
    for use in (port.__aenter__, port.__anext__, port.__aexit__):
        with pytest.raises(WorkflowError, match="E101"):
            use()


def test_what_a_port_may_do() -> None:
    seen: list[Any] = []

    @tt.workflow
    def drawn(question: tt.Text) -> tt.Text:
        port = words(question)
        seen.extend([repr(port), {port: 1}[port], isinstance(port, str), port is port])
        return port

    assert seen == ["<port of step 'words': Text>", 1, False, True]


# -- ports that leave their drawing ------------------------------------------------------------------------


def leak() -> Any:
    kept: list[Any] = []

    @tt.workflow
    def first(question: tt.Text) -> tt.Text:
        kept.append(words(question))
        return kept[0]  # type: ignore[no-any-return]

    return kept[0]


def test_a_global_port_in_another_drawing() -> None:
    port = leak()
    with pytest.raises(WorkflowError, match=r"E112 test_port\.py:\d+: .*belongs to another drawing"):

        @tt.workflow
        def second(question: tt.Text) -> tt.Text:
            return words(port)


def test_a_leaked_port_is_returned() -> None:
    port = leak()
    with pytest.raises(WorkflowError, match="E112"):

        @tt.workflow
        def second(question: tt.Text) -> tt.Text:
            words(question)
            return port  # type: ignore[no-any-return]


def test_a_port_as_default_argument() -> None:
    port = leak()
    with pytest.raises(WorkflowError, match="E112"):

        @tt.workflow
        def second(question: tt.Text = port) -> tt.Text:
            return words(question)


def test_a_port_as_default_of_a_local_function_is_fine() -> None:
    @tt.workflow
    def drawn(question: tt.Text) -> tt.Text:
        def again(port: Any = words(question)) -> Any:
            return words(port, name="again")

        return again()  # type: ignore[no-any-return]

    assert drawn.graph is not None
    assert list(drawn.graph.stages) == ["words", "again"]


@pytest.mark.parametrize("word", ["when", "fallback", "map", "default", "equals"])
def test_a_leaked_port_in_a_control_word(word: str) -> None:
    port = leak()
    calls: dict[str, Callable[[], Any]] = {
        "when": lambda: tt.when(port, 1, 2),
        "fallback": lambda: tt.fallback(port, 1),
        "map": lambda: tt.map(words, port),
        "default": lambda: tt.default(port, "x"),
        "equals": lambda: tt.equals(port, "x"),
    }
    with pytest.raises(WorkflowError, match="E112"):

        @tt.workflow
        def second(question: tt.Text) -> tt.Text:
            return calls[word]()  # type: ignore[no-any-return]


def test_a_leaked_port_outside_any_drawing() -> None:
    port = leak()

    @tt.workflow
    def drawn(question: tt.Text) -> tt.Text:
        return words(question)

    for call in (words, drawn):
        with pytest.raises(WorkflowError, match=r"E112 test_port\.py:\d+: .*it has no value here"):
            call(port)


def test_a_leaked_port_in_running_code() -> None:
    port = leak()

    @tt.workflow
    async def observed(question: tt.Text) -> tt.Text:
        return await words(port)  # type: ignore[no-any-return,misc]

    with pytest.raises(WorkflowError, match="E112"):
        observed("hello")


def test_a_stage_called_in_a_thread() -> None:
    raised: list[BaseException] = []

    @tt.workflow
    def drawn(question: tt.Text) -> tt.Text:
        def call() -> None:
            try:
                words(question, name="in_thread")
            except WorkflowError as error:
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return words(question)

    assert [error.code for error in raised] == ["E112"]
    assert raised[0].where.startswith("test_port.py:")
    assert "thread" in raised[0].help


def test_a_drawing_that_is_over_takes_no_more_stages() -> None:
    import contextvars

    contexts: list[contextvars.Context] = []

    @tt.workflow
    def drawn(question: tt.Text) -> tt.Text:
        contexts.append(contextvars.copy_context())
        return words(question)

    with pytest.raises(WorkflowError, match=r"E112 .*after drawn was drawn"):
        contexts[0].run(words, "late", name="late")


# -- side effects, recursion, odd functions ------------------------------------------------------------------


def test_the_body_runs_once_and_its_side_effects_with_it() -> None:
    ran: list[int] = []

    @tt.workflow
    def drawn(question: tt.Text) -> tt.Text:
        ran.append(1)
        return words(question)

    assert [str(drawn("a")), str(drawn("b"))] == ["a", "b"]
    assert ran == [1]


def test_an_exception_of_the_body_is_the_users_own() -> None:
    with pytest.raises(ZeroDivisionError):

        @tt.workflow
        def drawn(question: tt.Text) -> tt.Text:
            1 / 0  # noqa: B018
            return words(question)

    assert tt.transcribe is not None  # the failed drawing left no surroundings behind
    with pytest.raises(WorkflowError, match="E113"):
        tt.when(1, 2, 3)


def test_recursion() -> None:
    with pytest.raises(
        WorkflowError, match=r"E107 test_port\.py:\d+: again calls itself: again -> again"
    ) as caught:

        @tt.workflow
        def again(question: tt.Text) -> tt.Text:
            return again(words(question))

    assert "async def" in caught.value.help


def test_a_cycle() -> None:
    with pytest.raises(WorkflowError, match=r"E107 test_port\.py:\d+: .*uses a result before") as caught:

        @tt.workflow
        def cycle(question: tt.Text) -> tt.Text:
            first = words(second)  # noqa: F821
            second = words(first, name="second")
            return second

    text = Path(__file__).read_text().splitlines()
    line = int(caught.value.where.rpartition(":")[2])
    assert "first = words(second)" in text[line - 1]


def test_an_unknown_name_stays_pythons_error() -> None:
    with pytest.raises(NameError, match="wrods"):

        @tt.workflow
        def drawn(question: tt.Text) -> tt.Text:
            return wrods(question)  # type: ignore[name-defined,no-any-return]  # noqa: F821


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(WorkflowError, match=r"E111 test_port\.py:\d+: .*has no name") as caught:
        tt.workflow(lambda question: words(question))
    assert 'name="..."' in caught.value.help
    with pytest.raises(WorkflowError, match="E111"):
        tt.stage(lambda text: text)
    short = tt.workflow(name="short")(lambda question: words(question))
    assert str(short(tt.Text("x"))) == "x"
    upper = tt.stage(name="upper", inline=True)(lambda text: text.upper())
    assert upper("x") == "X"


def test_a_partial() -> None:
    def joined(text: str, end: str) -> str:
        return text + end

    stage = tt.stage(functools.partial(joined, end="!"))
    assert stage.name == "joined"
    assert stage("x") == "x!"

    def body(question: tt.Text, times: int) -> tt.Text:
        port = question
        for index in range(times):
            port = words(port, name=f"words_{index}")
        return port

    drawn = tt.workflow(functools.partial(body, times=3))
    assert drawn.graph is not None
    assert len(drawn.graph.stages) == 3


def test_methods() -> None:
    with pytest.raises(WorkflowError, match=r"E111 .*method") as caught:

        class Wrong:
            @tt.stage
            def shout(self, text: str) -> str:
                return text.upper()

    assert caught.value.where.startswith("test_port.py:")
    with pytest.raises(WorkflowError, match=r"E111 .*method"):

        class AlsoWrong:
            @tt.workflow
            def drawn(self, question: tt.Text) -> tt.Text:
                return words(question)

    class Right:
        end = "!"

        def shout(self, text: str) -> str:
            return text.upper() + self.end

        def drawn(self, question: tt.Text) -> tt.Text:
            return words(question)

    assert tt.stage(Right().shout)("a") == "A!"
    assert str(tt.workflow(Right().drawn)("a")) == "a"


def test_forms_that_cannot_run() -> None:
    with pytest.raises(WorkflowError, match=r"E111 .*class gives one value"):

        @tt.stage
        class Words:
            def __call__(self, text: str) -> tt.Stream[str]:  # type: ignore[misc]
                yield text

    with pytest.raises(WorkflowError, match=r"E111 .*max_batch"):

        @tt.stage(max_batch=4)
        async def together(texts: list[str]) -> list[str]:
            return texts

    with pytest.raises(WorkflowError, match=r"E111 .*`\*inputs` have no names"):

        @tt.stage
        def any_number(*texts: str) -> str:
            return "".join(texts)

    with pytest.raises(WorkflowError, match="E111"):

        @tt.workflow
        def open_ended(*questions: tt.Text) -> tt.Text:
            return words(questions[0])

    with pytest.raises(WorkflowError, match="E111"):

        @tt.workflow
        def unknown(question: Nothing) -> tt.Text:  # type: ignore[name-defined]  # noqa: F821
            return words(question)


def test_long_text_that_ends_like_a_file_is_text() -> None:
    """No system has a name of that length, and it is none of a file that is missing."""
    question = "what is on " + "the very " * 40 + "long.png"
    assert port_type(tt.Text | tt.Image).coerce(question) == tt.Text(question)
