"""ONNX Runtime: any ONNX model on the processor or an accelerator, in full precision as the file has it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

from tauten.errors import BackendError, MachineError, PlanError, StoreError, suggest
from tauten.models.catalog import how_to_check
from tauten.run.backends import _arrays, _onnx_axes, _parts, _rows, _threads
from tauten.run.backends._parts import Part
from tauten.run.contracts import ModelSpec
from tauten.run.signature import Signature, TensorInfo, axes

_LEVELS = {
    "off": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_MODES = {"sequential": "ORT_SEQUENTIAL", "parallel": "ORT_PARALLEL"}
_TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(string)": "str"}


class OnnxBackend:
    """Runs ``model.onnx``. Items are dicts of arrays without the batch axis; so are the results.

    Options: `graph_optimization` off, basic, extended or all; `execution` sequential or parallel;
    `inter_threads`; `spin` true lets idle threads wait busily for the next piece of work; `providers`;
    `unbatched` passes the arrays as they are, one item at a time; `rows` says that items bring their own
    batch axis, on which they are joined where the file names it the same, or fixes it at the same size, in
    every input and output. A batch that the file fixes is filled up, and its items weigh their rows.
    """

    name: ClassVar[str] = "onnx"
    inline: ClassVar[bool] = True
    option_keys: ClassVar[frozenset[str]] = frozenset(
        {"graph_optimization", "execution", "inter_threads", "spin", "providers", "unbatched", "rows"}
    )

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._session: Any = None
        self._new_options: Any = None
        self._options: Any = None  # of the present run, by which it can be stopped
        self._stopped = True  # so that the next run needs new ones
        self._threads = spec.threads
        self._known: frozenset[str] = frozenset()  # names of its inputs
        self._outputs: list[str] = []
        self._most = 0
        self.sizes: tuple[int, ...] = ()  # of batches, where the file fixes one
        self._rows = bool(spec.options.get("rows", False))
        self._joins = False  # items that bring their rows share a run

    def open(self) -> None:
        if self._session is not None:
            return
        if self.spec.precision not in ("", "f32"):
            raise PlanError(
                f"onnx cannot run at precision {self.spec.precision!r}; it takes the file as it is",
                help='use precision "f32" (or leave it out), a quantised variant, or the openvino backend',
                code="E122",
            )
        if "model.onnx" not in self.spec.files:
            other = "model.xml" in self.spec.files
            raise StoreError(
                f"model {self.spec.model!r} has no file model.onnx",
                code="E325",
                help="it is in OpenVINO's form: give it the backend openvino"
                if other
                else "pin a model that has it, or another backend; `tauten model list` names them",
            )
        self._session = self._load()
        self._known = frozenset(each.name for each in self._session.get_inputs())
        self._outputs = [each.name for each in self._session.get_outputs()]
        self._most = self._batch_limit()
        self._joins = self._rows and self.signature().joins
        fixed = self.signature().batch_size if self._rows else self._most
        self.sizes = (fixed,) if 1 < fixed < _parts.ANY else ()

    def signature(self) -> Signature:
        """The tensors that the file takes and gives."""
        return Signature(
            tuple(_info(each) for each in self._session.get_inputs()),
            tuple(_info(each) for each in self._session.get_outputs()),
        )

    def _load(self) -> Any:
        try:
            os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else importing it reports to its maker

            import onnxruntime
        except ImportError as error:
            raise MachineError(
                "onnxruntime is not installed", help="pip install 'tauten[local]'", code="E315"
            ) from error
        self._new_options = onnxruntime.RunOptions
        settings, providers = self._settings(onnxruntime), self._providers(onnxruntime)
        # it keeps a plan of its memory for every shape that ever came, and saves no time that could be measured;
        # the sizes of batches, on the first axis, are few
        first = 0 if self.spec.options.get("unbatched", False) else 1
        settings.enable_mem_pattern = not _onnx_axes.free(self.spec.files["model.onnx"], first)
        try:
            return onnxruntime.InferenceSession(self.spec.files["model.onnx"], settings, providers=providers)
        except Exception as error:
            raise StoreError(
                f"ONNX Runtime cannot load {self.spec.model!r}: {str(error).splitlines()[0]}",
                help=how_to_check(self.spec.model),
                code="E325",
            ) from error

    def _settings(self, onnxruntime: Any) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3  # errors only: warnings about fused nodes are no news to a user
        # a number that is given also keeps it from binding its threads to processors of its own choice
        bound = _threads.bound()
        settings.intra_op_num_threads = self._threads = self.spec.threads or bound
        settings.inter_op_num_threads = int(self.spec.options.get("inter_threads", 0)) or bound
        level = self._choice("graph_optimization", _LEVELS, "all")
        settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
        mode = self._choice("execution", _MODES, "sequential")
        settings.execution_mode = getattr(onnxruntime.ExecutionMode, _MODES[mode])
        # Off: spinning doubles the CPU time of a run (measured on four models), which the loop and others need.
        spin = bool(self.spec.options.get("spin", False))
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
        return settings

    def _choice(self, key: str, known: Mapping[str, str], default: str) -> str:
        value = str(self.spec.options.get(key, default))
        if value not in known:
            raise PlanError(f"onnx option {key} = {value!r}", help=suggest(value, known), code="E122")
        return value

    def _providers(self, onnxruntime: Any) -> list[str]:
        there = onnxruntime.get_available_providers()
        wanted = list(self.spec.options.get("providers", ["CPUExecutionProvider"]))
        missing = [provider for provider in wanted if provider not in there]
        if missing:
            raise PlanError(
                f"this ONNX Runtime has no {missing[0]}", help=f"it has: {', '.join(there)}", code="E122"
            )
        return wanted

    def _batch_limit(self) -> int:
        """0: no batch axis is added; else what the file fixes it at, or as many as come."""
        if self.spec.options.get("unbatched", False):
            return 0
        firsts = [each.shape[0] for each in self._session.get_inputs() if each.shape]
        return min((first for first in firsts if isinstance(first, int)), default=_parts.ANY)

    def group(self, item: Any) -> Hashable:
        return _rows.key(item, joins=self._joins) if self._rows else _arrays.shapes(item)

    def weight(self, item: Any) -> float:
        if self.sizes:
            return _rows.places(item) if self._rows else 1
        return _arrays.elements(item)

    def prepare(self, items: Sequence[Any]) -> list[Part]:
        """The items as the engine takes them: the copying that needs no engine, done while it runs others."""
        if self._rows:
            return _rows.joined(items, joins=self._joins, sizes=self.sizes)
        return _arrays.stacked(items, most=self._most, sizes=self.sizes)

    def run_prepared(self, parts: Sequence[Part]) -> list[Any]:
        if self._session is None:
            raise BackendError(
                "onnx: run() on a backend that is not open", help="call open() first", code="E406"
            )
        return _parts.run(parts, self._execute)

    def run(self, items: Sequence[Any]) -> list[Any]:
        return self.run_prepared(self.prepare(items))

    def begin(self) -> None:
        """Behind a run that was stopped comes one with options of its own, which knows nothing of that."""
        if self._stopped:
            self._options, self._stopped = self._new_options(), False

    def stop(self) -> None:
        """End what runs, between two of the model's operators: its members get the engine's exception."""
        self._stopped = self._options.terminate = True

    def _execute(self, inputs: dict[str, Any]) -> dict[str, Any]:
        _parts.check_names(inputs, self._known)
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs, self._options), strict=True))

    def properties(self) -> Mapping[str, str]:
        if self._session is None:
            return {"precision": "", "threads": "", "device": "closed"}
        providers = self._session.get_providers()
        return {
            "precision": "as the file (f32 arithmetic)",
            "threads": str(self._threads or "all cores (framework default)"),
            "device": providers[0].removesuffix("ExecutionProvider"),
            "providers": ", ".join(providers),
            "graph_optimization": str(self.spec.options.get("graph_optimization", "all")),
            "batch": _parts.batch_text(self._most, self.sizes),
            **({"signature": self.signature().text()} if self._rows else {}),
        }

    def close(self) -> None:
        self._session = None


def _info(node: Any) -> TensorInfo:
    """One input or output of a session."""
    name: str = node.type
    plain = name.removeprefix("tensor(").removesuffix(")") if name.startswith("tensor(") else ""
    return TensorInfo(node.name, _TYPES.get(name, plain), axes(node.shape))
