"""`tt.analyze`: the account of a real request, from Python."""

import asyncio

import pytest

import tauten as tt


@tt.stage(pure=True)
async def slow(x: int) -> int:
    await asyncio.sleep(0.002)
    return x + 1


@tt.workflow
def twice(x: int) -> int:
    return slow(slow(x, name="first"), name="second")


@tt.workflow
async def observed(x: int) -> int:
    return await slow(await slow(x))


def test_prints_the_screen_and_shows_html() -> None:
    found = tt.analyze(twice, 1)
    assert "twice" in str(found)
    assert "first" in str(found)
    assert "the median" in str(found)
    assert found._repr_html_().startswith("<")


def test_two_plans_side_by_side() -> None:
    found = tt.analyze(twice, x=1, against=tt.Plan(name="other").edit("second", channel=8))
    assert "naive" in str(found)
    assert "other" in str(found)


def test_an_observed_workflow_says_so() -> None:
    said = str(tt.analyze(observed, 1, repeat=2)).split()  # where the line wraps hangs on the machine's name
    assert "graph observed in 2 requests" in " ".join(said)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(tt.TautenError) as failed:
        tt.analyze(twice, y=1)
    assert "no input `y`" in str(failed.value)
