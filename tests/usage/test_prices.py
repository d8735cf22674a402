"""Prices: those of genai-prices as that package itself computes them, one's own before them, and unknown is not free."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tauten.errors import InputError, MachineError
from tauten.run.usage import price_data
from tauten.run.usage.cost import NANO, Cost, money, nano_of, total
from tauten.run.usage.price_data import Priced
from tauten.run.usage.prices import Prices, cost
from usage.kit_usage import PRICES, prices

MARCH = datetime(2026, 3, 4, 12, tzinfo=UTC)
PLAIN = {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "requests_kcount"}


@pytest.mark.parametrize(
    "at", [MARCH, datetime(2026, 11, 1, 3, tzinfo=UTC), datetime(2024, 6, 1, 18, tzinfo=UTC)]
)
@pytest.mark.parametrize(
    "units",
    [
        {"input_tokens": 1000, "output_tokens": 100},
        {"input_tokens": 300_001, "cached_tokens": 200_000, "output_tokens": 1},
        {"input_tokens": 40, "cached_tokens": 10, "cache_write_tokens": 30, "output_tokens": 7},
    ],
)
def test_a_price_is_what_the_package_itself_says(at: datetime, units: dict[str, float]) -> None:
    """For every model that is priced by plain tokens, at times that tell its dated and daily prices apart."""
    from genai_prices.data_snapshot import get_snapshot
    from genai_prices.types import Usage

    ours, snapshot, compared = Prices(), get_snapshot(), 0
    names = {"cached_tokens": "cache_read_tokens"}
    usage = Usage(**{names.get(unit, unit): int(amount) for unit, amount in units.items()})
    for provider in snapshot.providers:
        for model in provider.models:
            try:
                theirs = snapshot.calc(usage, model.id, provider.id, None, at)
            except LookupError:  # an id that does not match itself
                assert ours.call(provider.id, model.id, units, at).nano is None
                continue
            keys = {key for key, value in theirs.model_price.__dict__.items() if value is not None}
            if not keys <= PLAIN or "input_mtok" not in keys or "output_mtok" not in keys:
                continue
            found = ours.call(provider.id, model.id, units, at)
            assert found.nano == nano_of(theirs.total_price), (provider.id, model.id, keys)
            assert found.by.startswith("genai-prices ")
            compared += 1
    assert compared > 500


def test_no_http_client_and_no_validator_comes_in_with_prices() -> None:
    code = (
        "import sys; from datetime import datetime, UTC\n"
        "from tauten.run.usage.prices import Prices\n"
        "found = Prices().call('openai', 'gpt-4o', {'input_tokens': 1, 'output_tokens': 1}, datetime.now(UTC))\n"
        "assert found.nano, found\n"
        "print(sorted({'httpx', 'httpx2', 'pydantic', 'genai_prices', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("provider", "model"),
    [("openai", "no-such-model"), ("nobody", "gpt-4o"), ("", ""), ("https://else.example", "gpt-4o")],
)
def test_what_nobody_prices_is_unknown(provider: str, model: str) -> None:
    assert Prices().call(provider, model, {"input_tokens": 1}, MARCH).nano is None


def test_a_provider_is_known_by_its_address_and_a_date_without_dashes() -> None:
    units = {"input_tokens": 10, "output_tokens": 10}
    named = Prices().call("openai", "gpt-4o-2024-08-06", units, MARCH)
    assert named.nano
    assert Prices().call("https://api.openai.com/v1", "gpt-4o-20240806", units, MARCH) == named
    assert Prices().call("api.openai.com", "gpt-4o-20240806", units, MARCH) == named


@pytest.mark.parametrize("units", [{}, {"output_audio_tokens": 3}, {"audio_seconds": 3}])
def test_units_that_the_price_does_not_know_make_it_unknown(units: dict[str, float], tmp_path: Path) -> None:
    assert prices(tmp_path).call("house", "small", units, MARCH).nano is None


def test_parts_without_a_price_of_their_own_have_that_of_the_whole(tmp_path: Path) -> None:
    units = {
        "input_tokens": 100,
        "cached_tokens": 40,
        "image_tokens": 10,
        "output_tokens": 4,
        "reasoning_tokens": 3,
    }
    assert prices(tmp_path).call("house", "small", units, MARCH).nano == 60 * 1000 + 40 * 100 + 4 * 2500


def test_seconds_that_are_only_told_cost_nothing_beside_tokens(tmp_path: Path) -> None:
    units = {"input_tokens": 10, "output_tokens": 0, "audio_seconds": 9.5}
    assert prices(tmp_path).call("house", "small", units, MARCH).nano == 10_000


PER = st.decimals(min_value=0, max_value=1000, places=4)
COUNT = st.integers(0, 10**7)


@given(PER, PER, PER, COUNT, COUNT, COUNT)
def test_a_whole_and_its_parts_are_charged_once_each(
    whole: Decimal, part: Decimal, out: Decimal, plain: int, cached: int, made: int
) -> None:
    table = {
        "input_tokens": Priced("input_tokens", 10**6, whole),
        "cached_tokens": Priced("cached_tokens", 10**6, part),
        "output_tokens": Priced("output_tokens", 10**6, out),
    }
    units = {"input_tokens": plain + cached, "cached_tokens": cached, "output_tokens": made}
    assert cost(table, units) == (whole * plain + part * cached + out * made) / 10**6


@given(
    st.dictionaries(st.sampled_from(["input_tokens", "output_tokens", "cached_tokens"]), COUNT, min_size=1)
)
def test_without_a_price_for_what_was_made_nothing_is_known(units: dict[str, float]) -> None:
    found = cost({"input_tokens": Priced("input_tokens", 10**6, Decimal(1))}, units)
    assert (found is None) is bool(
        units.get("output_tokens") or (units.get("cached_tokens") and not units.get("input_tokens"))
    )


def test_a_tier_is_of_all_tokens(tmp_path: Path) -> None:
    price = Priced("input_tokens", 10**6, Decimal(1), ((200_000, Decimal(2)),))
    assert cost({"input_tokens": price}, {"input_tokens": 200_000}) == Decimal("0.2")
    assert cost({"input_tokens": price}, {"input_tokens": 200_001}) == Decimal("0.400002")


# -- one's own ------------------------------------------------------------------------------------------------

DATED = """
tauten = "prices/1"
alias = { azure-west = "azure" }
[[price]]
provider = "openai"
model = "gpt-4o*"
until = 2026-03-01
per_million = { input_tokens = 100, output_tokens = 100 }
[[price]]
provider = "openai"
model = "gpt-4o*"
from = 2026-03-01
per_million = { input_tokens = 200, output_tokens = 200 }
"""


def test_own_prices_hold_in_their_time_and_go_before_the_data(tmp_path: Path) -> None:
    own, units = prices(tmp_path, DATED, bundled=True), {"input_tokens": 1, "output_tokens": 0}
    february, march = datetime(2026, 2, 28, 23, 59, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
    assert own.call("openai", "gpt-4o-mini", units, february).nano == 100_000
    assert own.call("openai", "gpt-4o-mini", units, march).nano == 200_000
    assert own.call("openai", "gpt-4.1", units, march).by.startswith("genai-prices")


def test_an_alias_has_the_prices_of_whom_it_names(tmp_path: Path) -> None:
    own, units = prices(tmp_path, DATED, bundled=True), {"input_tokens": 100, "output_tokens": 10}
    assert own.call("azure-west", "gpt-4.1", units, MARCH) == own.call("azure", "gpt-4.1", units, MARCH)
    assert own.call("azure-west", "gpt-4.1", units, MARCH).nano


def test_core_seconds_have_the_machine_s_price(tmp_path: Path) -> None:
    assert prices(tmp_path).local({"core_seconds": 2.0}, MARCH).nano == 2 * 10_000
    assert prices(tmp_path).local({"input_tokens": 4}, MARCH).nano is None
    assert Prices().local({"core_seconds": 2.0}, MARCH).nano is None


def test_energy_is_added_where_it_is_known_and_else_nothing_is(tmp_path: Path) -> None:
    own = prices(tmp_path, PRICES + 'kilowatt_hour = "0.36"\n')
    assert own.local({"core_seconds": 1.0, "energy_j": 3.6}, MARCH).nano == 10_000 + 360
    assert own.local({"core_seconds": 1.0}, MARCH).nano is None


@pytest.mark.parametrize(
    "text",
    [
        "[",
        'tauten = "prices/2"',
        'tauten = "prices/1"\n[[price]]\nprovider = "a"\nmodel = "b"\nper_million = { input_token = 1 }\n',
        'tauten = "prices/1"\n[[price]]\nprovider = "a"\nmodel = "b"\nper_million = { input_tokens = -1 }\n',
        'tauten = "prices/1"\n[[price]]\nprovider = "a"\nmodel = "b"\nper_million = { input_tokens = "x" }\n',
        'tauten = "prices/1"\n[[machine]]\ncore_hour = "NaN"\n',
        'tauten = "prices/1"\nprice_list = 1\n',
    ],
)
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as raised:
        prices(tmp_path, text)
    assert raised.value.code == "E237"


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="E237"):
        Prices([tmp_path / "none.toml"])


# -- money ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "$0"),
        (1, "$0.000000001"),
        (1_234, "$0.00000123"),
        (150_000, "$0.00015"),
        (420_000_000, "$0.42"),
        (NANO, "$1.00"),
        (1234 * NANO + 567_000_000, "$1,234.57"),
    ],
)
def test_money_reads_as_people_write_it(nano: int, shown: str) -> None:
    assert money(nano) == shown


def test_a_sum_says_at_least_where_a_price_is_missing() -> None:
    assert str(total([NANO, None, NANO])) == "at least $2.00"
    assert str(total([None])) == "unknown"
    assert str(total([])) == "$0"
    assert total([1, None]) == Cost(1, 1)


@given(st.lists(st.integers(0, 10**15)))
def test_sums_of_money_are_exact(amounts: list[int]) -> None:
    assert total(amounts).dollars * NANO == sum(amounts)


# -- the data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["import os\n", "unit_data = Thing(1)\n", "from socket import socket\n", "unit_data = open('x')\n"],
)
def test_data_that_do_more_than_say_something_are_not_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data_units.py"
    path.write_text(text)
    with pytest.raises(MachineError) as raised:
        price_data._read(path)
    assert raised.value.code == "E343"


def test_data_that_are_not_there_leave_prices_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> object:
        raise MachineError("genai-prices is not installed", help="pip install it", code="E343")

    monkeypatch.setattr(price_data, "bundled", none)
    asked = Prices()
    assert asked.call("openai", "gpt-4o", {"input_tokens": 1, "output_tokens": 1}, MARCH).nano is None
    assert "not installed" in asked.problem
