"""Keeping requests: selection, arrival times, saving and loading."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tauten.describe.payload import Audio, Image, Json, Payload, Tensor, Text
from tauten.errors import InputError, MediaError
from tauten.improve.recording import Document, Item, Label, Recording, arrivals


def _inputs() -> dict[str, Payload]:
    return {
        "question": Text("Why? …"),
        "photo": Image.from_array(np.full((4, 6, 3), 9, np.uint8)),
        "voice": Audio.from_array(np.zeros(80, np.float32), 8000),
        "numbers": Tensor(np.arange(6).reshape(2, 3)),
        "options": Json({"k": 3, "names": ["a"]}),
    }


def _recording() -> Recording:
    known = Label(
        documents=(Document("library/exceptions.rst", "KeyError"),),
        accept=(("key", "not found"), ("missing",)),
        exception="KeyError",
        transcript="why",
        screen=True,
    )
    full = Item(id="b", render=_inputs, at_s=2.5, label=known, split="held_out", quick=True, tags=("x", "y"))
    return Recording("desk", [full, Item(id="a", render=dict, at_s=1.0, tags=("x",), provenance="by hand")])


def test_items_stand_in_the_order_of_arrival() -> None:
    assert [item.id for item in _recording()] == ["a", "b"]


def test_select_by_split_quick_and_tags() -> None:
    recording = _recording()
    assert [item.id for item in recording.select(split="held_out")] == ["b"]
    assert [item.id for item in recording.select(quick=False)] == ["a"]
    assert len(recording.select(tags=["x"])) == 2
    assert [item.id for item in recording.select(tags=["y", "x"])] == ["b"]
    assert len(recording.select(split="held_out", tags=["z"])) == 0


def test_inputs_are_rendered_once_when_read_and_again_after_forget() -> None:
    calls: list[int] = []

    def render() -> dict[str, Payload]:
        calls.append(1)
        return {"question": Text("hm")}

    item = Item(id="a", render=render)
    assert not calls
    assert item.inputs is item.inputs
    assert len(calls) == 1
    item.forget()
    item.forget()
    assert item.inputs["question"] == Text("hm")
    assert len(calls) == 2


def test_saved_recordings_come_back_equal(tmp_path: Path) -> None:
    recording = _recording()
    loaded = Recording.load(recording.save(tmp_path / "desk.rec"))
    assert loaded.name == "desk"
    for one, other in zip(recording, loaded, strict=True):
        assert dict(other.inputs) == dict(one.inputs) or _equal(one, other)
        assert other.inputs.keys() == one.inputs.keys()
        for name in ("id", "at_s", "label", "split", "quick", "tags", "provenance"):
            assert getattr(other, name) == getattr(one, name)


def _equal(one: Item, other: Item) -> bool:
    return all(one.inputs[name].hash == other.inputs[name].hash for name in one.inputs)


def test_equal_media_are_stored_once(tmp_path: Path) -> None:
    items = [Item(id=str(i), render=_inputs, at_s=float(i)) for i in range(5)]
    Recording("five", items).save(tmp_path)
    assert len(list((tmp_path / "media").iterdir())) == 3


def test_saving_again_replaces(tmp_path: Path) -> None:
    _recording().save(tmp_path)
    Recording("other", [Item(id="z", render=dict)]).save(tmp_path)
    assert [item.id for item in Recording.load(tmp_path)] == ["z"]
    assert not list(tmp_path.glob(".items*"))


def test_loading_opens_no_media(tmp_path: Path) -> None:
    _recording().save(tmp_path)
    for file in (tmp_path / "media").iterdir():
        file.unlink()
    loaded = Recording.load(tmp_path)
    with pytest.raises(MediaError) as caught:
        _ = loaded[1].inputs
    assert caught.value.code == "E247"


def test_changed_media_are_noticed(tmp_path: Path) -> None:
    _recording().save(tmp_path)
    (file,) = (tmp_path / "media").glob("*.png")
    file.write_bytes(Image.from_array(np.zeros((4, 6, 3), np.uint8)).data)
    with pytest.raises(MediaError) as caught:
        _ = Recording.load(tmp_path)[1].inputs
    assert caught.value.code == "E247"


@pytest.mark.parametrize(
    "kept", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", None], ids=["empty", "zip", "cut", "half"]
)
def test_damaged_numbers_are_noticed(tmp_path: Path, kept: bytes | None) -> None:
    _recording().save(tmp_path)
    [file] = [each for each in (tmp_path / "media").iterdir() if each.read_bytes().startswith(b"\x93NUMPY")]
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 8] if kept is None else kept)
    with pytest.raises(MediaError) as caught:
        _ = Recording.load(tmp_path)[1].inputs
    assert caught.value.code == "E247"


def test_saving_holds_one_request_at_a_time(tmp_path: Path) -> None:
    items = [Item(id=str(number), render=_inputs, at_s=float(number)) for number in range(3)]
    assert items[0].inputs, "somebody reads this one"
    Recording("three", items).save(tmp_path)
    assert ["inputs" in each.__dict__ for each in items] == [True, False, False]


@pytest.mark.parametrize("content", ["", "not json\n", '{"schema": "tauten.recording/9", "name": "x"}\n'])
def test_what_is_no_recording_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "items.jsonl").write_text(content)
    with pytest.raises(InputError) as caught:
        Recording.load(tmp_path)
    assert caught.value.code == "E245"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a recording"):
        Recording.load(tmp_path / "none")


def test_media_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    _recording().save(tmp_path)
    path = tmp_path / "items.jsonl"
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    lines[2]["inputs"]["photo"]["file"] = "../../secret.png"
    path.write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
    with pytest.raises(InputError) as caught:
        _ = Recording.load(tmp_path)[1].inputs
    assert caught.value.code == "E245"


def test_two_items_may_not_share_an_id() -> None:
    with pytest.raises(InputError) as caught:
        Recording("twice", [Item(id="a", render=dict), Item(id="a", render=dict)])
    assert caught.value.code == "E245"


def test_arrivals_are_poisson_seeded_and_start_at_zero() -> None:
    times = arrivals(4000, 2.0, seed=3)
    gaps = np.diff(times)
    assert times[0] == 0.0
    assert times == arrivals(4000, 2.0, seed=3)
    assert times != arrivals(4000, 2.0, seed=4)
    assert abs(gaps.mean() - 0.5) < 0.03
    assert abs(gaps.std() / gaps.mean() - 1) < 0.06  # of an exponential: 1


def test_another_rate_keeps_order_and_items() -> None:
    recording = _recording()
    faster = recording.at_rate(100.0, seed=1)
    assert [item.id for item in faster] == ["a", "b"]
    assert faster[1].at_s < 1.0
    assert [item.at_s for item in recording] == [1.0, 2.5]
    with pytest.raises(InputError) as caught:
        recording.at_rate(0.0)
    assert caught.value.code == "E246"
