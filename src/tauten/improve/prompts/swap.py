"""The same workflow with another template in one of its steps."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from tauten.describe.graph import Literal
from tauten.describe.stages.generate import SETTINGS
from tauten.describe.template import Template
from tauten.describe.workflow import Workflow
from tauten.improve.drawn import drawn
from tauten.improve.prompts.values import chosen_from
from tauten.plan.lower import step_params
from tauten.plan.plan import Plan


def with_template(workflow: Workflow[..., Any], step: str, template: Template) -> Workflow[..., Any]:
    """A copy of a drawn workflow whose step asks by another template; the workflow itself stays as it is.

    Raises WorkflowError E104, E108 or E119 where the template does not fit the call.
    """
    graph = drawn(workflow)
    stage = graph.stages[step]
    fields = {name: source for name, source in stage.inputs.items() if name != "template"}
    template.check(fields, reserved=SETTINGS)
    template.check_values(
        {name: source.value for name, source in fields.items() if isinstance(source, Literal)}
    )
    settings = step_params(stage.kind, stage.params, Plan().stage(step), step)
    chosen_from(template, settings)
    changed = replace(stage, inputs={**stage.inputs, "template": Literal(template)})
    found = copy.copy(workflow)
    found.graph = replace(graph, stages={**graph.stages, step: changed})
    return found
