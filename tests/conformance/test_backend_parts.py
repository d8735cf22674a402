"""The small parts of the backends, alone: frames, text from tokens, stop strings, prefixes, features."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tauten.run.backends import _frames, _mel
from tauten.run.backends._gguf import context_length
from tauten.run.backends._llm_prefix import BLOCK_TOKENS, PrefixAccount
from tauten.run.backends._llm_prompt import char_ends
from tauten.run.backends._llm_text import Detokenizer, Vocabulary, spelled
from tauten.run.backends.whisper import without_repeats
from tauten.run.stops import Stops

BYTES = Vocabulary({bytes([value]): value for value in range(256)}, ["?"] * 256)
"""A vocabulary of single bytes: every character outside ASCII is cut by it."""


@given(st.lists(st.dictionaries(st.text(), st.integers(0, 9))), st.integers(1, 9))
def test_frames_come_back_whole_however_they_were_cut(messages: list[object], size: int) -> None:
    data = b"".join(map(_frames.encode, messages))
    splitter = _frames.Splitter()
    found = [each for at in range(0, len(data), size) for each in splitter.feed(data[at : at + size])]
    assert found == messages


def test_a_frame_too_long_to_be_true_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        _frames.Splitter().feed(struct.pack(">I", _frames.MAX_FRAME_BYTES + 1))


@given(st.text())
def test_text_is_given_in_whole_characters(text: str) -> None:
    detokenizer = Detokenizer(BYTES)
    parts = [detokenizer.feed([value]) for value in text.encode()]
    assert "".join(parts) == text
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text


def test_bytes_that_are_no_text_become_the_replacement_character() -> None:
    assert Detokenizer(BYTES).feed([0xFF, ord("a")]) == "\ufffda"


def test_special_tokens_and_unknown_ids_show_nothing() -> None:
    vocabulary = Vocabulary({b"<end>": 0, b"a": 1, b"\xf0": 2}, ["", "a", ""])
    assert Detokenizer(vocabulary).feed([0, 1, 0, -1, 99]) == "a"
    assert vocabulary.piece(2) == b"\xf0"  # half a character is decoded to nothing, but is not special


def test_a_sentencepiece_vocabulary_writes_spaces_and_bytes_its_own_way() -> None:
    vocabulary = Vocabulary({"▁The".encode(): 0, "▁sea".encode(): 1, b"<0x0A>": 2}, ["The", "sea", "\n"])
    assert Detokenizer(vocabulary).feed([0, 1, 2, 1]) == "The sea\n sea"


@given(st.text("ab.", max_size=30), st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3))
def test_no_part_of_a_stop_string_is_shown(text: str, words: list[str]) -> None:
    stops = Stops(words)
    shown = "".join(map(stops.feed, text)) + stops.finish()
    # Fed letter by letter, the stop string that ends first is the one that counts.
    ends = [text.index(word) + len(word) for word in words if word in text]
    if not ends:
        assert shown == text
        assert not stops.hit
    else:
        assert stops.hit
        assert text.startswith(shown)
        assert not any(word in shown for word in words)
        assert len(shown) < min(ends)


def test_a_prefix_is_counted_in_whole_blocks_and_never_whole() -> None:
    account = PrefixAccount(100)
    prompt = list(range(3 * BLOCK_TOKENS))
    assert account.cached(prompt) == 0
    account.remember(prompt)
    assert account.cached(prompt) == len(prompt) - 1  # the last token is always computed
    assert account.cached([*prompt, 7]) == 3 * BLOCK_TOKENS
    assert account.cached([*prompt[: 2 * BLOCK_TOKENS], 9, 9]) == 2 * BLOCK_TOKENS
    assert account.cached([5, *prompt]) == 0


def test_the_oldest_blocks_go_when_there_is_no_room() -> None:
    account = PrefixAccount(2)
    old, new = [1] * BLOCK_TOKENS, [2] * (2 * BLOCK_TOKENS)
    account.remember(old)
    account.remember(new)
    assert account.cached([*old, 0]) == 0
    assert account.cached([*new, 0]) == 2 * BLOCK_TOKENS


def test_gguf_header_tells_the_context_and_foreign_files_tell_nothing(tmp_path: Path) -> None:
    def string(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text

    words = string(b"list") + struct.pack("<IIQ", 9, 8, 2) + string(b"a") + string(b"b")
    size = string(b"llama.context_length") + struct.pack("<II", 4, 8192)
    good, cut, foreign = tmp_path / "good", tmp_path / "cut", tmp_path / "foreign"
    good.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + words + size)
    cut.write_bytes(good.read_bytes()[:-3])
    foreign.write_bytes(b"PK\x03\x04 something else")
    assert [context_length(path) for path in (good, cut, foreign)] == [8192, 0, 0]


def test_a_tone_is_loudest_in_its_own_mel_band() -> None:
    seconds = np.arange(16_000) / 16_000
    peaks = []
    for hz in (300, 1000, 3000):
        features = _mel.log_mel(np.sin(2 * np.pi * hz * seconds).astype(np.float32))
        assert features.shape == (80, 100)
        assert features.dtype == np.float32
        assert np.ptp(features) <= 2.0 + 1e-6  # eight powers of ten, divided by four
        peaks.append(int(features.mean(axis=1).argmax()))
    assert peaks == sorted(set(peaks))
    assert peaks[1] == pytest.approx(26, abs=1)  # 1000 Hz is mel 15 of 45.2: band 15 / 45.2 * 81 - 1


def test_long_sound_is_cut_where_it_is_quiet_and_nothing_is_lost() -> None:
    sound = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    sound[16_000:20_000] = 0
    pieces = _mel.cut(sound, 24_000)
    assert all(len(piece) <= 24_000 for piece in pieces)
    assert np.array_equal(np.concatenate(pieces), sound)
    assert 16_000 <= len(pieces[0]) <= 20_000


@pytest.mark.parametrize(
    ("text", "times", "expected"),
    [
        ("Open the file. Open the file. Open the", 2, "Open the file."),
        ("Say it. Then stop. Say it.", 3, "Say it. Then stop. Say it."),
        ("No. No. I said no.", 2, "No. No. I said no."),
        ("the the the the", 2, "the"),
        ("go on go on go on go", 2, "go on"),
        ("All is well.", 2, "All is well."),
        ("", 2, ""),
    ],
)
def test_loops_are_cut_and_speech_is_not(text: str, times: int, expected: str) -> None:
    assert without_repeats(text, times) == expected


def cut_at_first_end(text: str, stops: list[str]) -> str:
    """What a stop means, said once more: the first that is complete ends the text before it."""
    for end in range(len(text) + 1):
        found = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: min(found)]
    return text


@given(
    st.lists(st.text("ab", max_size=4), max_size=8),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_is_exact_however_the_text_was_cut(pieces: list[str], stops: list[str]) -> None:
    filter = Stops(stops)
    shown = "".join(filter.feed(piece) for piece in pieces) + filter.finish()
    assert shown == cut_at_first_end("".join(pieces), stops)


@given(st.text())
def test_tokens_end_where_their_characters_do(text: str) -> None:
    """Tokens of single bytes: those of one character all end behind it."""
    ends = char_ends([bytes([value]) for value in text.encode()], text)
    assert ends is not None
    assert list(ends) == sorted(ends)
    assert [ends.count(place) for place in range(1, len(text) + 1)] == [len(each.encode()) for each in text]


def test_what_is_put_before_a_text_ends_behind_none_of_it() -> None:
    assert char_ends([b"<s>", b" The", b" sea"], "The sea") == (0, 3, 7)
    assert char_ends([b"the", b" sea"], "The sea") is None, "these tokens spell another text"
    assert char_ends([], "") == ()


def test_a_vocabulary_is_spelled_as_it_stands_in_a_text() -> None:
    pieces = {"▁The".encode(): 0, b"<0x0A>": 1, b"<end>": 2}
    assert spelled(pieces) == {0: b" The", 1: b"\n", 2: b"<end>"}
    assert spelled({b" The": 0, b"<0x0A>": 1}) == {0: b" The", 1: b"<0x0A>"}
