"""Names of values by content, and what of a value may be kept."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import dataclasses
import enum
import functools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tauten as tt
from tauten.describe.view import Pixels
from tauten.run.caching.holding import NotKept, handed, held
from tauten.run.caching.naming import Nameless, content_name


class Point(msgspec.Struct, frozen=True):
    x: float
    tags: list[str] = []


@dataclasses.dataclass
class Open:
    members: list[int]


@dataclasses.dataclass
class Percent:
    """Made of a share; says afterwards what became of it."""

    share: dataclasses.InitVar[float]
    value: float = 0.0
    said: list[str] = dataclasses.field(init=False, default_factory=list)

    def __post_init__(self, share: float) -> None:
        self.value = share * 100

    @functools.cached_property
    def words(self) -> list[str]:
        return [f"{self.value:g} %"]


class Scaled(msgspec.Struct):
    value: float

    def __post_init__(self) -> None:
        self.value *= 100


class Bits(enum.IntFlag):
    ONE = 1


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.text().map(tt.Text)
    | st.floats(allow_nan=False).map(Point)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner)
    ),
    max_leaves=8,
)


def spelled(value: Any) -> str:
    """Type and content of a value, as its name should tell them apart."""
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[{','.join(map(spelled, value))}]"
    if isinstance(value, dict):
        return f"dict[{','.join(f'{k!r}:{spelled(v)}' for k, v in value.items())}]"
    if isinstance(value, tt.Text):
        return f"Text {value.text!r}"
    return f"{type(value).__name__} {value!r}"


@given(VALUES, VALUES)
def test_names_are_equal_where_type_and_content_are(one: Any, other: Any) -> None:
    assert (content_name(one) == content_name(other)) == (spelled(one) == spelled(other))
    assert content_name(one, other) != content_name([one, other])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (0.0, -0.0),
        ("ab", b"ab"),
        (["a", "b"], ["ab", ""]),
        ([1], (1,)),
        (tt.Text("a"), "a"),
        (tt.Json([1]), tt.Json((1,))),
        (np.zeros(3, "f4"), np.zeros(3, "f8")),
        (np.zeros((2, 3)), np.zeros((3, 2))),
    ],
)
def test_what_a_stage_could_tell_apart_has_other_names(one: Any, other: Any) -> None:
    assert content_name(one) != content_name(other)


def test_views_are_named_by_what_they_were_decoded_from() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert content_name(Pixels(pixels, "a", 2, 2)) == content_name(Pixels(pixels + 1, "a", 2, 2))


def test_what_has_no_content_has_no_name() -> None:
    for value in (object(), iter([]), np.array([object()]), [lambda: 1]):
        with pytest.raises(Nameless):
            content_name(value)


@given(VALUES)
def test_what_is_handed_out_is_equal_and_lists_in_it_are_the_readers_own(value: Any) -> None:
    mine, size_bytes = held(value)
    assert spelled(mine) == spelled(handed(mine)) == spelled(value)
    assert size_bytes > 0
    if isinstance(value, list):
        handed(mine).append("mine")
        value.append("yours")
        assert spelled(mine) != spelled(value)
        assert "mine" not in mine


def test_lists_inside_structures_are_copied_too() -> None:
    mine, _ = held(Point(1.0, ["a"]))
    handed(mine).tags.append("b")
    assert mine.tags == ["a"]
    open_, _ = held(Open([1]))
    handed(open_).members.append(2)
    assert open_.members == [1]
    fixed = (Point(1.0), "x")
    assert handed(held("x")[0]) == "x"
    assert handed(held(tt.Text("t"))[0]).text == "t"
    assert held(fixed)[0] == fixed


def test_structures_are_copied_as_they_are_and_not_made_anew() -> None:
    percent = Percent(0.5)
    percent.said.append("half")
    percent.note = ["beside its fields"]  # type: ignore[attr-defined]
    assert percent.words == ["50 %"]
    mine, _ = held(percent)
    assert mine.words is not percent.words, "it works them out by itself"
    given = handed(mine)
    assert (given.value, given.said, given.note) == (50.0, ["half"], ["beside its fields"])
    given.said.append("more")
    given.note.append("more")
    assert (mine.said, mine.note, percent.said) == (["half"], ["beside its fields"], ["half"])
    scaled = Scaled(0.5)
    assert handed(held(scaled)[0]).value == scaled.value == 50.0


def test_a_set_that_nobody_can_change_is_given_as_it_is() -> None:
    assert handed(held({"a": frozenset({1, 2})})[0]) == {"a": frozenset({1, 2})}


def test_flags_without_a_name_of_their_own_have_other_names() -> None:
    assert len({content_name(Bits(value)) for value in (0, 1, 8, 9, 16)}) == 5


def test_arrays_are_read_only_and_hold_no_more_than_themselves() -> None:
    batch = np.ones((100, 8), np.float32)
    mine, size_bytes = held(batch[3])
    assert not mine.flags.writeable
    assert size_bytes < batch.nbytes
    batch[3] = 7.0
    assert mine[0] == 1.0, "a row of a batch is copied out of it"
    assert held(tt.Tensor(batch[2]))[0].array.base is not batch


def test_what_nobody_knows_how_to_copy_is_not_kept() -> None:
    with pytest.raises(NotKept):
        held([object()])
