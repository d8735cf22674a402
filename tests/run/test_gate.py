"""The gate: opens on proof, for whom it was proved; closes by itself, and says why; survives a restart."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import math
import random
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tauten.errors import InputError, MachineError
from tauten.plan.files import replace
from tauten.run.gating import gates
from tauten.run.gating.gate import Gate, Labelled, State, Terms
from tauten.run.gating.gates import KeptGate, gate_names, gate_path, open_gate
from tauten.run.gating.scope import POOL
from tauten.statistics.rates import first_count

TERMS = Terms(epsilon=0.02, eta=0.05, alpha=0.01, floor=0.05)
LEVELS = [0.9, 0.8, 0.5]


def clean(n: int, score: float = 0.95, tenant: str = "", category: str = "") -> list[Labelled]:
    return [Labelled(score, True, tenant, category)] * n


def opened(n: int = 300) -> Gate:
    gate = Gate(TERMS)
    gate.certify(clean(n), thresholds=LEVELS)
    return gate


def test_a_new_gate_is_closed_and_says_what_it_needs() -> None:
    gate = Gate(TERMS)
    assert not gate.allows(1.0)
    assert gate.shadows(1.0) == 0.0
    assert gate.verdicts() == []
    assert gate.needed == 149
    assert "149" in gate.why()


def test_it_opens_where_errors_are_proved_rare() -> None:
    gate = Gate(TERMS)
    [verdict] = gate.certify(clean(300) + [Labelled(0.6, False)] * 60, thresholds=LEVELS)
    assert verdict.open
    assert (verdict.threshold, verdict.n, verdict.wrong, verdict.needed) == (0.8, 300, 0, 149)
    assert verdict.bound <= 0.02
    assert gate.allows(0.8)
    assert not gate.allows(0.79)
    assert not gate.allows(math.nan)
    assert gate.why().startswith("open from 0.8")


def test_too_few_items_open_nothing_and_it_says_how_many() -> None:
    gate = Gate(TERMS)
    [verdict] = gate.certify(clean(100), thresholds=LEVELS)
    assert (verdict.open, verdict.threshold, verdict.n, verdict.needed) == (False, None, 100, 149)
    assert not gate.allows(1.0)
    assert "149 without an error would do" in gate.why()


def test_who_was_never_labelled_takes_no_shortcut() -> None:
    gate = Gate(TERMS)
    gate.certify(clean(600, tenant="a", category="billing"), thresholds=LEVELS)
    assert gate.allows(0.95, "a", "billing")
    assert not gate.allows(0.95, "a", "refunds")
    assert not gate.allows(0.95, "b", "billing")
    assert not gate.allows(0.95)


def test_large_cells_stand_alone_and_small_ones_share_a_claim_without_them() -> None:
    gate = Gate(TERMS)
    items = clean(900, tenant="big")
    items += clean(200, tenant="small") + clean(150, tenant="tiny") + [Labelled(0.95, False, "tiny")] * 9
    verdicts = {each.scope: each for each in gate.certify(items, thresholds=LEVELS)}
    assert set(verdicts) == {"big/", POOL}
    assert verdicts["big/"].open
    # the pool is judged by its own items: those of the large cell do not hide its errors
    assert (verdicts[POOL].n, verdicts[POOL].wrong, verdicts[POOL].open) == (359, 9, False)
    assert gate.allows(0.95, "big")
    assert not gate.allows(0.95, "small")
    assert verdicts["big/"].eta == verdicts[POOL].eta == pytest.approx(0.025)


def test_a_pool_opens_for_its_members() -> None:
    gate = Gate(TERMS)
    gate.certify(clean(120, tenant="a") + clean(120, tenant="b"), thresholds=LEVELS)
    assert gate.allows(0.95, "a")
    assert gate.allows(0.95, "b")
    assert not gate.allows(0.95, "c")


def test_a_member_that_goes_bad_is_closed_alone() -> None:
    gate = Gate(TERMS)
    gate.certify(clean(120, tenant="a") + clean(120, tenant="b"), thresholds=LEVELS)
    for _ in range(400):  # the others' many right ones keep the pool within its promise
        gate.observe(0.95, True, "a")
    for _ in range(40):
        if gate.allows(0.95, "b"):
            gate.observe(0.95, False, "b")
            for _ in range(60):
                gate.observe(0.95, True, "a")
    assert not gate.allows(0.95, "b")
    assert gate.allows(0.95, "a")
    assert gate.why("b").startswith("closed by itself")


def test_it_closes_by_itself_when_errors_come_and_says_why() -> None:
    gate, kept = opened(), []
    for _ in range(50):
        gate.observe(0.95, True)
    assert gate.allows(0.95)
    while gate.allows(0.95):
        gate.observe(0.95, False)
        kept.append(1)
        assert len(kept) < 20
    [verdict] = gate.verdicts()
    assert not verdict.open
    assert verdict.why.startswith("closed by itself")
    assert f"{len(kept)} of {50 + len(kept)} verified" in verdict.why
    assert verdict.evidence >= 1 / TERMS.alpha


def test_errors_at_the_promised_rate_hardly_ever_close_it() -> None:
    draw, worlds, closed = random.Random(31), 60, 0
    for _ in range(worlds):
        gate = opened()
        for _ in range(500):
            gate.observe(0.95, draw.random() >= TERMS.epsilon)
        closed += not gate.allows(0.95)
    assert closed <= first_count(worlds, TERMS.alpha, 0.9999)


def test_it_learns_only_while_it_is_closed() -> None:
    gate = Gate(TERMS)
    for _ in range(200):
        gate.observe(0.95, True)
    assert gate.learned == 200
    gate.certify(thresholds=LEVELS)
    assert gate.allows(0.95)
    assert gate.learned == 0  # they are spent
    gate.observe(0.3, True)  # below the threshold, where only some of the traffic is
    assert gate.learned == 0
    gate.observe(0.3, True, "new")
    assert gate.learned == 1


def test_a_shortcut_that_was_drawn_before_the_gate_closed_teaches_nothing() -> None:
    gate = opened()
    while gate.allows(0.95):
        gate.observe(0.95, False)
    learned = gate.learned
    gate.observe(0.95, True, chance=0.05)
    assert gate.learned == learned


def test_each_try_spends_its_part_of_the_error() -> None:
    gate = Gate(Terms(epsilon=0.02, eta=0.05, tries=2))
    [first] = gate.certify(clean(50), thresholds=LEVELS)
    assert first.eta == pytest.approx(0.025)
    assert first.needed == 183
    gate.certify(clean(190), thresholds=LEVELS)
    assert gate.allows(0.95)
    with pytest.raises(InputError, match=r"E292.*tries"):
        gate.certify(clean(900), thresholds=LEVELS)
    gate.forget()
    assert not gate.allows(0.95)
    gate.certify(clean(190), thresholds=LEVELS)
    assert gate.allows(0.95)


def test_without_thresholds_the_first_items_give_them_and_prove_nothing() -> None:
    draw = random.Random(32)
    gate = Gate(TERMS)
    scores = [draw.random() for _ in range(4000)]
    [verdict] = gate.certify([Labelled(score, draw.random() < score + 0.7) for score in scores])
    assert verdict.open
    assert verdict.threshold is not None
    assert 0.1 < verdict.threshold < 0.5  # above 0.11 fewer than 2 % are wrong
    assert verdict.n < 3200


def test_close_calls_are_verified_more_often() -> None:
    gate = Gate(TERMS)
    gate.certify(clean(300) + clean(300, 0.85), thresholds=LEVELS)
    assert gate.verdicts()[0].threshold == 0.5
    assert gate.shadows(0.95) == pytest.approx(0.05)
    assert gate.shadows(0.6) == pytest.approx(0.125)
    assert gate.shadows(0.4) == 0.0


def test_its_state_is_plain_json_and_survives() -> None:
    kept: list[bytes] = []
    gate = Gate(TERMS, keep=kept.append)
    gate.certify(clean(300, tenant="a"), thresholds=LEVELS)
    for _ in range(20):
        gate.observe(0.95, True, "a")
    gate.observe(0.95, False, "a")
    assert json.loads(gate.state())["format"] == "tauten.gate/1"
    again = Gate(TERMS, state=msgspec.json.decode(gate.state(), type=State))
    assert again.verdicts() == gate.verdicts()
    assert again.allows(0.95, "a")
    assert len(kept) == 2  # when it opened, and after sixteen observations


def test_gates_are_kept_by_name(tmp_path: Path) -> None:
    gate = open_gate("desk", TERMS, root=tmp_path)
    assert open_gate("desk", root=tmp_path) is gate
    gate.certify(clean(300), thresholds=LEVELS)
    gate.flush()
    assert gate_names(tmp_path) == ["desk"]
    assert KeptGate(gate_path("desk", tmp_path), None).allows(0.95)
    stricter = open_gate("desk", Terms(epsilon=0.001), root=tmp_path)
    assert not stricter.allows(0.95)  # what was proved was another promise


def test_it_says_where_anything_passes_what_was_proved_and_what_was_taken() -> None:
    gate = opened()
    assert gate.opens()
    assert not gate.opens("another")
    assert 0.0 < gate.bound() <= 0.02
    assert gate.bound("another") == 1.0
    gate.took()
    gate.took("another")
    assert gate.taken == {"*": 1}
    assert not gate.refresh(), "it is kept nowhere"
    while gate.opens():
        gate.observe(0.95, False)
    assert gate.bound() <= 0.02, "what was proved then"


def test_what_was_proved_of_other_scores_opens_nothing(tmp_path: Path) -> None:
    gate = open_gate("desk", TERMS, about="cosines of one model", root=tmp_path)
    gate.certify(clean(300), thresholds=LEVELS)
    gate.flush()
    path = gate_path("desk", tmp_path)
    assert open_gate("desk", TERMS, about="cosines of one model", root=tmp_path) is gate
    assert KeptGate(path, TERMS, "cosines of one model").opens()
    assert KeptGate(path, None).opens(), "who asks for nothing looks at what is there"
    assert not KeptGate(path, TERMS, "cosines of another model").opens()
    assert not open_gate("desk", TERMS, about="cosines of another model", root=tmp_path).opens()


def test_a_proof_of_another_process_is_heard_of_and_not_written_over(tmp_path: Path) -> None:
    path = gate_path("desk", tmp_path)
    ours = KeptGate(path, TERMS)
    ours.flush()
    theirs = KeptGate(path, TERMS)
    theirs.certify(clean(300), thresholds=LEVELS)
    theirs.flush()
    for number in range(50):
        ours.observe(0.9, number % 2 == 0)
    ours.flush()
    assert not ours.opens()
    assert KeptGate(path, None).opens(), "what was proved is there still"
    assert ours.refresh()
    assert ours.opens()
    assert not ours.refresh(), "there is no more news"
    ours.observe(0.95, True)
    ours.flush()
    assert KeptGate(path, None).verdicts()[0].verified == 1, "from then on it is its own"


def test_what_closes_by_itself_in_one_process_closes_in_the_others(tmp_path: Path) -> None:
    path = gate_path("desk", tmp_path)
    first = KeptGate(path, TERMS)
    first.certify(clean(300), thresholds=LEVELS)
    first.flush()
    second = KeptGate(path, TERMS)
    while first.opens():
        first.observe(0.95, False)
    first.flush()
    for _ in range(40):
        second.observe(0.95, True)
    second.flush()
    assert KeptGate(path, None).why().startswith("closed by itself"), "and is not written over"
    assert second.opens(), "it has not heard of it"
    assert second.refresh()
    assert not second.opens()


def test_a_gate_that_closes_while_another_process_writes_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gate_path("desk", tmp_path)
    first = KeptGate(path, TERMS)
    first.certify(clean(300), thresholds=LEVELS)
    first.flush()
    second = KeptGate(path, TERMS)
    closing = [first]

    def slow(path: Path, data: bytes) -> None:
        """The second looked whose claim there is, and has yet to write when the first one closes."""
        if closing:
            gate = closing.pop()
            while gate.opens():
                gate.observe(0.95, False)
            assert gate._writing is not None
            with suppress(TimeoutError):
                gate._writing.result(0.5)
        replace(path, data)

    monkeypatch.setattr(gates, "replace", slow)
    second.flush()
    first.flush()
    assert KeptGate(path, None).why().startswith("closed by itself")
    assert not first.refresh(), "nothing opens it again"
    assert not first.opens()
    assert second.refresh(), "what came after its own write is news"
    assert not second.opens()


def test_a_gate_that_cannot_be_locked_says_so(tmp_path: Path) -> None:
    path = gate_path("desk", tmp_path)
    gate = KeptGate(path, TERMS)
    path.parent.mkdir()
    (path.parent / "locks").write_text("a file where a folder should be")
    with pytest.raises(MachineError, match="cannot lock"):
        gate.flush()


def test_what_another_process_merely_learned_is_no_news(tmp_path: Path) -> None:
    path = gate_path("desk", tmp_path)
    ours, theirs = KeptGate(path, TERMS), KeptGate(path, TERMS)
    theirs.observe(0.9, True)
    theirs.flush()
    assert not ours.refresh()
    assert ours.learned == 0
    theirs.forget()
    theirs.flush()
    assert ours.refresh(), "that closes it everywhere"


def test_a_file_that_cannot_be_read_any_more_is_said_and_changes_nothing(tmp_path: Path) -> None:
    path = gate_path("desk", tmp_path)
    gate = KeptGate(path, TERMS)
    gate.certify(clean(300), thresholds=LEVELS)
    gate.flush()
    path.write_bytes(b"not JSON, and longer than nothing")
    with pytest.raises(InputError, match="E292"):
        gate.refresh()
    assert gate.opens()


def test_a_damaged_file_never_opens_a_gate(tmp_path: Path) -> None:
    path = gate_path("desk", tmp_path)
    path.parent.mkdir()
    path.write_bytes(b'{"format": "tauten.gate/1"')
    with pytest.raises(InputError, match="E292"):
        open_gate("desk", root=tmp_path)
    path.write_bytes(b'{"format": "tauten.gate/9", "terms": {}}')
    with pytest.raises(InputError, match=r"tauten\.gate/9"):
        open_gate("desk", root=tmp_path)
    with pytest.raises(InputError, match="no gate can be called"):
        open_gate("../desk", root=tmp_path)


@pytest.mark.parametrize("score", [-math.inf, math.inf, math.nan])
def test_a_score_that_is_no_number_passes_nowhere_and_teaches_nothing(score: float, tmp_path: Path) -> None:
    path = gate_path("desk", tmp_path)
    gate = KeptGate(path, TERMS)
    assert not gate.allows(score)
    assert gate.shadows(score) == 0.0
    gate.observe(score, False)
    gate.observe(0.9, True)
    gate.flush()
    assert KeptGate(path, None).learned == 1, "its file can be read"
    assert not opened().allows(score)
    assert opened().shadows(score) == 0.0


def test_what_has_no_score_proves_nothing_and_is_no_threshold() -> None:
    gate, bare = Gate(TERMS), Gate(TERMS)
    silent = [Labelled(-math.inf, False)] * 3
    [found] = gate.certify([each for one in clean(300) for each in (one, *silent)])
    assert found == bare.certify(clean(300))[0]
    assert found.threshold == 0.95
    given = Gate(TERMS)
    [found] = given.certify(clean(300) + silent, thresholds=[*LEVELS, -math.inf])
    assert (found.threshold, found.n) == (0.5, 300)
    assert msgspec.json.decode(given.state(), type=State).scopes[0].threshold == 0.5
    with pytest.raises(InputError, match="no labelled items"):
        Gate(TERMS).certify(silent)


def test_a_file_that_holds_observations_without_a_score_is_read_without_them(tmp_path: Path) -> None:
    path = gate_path("desk", tmp_path)
    gate = KeptGate(path, TERMS)
    for _ in range(3):
        gate.observe(0.9, True)
    gate.flush()
    kept = json.loads(path.read_bytes())
    kept["learned"].insert(1, [None, False, "", ""])
    path.write_text(json.dumps(kept))
    again = KeptGate(path, None)
    assert again.learned == 3
    assert [verdict.n for verdict in again.certify(thresholds=LEVELS)] == [3]


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match="no labelled items"):
        Gate(TERMS).certify([])
    with pytest.raises(InputError, match="slash"):
        Gate(TERMS).certify([Labelled(0.9, True, "a/b")])
    with pytest.raises(InputError, match="least chance"):
        Gate(Terms(floor=0.0))


def test_promises_hold_over_worlds_with_tenants_of_their_own() -> None:
    """Two tenants whose scores mean different things: each is judged by its own items."""
    draw, worlds, false = random.Random(33), 40, 0
    for _ in range(worlds):
        gate = Gate(TERMS)
        items = [_drawn(draw, "good", 0.05) for _ in range(2500)] + [
            _drawn(draw, "bad", 0.5) for _ in range(2500)
        ]
        draw.shuffle(items)
        gate.certify(items, thresholds=[1 - number / 40 for number in range(1, 40)])
        least = {
            tenant: min((s / 100 for s in range(101) if gate.allows(s / 100, tenant)), default=None)
            for tenant in ("good", "bad")
        }
        slope = {"good": 0.05, "bad": 0.5}
        false += any(
            from_ is not None and slope[tenant] * (1 - from_) / 2 > TERMS.epsilon
            for tenant, from_ in least.items()
        )
    assert false <= first_count(worlds, TERMS.eta, 0.9999)


def _drawn(draw: random.Random, tenant: str, slope: float) -> Labelled:
    score = draw.random()
    return Labelled(score, draw.random() >= slope * (1 - score), tenant)
