"""A model alone, served raw: tensors in, tensors out, as a workflow of one stage."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tauten.describe.payload import Tensor
from tauten.describe.stage import Context, Role, StageKind
from tauten.describe.workflow import Workflow
from tauten.errors import BackendError, InputError, PlanError, StoreError, TautenError, suggest
from tauten.plan.caching import RESULTS_BYTES, cache_bytes
from tauten.plan.plan import Batch, Plan, StagePlan
from tauten.run.deploy.deployment import Deployment
from tauten.run.engine import Engine
from tauten.run.signature import Signature, TensorInfo, parse
from tauten.run.single import Station
from tauten.serve.samples import blank
from tauten.serve.service import Service

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAGE = "model"
MOST = 32  # requests in one run: measured, a model bound by its weights gives twelve times the rate of one
_REFUSED = "E407"  # a backend's word for inputs that the engine does not take

Tensors = dict[str, Any]
"""Arrays by name, each with its own batch axis."""

Fit = Callable[[Mapping[str, Any]], Tensors]


def tensor_model(
    source: str | Path,
    *,
    name: str = "",
    backend: str = "onnx",
    plan: Plan | None = None,
    threads: int = 0,
) -> TensorService:
    """Serve an ONNX file (a path) or a model of the catalog (``name`` or ``name:variant``) with raw tensors.

    A request brings its own batch axis. Requests share a run where the file gives the first axis of every
    input and output one name (up to `MOST` by default; ``batch`` of the stage ``model`` in a plan says
    otherwise), or one size: then a request brings at most so many rows, and what is missing is filled up. `threads` is what the default plan asks for; 0 leaves it to the framework.
    """
    path = Path(source)
    is_file = isinstance(source, Path) or path.suffix == ".onnx"
    model = path.stem if is_file else str(source)
    fits: list[Fit] = []
    workflow = _workflow(name or model.partition(":")[0], model, backend, fits)
    engine = Engine(_OneFile(path)) if is_file else None
    service = TensorService(workflow, plan or _default_plan(workflow, threads), engine=engine)
    fits.append(service.fitted)
    service.shareable = (
        False  # comparing tensors costs more than the rare equal pair saves; a batch takes both
    )
    return service


class TensorService(Service):
    """A service that knows which tensors it takes and gives; `signature` is there once it is open."""

    signature = Signature((), ())
    pays = False  # budgets are asked before its model is: that is a task's work
    _station: Station | None = None  # the last one used
    _dtypes: Mapping[str, Any] = {}  # what each input must be
    _inputs: Sequence[TensorInfo] = ()  # with the rows that a request may bring

    async def open(self) -> None:
        """As every service; raises PlanError E133 for a plan that would cache it, before anything is loaded."""
        self._check_uncached(self._plan)
        await super().open()

    async def swap(self, plan: Plan) -> str:
        self._check_uncached(plan)
        return await super().swap(plan)

    def _check_uncached(self, plan: Plan | None) -> None:
        if plan is not None and cache_bytes(plan.stage(STAGE).cache, RESULTS_BYTES):
            raise _uncached(self.name)

    async def _warm_up(self, plan: str = "") -> None:
        """Without samples run zeros, which a model may refuse. Admission is for requests: these pass it by."""
        bound = self.engine.plans[plan or self.plan_id].bound[STAGE]
        deployment = bound.deployments[STAGE]
        assert isinstance(deployment, Deployment)  # raw models have no slots
        book = self.engine.door.book
        self.pays = self.pays or (deployment.pays and book is not None and book.budgets is not None)
        if not plan:  # it is opened: whatever it goes over to takes the same
            self._read(deployment)
        if self.samples:
            await super()._warm_up(plan)
            return
        self.unfit = ""
        if deployment.done:  # it works for another plan already
            return
        try:
            zeros = self.fitted(blank(self.signature.inputs, self._dtypes))
            await deployment.infer(self.engine.request(), STAGE, zeros)
        except (InputError, BackendError) as error:
            self.unfit = f"{error.code} {error.message}"

    def _read(self, deployment: Deployment) -> None:
        """Learn what the model takes and gives; raises StoreError E325 where that is no tensor."""
        self.signature = parse(deployment.properties["signature"])
        self._dtypes = {info.name: _dtype(info) for info in self.signature.inputs}
        self._inputs = _taken(self.signature)
        odd = [info.name for info in (*self.signature.inputs, *self.signature.outputs) if not info.dtype]
        if odd:
            raise StoreError(
                f"'{self.name}': {odd[0]!r} is no tensor",
                help="serve it inside a workflow, or export the model without it",
                code="E325",
            )

    @property
    def max_batch(self) -> int:
        """How many requests may share a run of any number of rows; 0 where that is no free axis."""
        plans = self.engine.plans
        opened = plans.get(self.plan_id) or next(iter(plans.values()), None)  # during a swap the new one
        if opened is None or not self.signature.batch_axis:
            return 0
        deployment = opened.bound[STAGE].deployments[STAGE]
        return deployment.max_batch if isinstance(deployment, Deployment) else 0

    def station(self) -> Station:
        """Where a request runs without a task of its own: what its stage does is to run the model, and no more."""
        opened = self.engine.pick("")
        found = self._station
        if found is None or found.opened is not opened:
            deployment = opened.bound[STAGE].deployments[STAGE]
            assert isinstance(deployment, Deployment)  # raw models have no slots
            most = deployment.max_batch if self.signature.joins else 1
            found = self._station = Station(self.engine.door, opened, STAGE, deployment, most)
        return found

    def fitted(self, given: Mapping[str, Any]) -> Feed:
        """Arrays in the model's order; raises InputError E296 where they are not what it takes."""
        signature = self.signature
        if given.keys() != self._dtypes.keys():
            raise _wrong_names(signature, given)
        feed = Feed()
        sizes: dict[str, int] = {}
        for info in self._inputs:
            feed[info.name] = _fit(info, self._dtypes[info.name], given[info.name], sizes)
        if (most := signature.batch_size) and not 0 < sizes[_ROWS] <= most:
            raise _wrong_rows(signature, sizes[_ROWS])
        return feed


class Feed(dict[str, Any]):
    """Arrays that were found to fit."""


class _OneFile:
    """A store of one model that lies anywhere."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self, model: str, variant: str | None = None) -> dict[str, Path]:
        if not self.path.is_file():
            raise InputError(f"no file {str(self.path)!r}", help="check the path", code="E203")
        return {"model.onnx": self.path}


def _workflow(name: str, model: str, backend: str, fits: list[Fit]) -> Workflow[..., Any]:
    base, _, variant = model.partition(":")

    async def infer(ctx: Context, tensors: Tensors) -> Tensors:
        if tensors.__class__ is not Feed:  # from an API that knows nothing of tensors
            tensors = fits[0](tensors)
        ctx.spend("rows", rows_of(tensors))
        try:
            answer: Tensors = await ctx.infer(STAGE, tensors)
        except BackendError as error:
            if (told := refusal(error)) is error:
                raise
            raise told from error
        return answer

    role = Role(base, (backend,), variant, {"rows": True})
    kind: StageKind[..., Any] = StageKind(infer, name=STAGE, effects="pure", roles={STAGE: role})

    def body(tensors: Tensors) -> Tensors:
        answer: Tensors = kind(tensors)
        return answer

    return Workflow(body, name=name)


def rows_of(tensors: Tensors) -> float:
    """How many items a request brings: the length of its first axis."""
    first = next(iter(tensors.values()), None)
    return float(len(first)) if first is not None and first.ndim else 1.0


def refusal(error: TautenError) -> TautenError:
    """What the caller is told: inputs that the engine does not take are the caller's mistake."""
    return InputError(error.message, help=error.help, code="E296") if error.code == _REFUSED else error


def _default_plan(workflow: Workflow[..., Any], threads: int) -> Plan:
    assert workflow.graph is not None  # it is drawn
    stage = StagePlan(batch=Batch(max=MOST), threads=threads)
    return Plan(graph=workflow.graph.hash, stages={STAGE: stage})


# -- what fits -----------------------------------------------------------------------------------------------


_ROWS = "rows"  # the name of an axis that the file fixes and requests need not fill


def _taken(signature: Signature) -> tuple[TensorInfo, ...]:
    """The inputs as requests bring them: of a batch that the file fixes any number of rows, the same in each."""
    if not signature.batch_size:
        return signature.inputs
    return tuple(TensorInfo(info.name, info.dtype, (_ROWS, *info.shape[1:])) for info in signature.inputs)


def _dtype(info: TensorInfo) -> Any:
    import numpy as np

    try:
        return np.dtype("object" if info.dtype == "str" else info.dtype)
    except TypeError:
        return np.dtype("V2")  # bfloat16, which NumPy does not know: no array is one


def _fit(info: TensorInfo, dtype: Any, value: Any, sizes: dict[str, int]) -> NDArray[Any]:
    array: NDArray[Any] = value if hasattr(value, "dtype") else _as_array(info, value)
    if array.dtype is not dtype and array.dtype != dtype:
        raise InputError(
            f"input {info.name!r} is {array.dtype.name}; the model takes {info.dtype}",
            help="convert it before you send it",
            code="E296",
        )
    shape = array.shape
    if len(shape) != len(info.shape):
        raise _wrong_shape(info, shape)
    for size, axis in zip(shape, info.shape, strict=True):
        if size != axis and (axis.__class__ is int or (axis and sizes.setdefault(str(axis), size) != size)):
            raise _wrong_shape(info, shape)
    return _as_text(info, array) if info.dtype == "str" else array


def _as_text(info: TensorInfo, array: NDArray[Any]) -> NDArray[Any]:
    """Elements as the engine wants them: texts."""
    found = array.copy()
    try:
        found.ravel()[:] = [each.decode() if isinstance(each, bytes) else str(each) for each in array.ravel()]
    except UnicodeDecodeError as error:
        raise InputError(f"input {info.name!r} is no UTF-8: {error}", help="send text", code="E296") from None
    return found


def _as_array(info: TensorInfo, value: Any) -> NDArray[Any]:
    """Plain lists and payloads, as other APIs give them."""
    import numpy as np

    if isinstance(value, Tensor):
        return value.array
    try:
        return np.array(value, dtype="object" if info.dtype == "str" else info.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"input {info.name!r} is no array of {info.dtype}: {error}",
            help="give numbers in rows of equal length",
            code="E296",
        ) from None


def _uncached(name: str) -> PlanError:
    """Its requests go to the model without passing its stage, and naming tensors by content costs each of them."""
    return PlanError(
        f"'{name}' is a raw model, which has no cache",
        help="leave `cache` out, or serve the model inside a workflow",
        code="E133",
    )


def _wrong_names(signature: Signature, given: Mapping[str, Any]) -> InputError:
    known = [info.name for info in signature.inputs]
    unknown = [name for name in given if name not in known]
    missing = [name for name in known if name not in given]
    seen = f"no input is called {unknown[0]!r}" if unknown else f"input {missing[0]!r} is missing"
    return InputError(
        seen, help=suggest(unknown[0], known) if unknown else f"inputs: {', '.join(known)}", code="E296"
    )


def _wrong_rows(signature: Signature, rows: int) -> InputError:
    most = signature.batch_size
    return InputError(
        f"input {signature.inputs[0].name!r} has {rows} rows; the model's batch is fixed at {most}",
        help=f"send 1 to {most} rows in a request; what is missing is filled up",
        code="E296",
    )


def _wrong_shape(info: TensorInfo, shape: tuple[int, ...]) -> InputError:
    wanted = [-1 if axis == "" else axis for axis in info.shape]
    return InputError(
        f"input {info.name!r} has shape {list(shape)}; the model takes [{', '.join(map(str, wanted))}]",
        help="a named axis may have any size, the same wherever its name stands; -1 any size",
        code="E296",
    )
