"""Measurements, hardware and cards: estimates, merging, borrowing, files."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tauten.errors import InputError, InternalError, MachineError, PlanError
from tauten.plan import measurements as module
from tauten.plan.card import Card, CardLatency, CardQuality, card_from_json, card_from_toml
from tauten.plan.hardware import Hardware, hardware, simd_flags
from tauten.plan.measurements import LOAD, MEMORY, TOKENS_OUT, Key, Measurements
from tauten.plan.peaks import Probe

HERE = Hardware(2, ("avx512", "amx"), 24)
THERE = Hardware(16, ("avx512", "amx"), 128, "NVIDIA H200")
KEY = Key("ocr", model="rapidocr", backend="onnx", threads=2)

seconds = st.lists(st.floats(0, 100), min_size=1, max_size=60)


def filled(values: list[float], here: Hardware = HERE, key: Key = KEY) -> Measurements:
    measurements = Measurements(here)
    for value in values:
        measurements.observe(key, "compute", value)
    return measurements


def test_nothing_observed_is_no_data() -> None:
    measurements = filled([0.1])
    assert measurements.estimate(KEY, "queue") is None
    assert measurements.estimate(Key("ocr"), "compute") is None
    assert measurements.distribution(KEY, "queue") is None
    assert measurements.median(KEY, "compute") is None


def test_estimate_is_median_and_interval_in_ms() -> None:
    found = filled([i / 1000 for i in range(1, 101)]).estimate(KEY, "compute")
    assert found is not None
    assert found.mid_ms == pytest.approx(50, rel=0.02)
    assert found.low_ms == pytest.approx(5, rel=0.02)
    assert found.high_ms == pytest.approx(96, rel=0.02)
    assert (found.n, found.borrowed) == (100, False)


def test_one_observation_claims_little() -> None:
    found = filled([0.1]).estimate(KEY, "compute")
    assert found is not None
    assert (found.low_ms, found.mid_ms, found.high_ms) == pytest.approx((50, 100, 200), rel=0.01)


@given(seconds)
@settings(max_examples=60, deadline=None)
def test_estimates_enclose_their_middle(values: list[float]) -> None:
    found = filled(values).estimate(KEY, "compute")
    assert found is not None
    assert 0 <= found.low_ms <= found.mid_ms <= found.high_ms
    assert found.n == len(values)


def test_estimate_holds_nine_requests_of_ten() -> None:
    draw, held, runs = random.Random(3), 0, 500
    for _ in range(runs):
        found = filled([draw.lognormvariate(-3, 0.5) for _ in range(30)]).estimate(KEY, "compute")
        assert found is not None
        held += found.low_ms <= 1000 * draw.lognormvariate(-3, 0.5) <= found.high_ms
    assert held / runs > 0.86


def test_median_interval_narrows_with_observations() -> None:
    values = [0.1 + i / 1000 for i in range(100)]
    few, many = filled(values[::10]).median(KEY, "compute"), filled(values).median(KEY, "compute")
    assert few is not None
    assert many is not None
    assert few.low <= many.low <= many.mid <= many.high <= few.high


@given(seconds, seconds)
@settings(max_examples=40, deadline=None)
def test_merging_equals_observing_everything(left: list[float], right: list[float]) -> None:
    merged = filled(left)
    merged.merge(filled(right))
    assert merged.estimate(KEY, "compute") == filled(left + right).estimate(KEY, "compute")
    assert len(merged) == len(left) + len(right)


def test_foreign_measurements_are_borrowed_until_there_are_own() -> None:
    measurements = Measurements(HERE)
    measurements.merge(filled([0.1] * 50, THERE))
    borrowed = measurements.estimate(KEY, "compute")
    assert borrowed is not None
    assert borrowed.borrowed
    assert borrowed.low_ms == pytest.approx(50, rel=0.01)
    assert borrowed.high_ms == pytest.approx(200, rel=0.01)
    assert len(measurements) == 0
    assert measurements.distribution(KEY, "compute") is None
    measurements.observe(KEY, "compute", 0.4)
    own = measurements.estimate(KEY, "compute")
    assert own is not None
    assert (own.n, own.borrowed) == (1, False)


def test_the_foreign_table_with_most_data_is_used() -> None:
    measurements = Measurements(HERE)
    measurements.merge(filled([0.1] * 3, THERE))
    measurements.merge(filled([0.2] * 9, Hardware(8, ("avx2",), 16)))
    found = measurements.estimate(KEY, "compute")
    assert found is not None
    assert found.n == 9


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0


def elsewhere(value: float, cause: str, probe: Probe | None) -> Measurements:
    other = Measurements(THERE, probe)
    for _ in range(50):
        other.observe(KEY, cause, value)
    return other


def test_what_was_measured_elsewhere_is_scaled_where_both_machines_were_probed() -> None:
    measurements = Measurements(HERE, Probe(50.0, 10.0))
    measurements.merge(elsewhere(0.1, "compute", Probe(200.0, 20.0)))
    found = measurements.estimate(KEY, "compute")
    assert found is not None
    assert found.borrowed
    # arithmetic is four times slower here, memory twice: between those, and half as much again to each side
    assert (found.low_ms, found.mid_ms, found.high_ms) == pytest.approx((133.3, 282.8, 600), rel=0.01)


def test_an_equal_machine_is_still_not_this_one() -> None:
    measurements = Measurements(HERE, Probe(50.0, 10.0))
    measurements.merge(elsewhere(0.1, "compute", Probe(50.0, 10.0)))
    found = measurements.estimate(KEY, "compute")
    assert found is not None
    assert found.borrowed
    assert found.low_ms < 0.7 * found.mid_ms < found.mid_ms < 0.7 * found.high_ms


def test_rates_fall_where_times_grow_and_sizes_stay() -> None:
    measurements = Measurements(HERE, Probe(50.0, 10.0))
    measurements.merge(elsewhere(40.0, TOKENS_OUT, Probe(200.0, 20.0)))
    measurements.merge(elsewhere(1e9, MEMORY, Probe(200.0, 20.0)))
    rate, size = measurements.amount(KEY, TOKENS_OUT), measurements.amount(KEY, MEMORY)
    assert rate is not None
    assert size is not None
    assert (rate.low, rate.mid, rate.high) == pytest.approx((6.67, 14.14, 30), rel=0.02)
    assert (rate.unit, size.unit) == ("tokens/s", "bytes")
    assert (size.low, size.mid, size.high) == pytest.approx((0.8e9, 1e9, 1.25e9), rel=0.01)


def test_amounts_have_their_own_unit_and_are_no_times() -> None:
    measurements = Measurements(HERE)
    measurements.observe(KEY, LOAD, 1.5)
    measurements.observe(KEY, MEMORY, 3e8)
    load, size = measurements.amount(KEY, LOAD), measurements.amount(KEY, MEMORY)
    assert load is not None
    assert size is not None
    assert (load.mid, load.unit) == (pytest.approx(1.5, rel=0.01), "s")
    assert (size.mid, size.unit, size.borrowed) == (pytest.approx(3e8, rel=0.01), "bytes", False)
    with pytest.raises(InternalError):
        measurements.estimate(KEY, MEMORY)
    assert measurements.amount(Key("x"), MEMORY) is None


def test_sizes_and_probes_survive_the_file(tmp_path: Path) -> None:
    key = Key("", "minilm", "int8", "onnx", batch=8, shape=128)
    measurements = Measurements(HERE, Probe(50.0, 10.0))
    measurements.observe(key, "compute", 0.1)
    measurements.observe(key, MEMORY, 3e8)
    measurements.merge(elsewhere(0.1, "compute", Probe(200.0, 20.0)))
    measurements.save(tmp_path / "m.json")
    back = Measurements.load(tmp_path / "m.json", HERE)
    assert back.probe == Probe(50.0, 10.0)
    assert back.amount(key, MEMORY) == measurements.amount(key, MEMORY)
    assert back.estimate(KEY, "compute") == measurements.estimate(KEY, "compute")
    abroad = Measurements.load(tmp_path / "m.json", THERE)
    assert abroad.probe == Probe(200.0, 20.0)
    borrowed = abroad.estimate(key, "compute")
    assert borrowed is not None
    assert borrowed.borrowed
    assert 25 < borrowed.mid_ms < 50


def test_files_of_the_first_format_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(
        '{"tauten":"measurements/1","relative_error":0.01,"sections":[{"hardware":'
        '{"cores":2,"flags":["avx512","amx"],"memory_gib":24},"entries":[{"key":{"step":"ocr","model":"rapidocr",'
        '"backend":"onnx","threads":2},"cause":"compute","low_s":0.5,"high_s":0.5,"total_s":1.0,'
        '"buckets":[[-34,2]]}]}]}'
    )
    found = Measurements.load(path, HERE).estimate(KEY, "compute")
    assert found is not None
    assert (found.mid_ms, found.n) == (pytest.approx(500, rel=0.02), 2)


def test_keys_and_causes_are_listed() -> None:
    measurements = filled([0.1, 0.2])
    measurements.observe(KEY, "queue", 0.0)
    measurements.observe(Key("classify"), "compute", 0.01)
    assert list(measurements.keys()) == [KEY, Key("classify")]
    assert measurements.causes(KEY) == ("compute", "queue")


def test_file_round_trip_keeps_every_section(tmp_path: Path) -> None:
    measurements = filled([0.0, 0.1, 0.1, 0.25])
    measurements.merge(filled([0.7], THERE, Key("generate", precision="int8", batch=4)))
    path = tmp_path / "new" / "m.json"
    measurements.save(path)
    back = Measurements.load(path, HERE)
    assert back.estimate(KEY, "compute") == measurements.estimate(KEY, "compute")
    assert len(back) == 4
    borrowed = back.estimate(Key("generate", precision="int8", batch=4), "compute")
    assert borrowed is not None
    assert borrowed.borrowed
    back.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["m.json"]


def test_a_file_read_elsewhere_is_borrowed_and_comes_home(tmp_path: Path) -> None:
    filled([0.1] * 5).save(tmp_path / "m.json")
    abroad = Measurements.load(tmp_path / "m.json", THERE)
    found = abroad.estimate(KEY, "compute")
    assert found is not None
    assert found.borrowed
    abroad.save(tmp_path / "back.json")
    home = Measurements.load(tmp_path / "back.json", HERE).estimate(KEY, "compute")
    assert home is not None
    assert not home.borrowed


def test_files_stay_small(tmp_path: Path) -> None:
    draw = random.Random(1)
    filled([draw.lognormvariate(-3, 0.3) for _ in range(20_000)]).save(tmp_path / "m.json")
    assert (tmp_path / "m.json").stat().st_size < 4000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"tauten":"measurements/9","relative_error":0.01,"sections":[]}',
        '{"tauten":"measurements/1","relative_error":0.02,"sections":[]}',
        '{"tauten":"measurements/1","relative_error":0.01,"sections":[],"x":1}',
        '{"tauten":"measurements/1","relative_error":0.01,"sections":[1]}',
        '{"tauten":"measurements/2","relative_error":0.01,"sections":[],"x":1}',
        '{"tauten":"measurements/2","relative_error":0.01,"sections":[{"hardware":{"cores":2},"entries":'
        '[{"key":{"step":"ocr"},"cause":"memory","unit":"s","low":1,"high":1,"total":1,"buckets":[[0,1]]}]}]}',
        '{"tauten":"measurements/1","relative_error":0.01,"sections":[{"hardware":{"cores":2},"entries":'
        '[{"key":{"step":"ocr"},"cause":"compute","low_s":1,"high_s":1,"total_s":1,"buckets":[[0,-1]]}]}]}',
        '{"tauten":"measurements/2","relative_error":0.01,"sections":[{"hardware":{"cores":2},"entries":'
        '[{"key":{"step":"ocr"},"cause":"compute","low":0,"high":0,"total":0}]}]}',
        '{"tauten":"measurements/2\xff","relative_error":0.01,"sections":[]}',
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(PlanError, match="E150"):
        Measurements.load(path, HERE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no measurements at"):
        Measurements.load(tmp_path / "none.json", HERE)


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.json"
    filled([0.1]).save(path)
    old = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(MachineError, match="No space left"):
        filled([0.2]).save(path)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.json"]


# --- hardware


def test_hardware_prints_as_in_a_plan() -> None:
    assert str(HERE) == "2 cores avx512 amx, 24 GiB, no gpu"
    assert str(Hardware(1, (), 1)) == "1 core, 1 GiB, no gpu"
    assert str(THERE) == "16 cores avx512 amx, 128 GiB, NVIDIA H200"


def test_hardware_matches_what_differs_only_by_reserved_memory() -> None:
    assert HERE.matches(Hardware(2, ("avx512", "amx"), 23))
    assert not HERE.matches(Hardware(2, ("avx512", "amx"), 12))
    assert not HERE.matches(Hardware(4, ("avx512", "amx"), 24))
    assert not HERE.matches(Hardware(2, ("avx512",), 24))
    assert not HERE.matches(Hardware(2, ("avx512", "amx"), 24, "NVIDIA H200"))


@pytest.mark.parametrize(
    ("flags", "short"),
    [
        ("avx2 avx512f avx512_vnni amx_tile", ("avx512", "amx")),
        ("avx2 avx512f avx512_vnni", ("avx512", "vnni")),
        ("avx2 avx512f", ("avx512",)),
        ("avx avx2 avx_vnni", ("avx2", "vnni")),
        ("sse2", ()),
        ("asimd i8mm", ("neon", "i8mm")),
    ],
)
def test_flags_are_shortened(flags: str, short: tuple[str, ...]) -> None:
    assert simd_flags(frozenset(flags.split())) == short


def test_this_machine_has_a_fingerprint() -> None:
    here = hardware()
    assert here.cores >= 1
    assert here.memory_gib >= 1
    assert here.matches(here)


# --- cards

CARD = Card(
    model="minilm",
    variant="int8",
    format="onnx",
    size_bytes=23_000_000,
    load_ms=41.5,
    latency=[CardLatency(1, 3.1, 3.0, 3.3, 400, threads=2, p95_ms=4.0), CardLatency(8, 14.0, 13.0, 15.0, 90)],
    quality=[CardQuality("hit_at_1", 0.93, 0.85, 0.97, 60, against="fp32")],
    verdict="cannot conclude",
    needed=210,
    made_how='quantised "per channel"\nfrom fp32',
    made_on=str(HERE),
    made_at="2025-01-02T03:04:05Z",
)


def test_cards_round_trip() -> None:
    assert card_from_toml(CARD.to_toml()) == CARD
    assert card_from_json(CARD.to_json()) == CARD
    bare = Card("whisper", "base", "ct2")
    assert card_from_toml(bare.to_toml()) == bare


def test_card_finds_its_latency() -> None:
    assert CARD.latency_at(8) == CARD.latency[1]
    assert CARD.latency_at(1) is None
    assert CARD.latency_at(1, threads=2) == CARD.latency[0]


def test_a_card_with_an_unknown_key_suggests_the_right_one() -> None:
    with pytest.raises(PlanError, match="did you mean `size_bytes`"):
        card_from_toml(CARD.to_toml().replace("size_bytes", "size_byte"))
    with pytest.raises(PlanError, match="did you mean `high_ms`"):
        card_from_json(CARD.to_json().replace("high_ms", "hig_ms"), where="minilm.card")


@pytest.mark.parametrize("text", ["", "= 1", 'tauten = "plan/1"'])
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="E151"):
        card_from_toml(text)
    with pytest.raises(PlanError, match="E151"):
        card_from_json(text or "[]")
