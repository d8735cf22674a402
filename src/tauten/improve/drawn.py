"""What can be optimised is drawn: its steps are known before it runs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from tauten.describe.graph import Graph
from tauten.describe.workflow import Workflow
from tauten.errors import PlanError


def drawn(workflow: Workflow[..., Any]) -> Graph:
    """The graph of a workflow; raises PlanError E132 for a program, which has none before it runs."""
    if workflow.graph is None:
        raise PlanError(
            f"'{workflow.name}' is an `async def` workflow: its order is only known as it runs",
            help="draw it (`def`) where its steps are fixed, or measure its plans",
            code="E132",
        )
    return workflow.graph
