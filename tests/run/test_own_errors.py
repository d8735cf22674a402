"""What people's own code raises: of a stage, of the body of an `async def` workflow, and for want of a package."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dis
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import tauten as tt
from kit.virtual import value, virtual
from tauten.errors import InputError, StageError
from tauten.run.context import _lines_naming, own_error
from tauten.run.engine import Engine
from tauten.serve.safety.discreet import as_ours


@tt.stage(pure=True)
async def louder(q: str) -> str:
    return q.upper()


@tt.stage(pure=True)
async def sees(q: str) -> str:
    raise ModuleNotFoundError("No module named 'cv2'", name="cv2")


@tt.stage(pure=True)
def sees_in_a_thread(q: str) -> str:
    raise ModuleNotFoundError("No module named 'cv2'", name="cv2")


@tt.workflow
async def breaks(q: str) -> str:
    said = await louder(q)
    raise ValueError(f"own: {said}")


@tt.workflow
async def breaks_half_way(q: str) -> AsyncIterator[str]:
    yield await louder(q)
    json.loads("{")


@tt.workflow
async def lacks(q: str) -> str:
    raise ModuleNotFoundError("No module named 'tokenizers'", name="tokenizers")


@tt.workflow
async def ours_within(q: str) -> str:
    own_error(None)  # type: ignore[arg-type]
    return q


@tt.workflow
async def refuses(q: str) -> str:
    raise InputError(f"{q} is no question", help="ask another")


def raised(workflow: Any, kind: type[Exception]) -> Exception:
    with pytest.raises(kind) as caught:
        value(workflow, "x")
    return caught.value


@pytest.mark.parametrize(
    ("workflow", "kind", "words"),
    [
        (breaks, ValueError, "the workflow raised ValueError: own: X"),
        (lacks, ModuleNotFoundError, "the workflow raised ModuleNotFoundError: No module named 'tokenizers'"),
    ],
)
def test_what_the_body_of_a_workflow_raises_is_told_with_its_line(
    workflow: Any, kind: type[Exception], words: str
) -> None:
    error = raised(workflow, kind)
    told = own_error(error)
    assert told is not None
    assert (told.code, told.exit_code, told.message, told.__cause__) == ("E404", 5, words, error)
    assert as_ours(error).code == "E404"
    place, _, line = told.where.partition(":")
    assert (place, line.isdigit()) == ("test_own_errors.py", True)
    assert ("tauten[local]" in told.help) is (workflow is lacks)


def test_a_body_that_breaks_half_way_names_its_own_line_not_the_librarys() -> None:
    got: list[str] = []

    async def hear(engine: Engine) -> None:
        async for each in engine.stream({"q": "x"}):
            got.append(each)

    async def body(engine: Engine) -> None:
        await engine.open(breaks_half_way)
        with pytest.raises(json.JSONDecodeError) as caught:
            await hear(engine)
        told = own_error(caught.value)
        assert told is not None
        assert told.where.startswith("test_own_errors.py:")

    virtual(body)
    assert got == ["X"]


def test_other_errors_are_not_called_the_workflows() -> None:
    assert isinstance(raised(refuses, InputError), InputError)
    assert own_error(raised(ours_within, AttributeError)) is None, "our own code broke there"
    assert own_error(ValueError("raised nowhere")) is None


@pytest.mark.parametrize("stage", [sees, sees_in_a_thread])
def test_a_stage_without_its_package_names_the_extra(stage: Any) -> None:
    @tt.workflow
    def flow(q: str) -> str:
        return stage(q)  # type: ignore[no-any-return]

    with pytest.raises(StageError, match="No module named 'cv2'") as caught:
        flow("x")
    assert caught.value.help == "pip install 'tauten[local]'"


# -- the lines of calls ------------------------------------------------------------------------------------


def calls(q: str) -> Any:
    one = louder(q)
    two = [louder(each) for each in (q,)]
    return one, louder(q), two


def as_python_3_13(real: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Its `starts_line` says whether a line starts there, and no more which."""

    def instructions(code: Any) -> Iterator[Any]:
        return (each._replace(starts_line=bool(each.starts_line)) for each in real(code))

    return instructions


@pytest.mark.parametrize("newer", [False, True])
def test_the_lines_that_name_a_stage_are_told_by_every_python(
    newer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if newer:
        monkeypatch.setattr(dis, "get_instructions", as_python_3_13(dis.get_instructions))
    first = calls.__code__.co_firstlineno
    found = [line - first for line in _lines_naming(calls.__code__, "louder")]
    assert [line for line in found if line != 2] == [1, 3]  # a comprehension is code of its own before 3.12
