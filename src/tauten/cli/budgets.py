"""`tauten usage budgets`: what is spent, held and left of each budget, and when it renews."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tauten.cli.usage import Place, open_book
from tauten.errors import MachineError

app = typer.Typer(add_completion=False)


@app.command()
def budgets(
    file: Annotated[Path, typer.Argument(metavar="BUDGETS.toml", show_default=False)],
    place: Place = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show the budgets of a file as they stand now."""
    from tauten.run.usage.budgets import Budgets
    from tauten.run.usage.database import DatabaseBusy
    from tauten.run.usage.limits import read_limits
    from tauten.run.usage.prices import Prices

    limits = read_limits(file)
    open_book(place).close()  # says where there is none
    kept = Budgets(limits, Prices(), lambda: open_book(place))
    try:
        states = kept.states()
    except DatabaseBusy as busy:
        raise MachineError(f"the budgets cannot be read: {busy}", help="try again", code="E361") from busy
    finally:
        kept.close()
    if as_json:
        record = {"schema": "tauten.usage.budgets/1", "budgets": [_plain(each) for each in states]}
        print(msgspec.json.format(msgspec.json.encode(record)).decode())
        return 0
    for each in states:
        limit, left = each.limit, each.limit.most - each.spent - each.held
        renews = f"renews {each.renews:%Y-%m-%d %H:%M} UTC" if each.renews is not None else "does not renew"
        name = f"{each.name} {each.whose}".strip()
        print(
            f"{name:<24} {limit.shown(max(left, 0))} left of {limit.shown(limit.most)}, {limit.shown(each.held)} held, {renews}"
        )
    return 0


def _plain(state: Any) -> dict[str, Any]:
    """Amounts as they are kept: billionths of a dollar, tokens, calls."""
    return {
        "name": state.name,
        "whose": state.whose,
        "period": state.period,
        "unit": "nano_usd" if state.limit.unit == "usd" else state.limit.unit,
        "most": state.limit.most,
        "spent": state.spent,
        "held": state.held,
        "renews": state.renews,
    }
