"""Plans: TOML in and out exactly, what is refused, fit, rebase, diff."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tauten as tt
from tauten.describe.stage import Context, Role
from tauten.errors import InputError, PlanError
from tauten.plan.lower import lower
from tauten.plan.plan import (
    Batch,
    ModelChoice,
    Plan,
    Rejected,
    StagePlan,
    check_fit,
    diff_plans,
    format_plan,
    load_plan,
    parse_plan,
    rebase,
)

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
PATHLESS = TEXT.filter(lambda text: not any(sign in text for sign in "/~\\"))
NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
SCALARS = st.one_of(st.booleans(), NUMBERS, PATHLESS)
SETTINGS = st.one_of(SCALARS, st.lists(SCALARS, max_size=3))
STRUCTURE = {*StagePlan.__struct_fields__, *ModelChoice.__struct_fields__}
KEYS = st.one_of(
    st.sampled_from(["max_tokens", "every_s", "window"]), TEXT.filter(lambda key: key not in STRUCTURE)
)
NAMES = st.one_of(st.sampled_from(["ocr", "inner.ocr", "a b", "ø", ""]), TEXT)
BATCH = st.builds(Batch, max=st.integers(1, 64))
CHOICE = st.builds(
    ModelChoice,
    model=PATHLESS,
    variant=PATHLESS,
    backend=PATHLESS,
    threads=st.integers(0, 8),
    batch=BATCH,
    options=st.dictionaries(KEYS, SETTINGS, max_size=2),
)
STAGE = st.builds(
    StagePlan,
    model=PATHLESS,
    variant=PATHLESS,
    precision=PATHLESS,
    threads=st.integers(0, 8),
    replicas=st.integers(1, 4),
    batch=BATCH,
    beside=st.lists(PATHLESS, max_size=2).map(tuple),
    decode=st.sampled_from(["thread", "process"]),
    view=st.dictionaries(TEXT, SCALARS, max_size=2),
    channel=st.integers(1, 100),
    locked=st.booleans(),
    why=TEXT,
    settings=st.dictionaries(st.sampled_from(["max_tokens", "window", "a b"]), SETTINGS, max_size=2),
    roles=st.dictionaries(st.sampled_from(["detect", "read", "ø"]), CHOICE, max_size=2),
)
PLANS = st.builds(
    Plan,
    name=TEXT,
    workflow=TEXT,
    graph=TEXT,
    made_on=TEXT,
    slo=st.builds(
        tt.Slo,
        p95_ms=st.none() | st.floats(0, 1e6, exclude_min=True),
        memory_bytes=st.none() | st.integers(1, 2**40),
    ),
    result=st.dictionaries(TEXT, SCALARS | st.dictionaries(TEXT, SCALARS, max_size=2), max_size=2),
    stages=st.dictionaries(NAMES, STAGE, max_size=3),
    rejected=st.lists(st.builds(Rejected, change=TEXT, why=TEXT), max_size=2).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(PLANS)
def test_a_plan_survives_its_file(plan: Plan) -> None:
    text = format_plan(plan)
    read = parse_plan(text)
    assert read == plan
    assert format_plan(read) == text
    assert read.id == plan.id


GOOD = """\
# Edited by hand.
tauten = "plan/1"
name = "tuned"
graph = "3f9a0b1c"

[stage.ocr]
threads = 2
beside = ["classify"]
batch = { max = 4 }
why = "two cores"

[stage.ocr.read]
backend = "openvino"
precision = "f32"
"""


def test_a_file_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "tuned.plan.toml"
    path.write_text(GOOD)
    plan = load_plan(path)
    ocr = plan.stage("ocr")
    assert (ocr.threads, ocr.beside, ocr.batch.max) == (2, ("classify",), 4)
    assert ocr.roles["read"] == ModelChoice(backend="openvino", precision="f32")
    assert plan.stage("other") == StagePlan()
    assert "tuned@" in plan.id
    assert plan.edit("ocr", why="another reason", locked=True).id == plan.id
    assert plan.edit("ocr", threads=1).id != plan.id
    assert plan.edit("other", why="looked at, and left alone").id == plan.id


BAD: dict[str, tuple[str, str, str, str]] = {
    "key at the top": ("graph =", "grpah =", "E109", r"p:4: unknown key `grpah`\nhelp: did you mean `graph`"),
    "wrong type": ("threads = 2", 'threads = "two"', "E109", r"Expected `int`"),
    "wrong batch": ("max = 4", "most = 4", "E109", r"unknown field `most`"),
    "negative threads": ("threads = 2", "threads = -1", "E109", r"p:6: `stage.ocr`: Expected `int` >= 0"),
    "no replica": ("threads = 2", "replicas = 0", "E109", r"Expected `int` >= 1 - at `\$.replicas`"),
    "a channel that holds nothing": ("threads = 2", "channel = 0", "E109", r"`int` >= 1 - at `\$.channel`"),
    "a negative wait": ("max = 4", "wait = -1", "E109", r"Expected `float` >= 0.0 - at `\$.batch.wait`"),
    "no number": ("max = 4", "wait = nan", "E109", r"Expected `float` >= 0.0 - at `\$.batch.wait`"),
    "of a role": (
        "precision = ",
        "threads = -1\nprecision = ",
        "E109",
        r"stage\.ocr\.read`: Expected `int` >= 0",
    ),
    "format": ("plan/1", "plan/9", "E124", r"reads 'plan/1'"),
    "not TOML": ("threads = 2", "threads = = 2", "E123", r"not TOML: .*line 7"),
    "a path": ('"openvino"', '"/opt/models/x"', "E125", r"p:13: stage\.ocr\.read\.backend"),
    "a home": ("threads = 2", 'model = "~/x"', "E125", r"p:7: stage\.ocr\.model"),
    "a host": ("threads = 2", 'url = "https://x.example/y"', "E125", r"no absolute paths or hosts"),
    "a path in a list": ("threads = 2", 'files = ["/x"]', "E125", r"stage\.ocr\.files"),
    "a windows path": ("threads = 2", "model = 'C:\\x'", "E125", r"stage\.ocr\.model"),
}


@pytest.mark.parametrize(("old", "new", "code", "says"), BAD.values(), ids=BAD)
def test_what_is_refused(old: str, new: str, code: str, says: str) -> None:
    with pytest.raises(PlanError, match=says) as caught:
        parse_plan(GOOD.replace(old, new, 1), where="p")
    assert caught.value.code == code


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="E203"):
        load_plan(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="E203"):
        load_plan(tmp_path / "binary.toml")


def test_a_file_of_an_editor_that_marks_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_plan(tmp_path / "marked.toml") == parse_plan(GOOD)


# -- fit ---------------------------------------------------------------------------------------------------


@tt.stage(pure=True, roles={"model": Role("told", ("synthetic",))})
async def ask(ctx: Context, q: str, *, window: str = "full") -> str:
    return str(await ctx.infer("model", q))


@tt.stage(pure=True)
async def other(q: str) -> str:
    return q


def graph_of(body: Any) -> Any:
    graph = tt.workflow(body).graph
    assert graph is not None
    return graph


def drawn(q: str) -> list[str]:
    return [ask(q), other(q)]  # type: ignore[call-arg,list-item,arg-type]


def test_a_plan_of_another_workflow_is_refused() -> None:
    graph = graph_of(drawn)
    check_fit(Plan(graph=graph.hash, stages={"ask": StagePlan(beside=("other",))}), graph)
    for plan, says in (
        (Plan(graph="00000000"), "made for graph 00000000"),
        (Plan(stages={"aks": StagePlan()}), "stage 'aks'"),
        (Plan(stages={"ask": StagePlan(beside=("othr",))}), "beside 'othr'"),
    ):
        with pytest.raises(PlanError, match=says) as caught:
            lower(graph, plan)
        assert caught.value.code == "E110"
    with pytest.raises(PlanError) as caught:
        check_fit(Plan(stages={"aks": StagePlan()}), graph, where="desk.toml")
    assert "did you mean `ask`?" in caught.value.help
    assert "tauten plan rebase" in caught.value.help
    assert caught.value.where == "desk.toml"


def test_rebase_keeps_what_fits() -> None:
    graph = graph_of(drawn)
    old = Plan(
        graph="00000000",
        result={"p95_ms": 1},
        stages={"ask": StagePlan(threads=2, beside=("gone", "other")), "gone": StagePlan(threads=1)},
    )
    new, dropped = rebase(old, graph)
    assert new.graph == graph.hash
    assert new.stages == {"ask": StagePlan(threads=2, beside=("other",))}
    assert new.result == {}, "what was measured was measured on another workflow"
    assert dropped == ["stage 'gone' is gone", "'ask' beside 'gone'"]
    lower(graph, new)


def test_diff_shows_settings_and_not_reasons() -> None:
    a = Plan(stages={"ask": StagePlan(threads=1, why="so")})
    b = Plan(stages={"ask": StagePlan(threads=2, why="thus"), "other": StagePlan(replicas=2)})
    assert diff_plans(a, b) == [("ask", "threads", 1, 2), ("other", "replicas", None, 2)]
    assert diff_plans(a, a.edit("ask", why="else")) == []


def test_what_you_write_it_keeps() -> None:
    def pinned(q: str) -> str:
        return ask(q, window="short", model="small")  # type: ignore[return-value,call-arg,arg-type]

    graph = graph_of(pinned)
    (step,) = lower(graph).steps
    assert step.params["window"] == "short"
    assert step.models["model"].model == "small"
    for stage, says in (
        (StagePlan(settings={"window": "full"}), "writes window='short', the plan says 'full'"),
        (StagePlan(model="large"), "pins model='small', the plan says 'large'"),
    ):
        with pytest.raises(PlanError, match=says) as caught:
            lower(graph, Plan(stages={"ask": stage}))
        assert caught.value.code == "E126"
    lower(graph, Plan(stages={"ask": StagePlan(settings={"window": "short"}, model="small")}))
    free = lower(graph_of(drawn), Plan(stages={"ask": StagePlan(model="large")})).steps[0]
    assert free.models["model"].model == "large"


def test_a_role_that_the_stage_has_not() -> None:
    plan = Plan(stages={"ask": StagePlan(roles={"modell": ModelChoice()})})
    with pytest.raises(PlanError, match="no role or table `modell`") as caught:
        lower(graph_of(drawn), plan)
    assert caught.value.code == "E109"
    assert "did you mean `model`?" in caught.value.help


def test_decode_steps_are_shared_by_equal_views_and_dead_pure_stages_are_left_out() -> None:
    def two(photo: tt.Image) -> dict[str, Any]:
        other("unused")
        return {"kind": tt.classify(photo), "again": tt.classify(photo, name="again"), "text": tt.ocr(photo)}  # type: ignore[call-arg]

    graph = graph_of(two)
    steps = {step.name: step for step in lower(graph).steps}
    decodes = [name for name, step in steps.items() if step.view is not None]
    assert "other" not in steps
    assert len(decodes) == len({steps[name].view.name for name in decodes})  # type: ignore[union-attr]
    assert steps["classify"].upstream == steps["again"].upstream
    size = {"max_side": 320}
    apart = lower(graph, Plan(stages={"again": StagePlan(view=size)}))  # type: ignore[arg-type]
    assert len([step for step in apart.steps if step.view is not None]) == len(decodes) + 1


def test_one_model_name_for_a_stage_of_two_models_is_refused() -> None:
    from tauten.describe.stages.ocr import ocr
    from tauten.plan.lower import model_choices
    from tauten.plan.plan import StagePlan

    with pytest.raises(PlanError) as failed:
        model_choices(ocr, StagePlan(model="pp-ocrv6-small-det"), {})
    assert failed.value.code == "E118"
    assert "detect, recognize" in failed.value.message
