"""`tauten demo assistant --quick`: a real server, a slow service, and what each layer shows. Times are not judged."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from run.kit_redis import BINARY, MISSING, RedisServer
from tauten.cli.main import run
from tauten.examples.assistant import tour
from tauten.examples.assistant.lookup import says
from tauten.examples.assistant.orders import bundled


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures that the command writes."""
    file = tmp_path_factory.mktemp("demo") / "figures.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TAUTEN_REDIS", raising=False)
        assert run(["demo", "assistant", "--quick", "--json", str(file)]) == 0
    content: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    assert content["schema"] == "tauten.demo.assistant/1"
    return content


def layers(shown: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in shown["tour"]["layers"]}


def test_each_layer_saves_the_lookups_that_it_should(shown: dict[str, Any]) -> None:
    found = layers(shown)
    for name in ("none", "miss"):
        assert found[name]["lookups"] == found[name]["asked"] == tour.QUICK.orders
    assert found[f"single-flight, {tour.AT_ONCE} at once"]["lookups"] == 1
    assert found["memory, same words"]["asked"] == tour.QUICK.hits
    for name in ("memory, same words", "memory, other words"):
        assert found[name]["lookups"] <= 1, "none, but for one that was begun early"
    assert found["unknown order, first"]["lookups"] == 1


def test_a_change_is_seen_at_the_next_question_after_its_tag_was_forgotten(shown: dict[str, Any]) -> None:
    first, unsaid, forgotten, again = shown["tour"]["scenes"]["a change"]
    order = bundled()[-2]
    assert says(order) in first["answer"]
    assert unsaid["answer"] == first["answer"], "it may be 20 s old"
    assert forgotten["answer"] != first["answer"]
    assert again["answer"] == forgotten["answer"]


def test_what_is_too_old_is_looked_up_behind(shown: dict[str, Any]) -> None:
    first, _, later = shown["tour"]["scenes"]["stale"]
    assert later["answer"] != first["answer"]


def test_a_service_that_is_down_is_hidden_for_as_long_as_allowed_and_then_told(shown: dict[str, Any]) -> None:
    up, *while_down, after = shown["tour"]["scenes"]["the service is down"]
    assert [each["status"] for each in while_down] == [200, 503]
    assert while_down[0]["answer"] == up["answer"] == after["answer"]
    assert "cannot be looked up" in while_down[1]["answer"]


def test_the_books_of_the_caches_say_what_was_saved(shown: dict[str, Any]) -> None:
    [held] = shown["tour"]["held"]
    assert held["step"] == "order_status"
    hits = sum(held["tier_hits"].values())
    assert hits >= 2 * tour.QUICK.hits
    assert held["saved_cents"] > 0


def test_what_was_left_out_is_said(shown: dict[str, Any]) -> None:
    assert [each.partition(":")[0] for each in shown["tour"]["left_out"]] == [
        "embedding, search, quotation and sentence",
        "disk",
        "redis",
        "likeness",
    ]


def test_the_sweep_of_repeats_stands_beside_it(shown: dict[str, Any]) -> None:
    for rows in shown["repeats"].values():
        assert rows[0]["repeats"] == 0.0
        assert rows[0]["lookups"] == rows[0]["requests"]
        assert rows[-1]["lookups"] < rows[-1]["requests"]


@pytest.mark.skipif(BINARY is None, reason=MISSING)
def test_a_neighbour_finds_in_redis_what_the_other_looked_up(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()
    try:
        with tour.Service() as service:
            guide = tour._Guide(service, str(tmp_path), tour.QUICK, server.address, lambda text: None)
            guide._neighbour()
    finally:
        server.kill()
    found = guide.found.layer("redis, from a neighbour")
    assert found.asked == tour.QUICK.orders
    assert found.lookups < found.asked, "a look that is late is given up: not each of them need be"


@pytest.mark.models
@pytest.mark.slow
def test_the_whole_tour_finds_answers_of_the_pages_on_disk_after_a_restart() -> None:
    found = tour.tour(tour.Size(orders=1, hits=20, pages=2))
    assert "a page: disk, after a restart" in {layer.name for layer in found.layers}
    by_step = {each.step: each.tier_hits for each in found.held}
    assert set(by_step) == {"order_status", "embed", "search", "quote", "generate"}
    assert by_step["generate"]["memory"] >= 18
