"""OpenVINO: ONNX models compiled for Intel processors; its default precision may be bfloat16, which is said."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from tauten.errors import BackendError, MachineError, PlanError, StoreError, suggest
from tauten.models.catalog import how_to_check
from tauten.run.backends import _arrays, _parts, _rows, _threads
from tauten.run.backends._parts import Part
from tauten.run.contracts import ModelSpec
from tauten.run.signature import Signature, TensorInfo, axes

_FORMS = ("model.onnx", "model.xml")
_HINTS = ("latency", "throughput")
_PRECISIONS = ("", "f32", "bf16", "f16")
_WIDTHS = ("8", "16", "32", "64")
_DTYPES = {f"i{bits}": f"int{bits}" for bits in _WIDTHS} | {f"u{bits}": f"uint{bits}" for bits in _WIDTHS}
_DTYPES |= {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"}
_DTYPES |= {"boolean": "bool", "string": "str"}


class OpenvinoBackend:
    """Runs ``model.onnx``, or OpenVINO's own ``model.xml`` with ``model.bin`` beside it. Items are dicts of arrays without the batch axis; so are the results.

    Options: `performance` latency or throughput; `device`; `cache_dir` keeps compiled models, so that
    a later open is faster; `unbatched` passes the arrays as they are, one item at a time; `rows` says that
    items bring their own batch axis. OpenVINO keeps no names of axes: they are joined on the first axis where
    it is free, or fixed at the same size, in every input and output. `sizes` compiles the model once for each of
    these batch sizes. Where sizes are fixed, here or in the file, batches are filled up, and items weigh their rows.
    """

    name: ClassVar[str] = "openvino"
    inline: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("bf16",)  # beside full precision, for an optimizer to try
    option_keys: ClassVar[frozenset[str]] = frozenset(
        {"performance", "device", "cache_dir", "unbatched", "rows", "sizes"}
    )

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._compiled: Any = None  # for the largest size
        self._request: Any = None
        self._requests: dict[int, Any] = {}  # by size, where it was compiled for several
        self._known: frozenset[str] = frozenset()  # names of its inputs
        self._outputs: list[str] = []
        self._most = 0
        self.sizes: tuple[int, ...] = ()  # of batches, where the file or the plan fixes them
        self._rows = bool(spec.options.get("rows", False))
        self._joins = False  # items that bring their rows share a run

    def open(self) -> None:
        if self._compiled is not None:
            return
        config, sizes = self._config(), self._sizes_asked()
        if not any(name in self.spec.files for name in _FORMS):
            raise StoreError(
                f"model {self.spec.model!r} has no file {' nor '.join(_FORMS)}",
                code="E325",
                help="pin a model that has it, or another backend; `tauten model list` names them",
            )
        compiled = self._load(config, sizes)
        self._compiled = compiled[-1]
        self._request = self._compiled.create_infer_request()
        requests = [*[each.create_infer_request() for each in compiled[:-1]], self._request]
        self._requests = dict(zip(sizes, requests, strict=True)) if sizes else {}
        self._known = frozenset(port.get_any_name() for port in self._compiled.inputs)
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]
        self._most = self._batch_limit()
        self._joins = self._rows and self.signature().joins
        fixed = self.signature().batch_size if self._rows else self._most
        self.sizes = tuple(sizes) or ((fixed,) if 1 < fixed < _parts.ANY else ())

    def signature(self) -> Signature:
        """The tensors that the file takes and gives."""
        return Signature(
            tuple(_info(port) for port in self._compiled.inputs),
            tuple(_info(port) for port in self._compiled.outputs),
        )

    def _config(self) -> dict[str, Any]:
        hint = str(self.spec.options.get("performance", "latency"))
        if hint not in _HINTS:
            raise PlanError(
                f"openvino option performance = {hint!r}", help=suggest(hint, _HINTS), code="E122"
            )
        if self.spec.precision not in _PRECISIONS:
            raise PlanError(
                f"openvino cannot run at precision {self.spec.precision!r}",
                help='use "f32" or "bf16", or leave it out for the framework\'s own choice',
                code="E122",
            )
        config: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper()}
        if self.spec.precision:
            config["INFERENCE_PRECISION_HINT"] = self.spec.precision
        bound = _threads.bound() if self._device == "CPU" else 0
        if threads := self.spec.threads or bound:
            config["INFERENCE_NUM_THREADS"] = threads
        if bound:  # else it binds its threads, and the one that calls it, to processors of its own choice
            config["ENABLE_CPU_PINNING"] = False
        if folder := self.spec.options.get("cache_dir"):
            config["CACHE_DIR"] = str(folder)
        return config

    def _sizes_asked(self) -> list[int]:
        """The batch sizes that the plan has it compiled for, ascending."""
        asked = self.spec.options.get("sizes", [])
        plain = isinstance(asked, list) and all(type(each) is int and each > 0 for each in asked)
        if not plain or (asked and self.spec.options.get("unbatched", False)):
            raise PlanError(
                f"openvino option sizes = {asked!r}",
                help="give numbers of items, like [1, 4, 8], of a model that has a batch axis",
                code="E122",
            )
        return sorted(set(asked))

    def _load(self, config: dict[str, Any], sizes: list[int]) -> list[Any]:
        try:
            import openvino
        except ImportError as error:
            raise MachineError(
                "openvino is not installed", help="pip install 'tauten[local]'", code="E315"
            ) from error
        core, device = openvino.Core(), self._device
        if device.split(".")[0] not in [each.split(".")[0] for each in core.available_devices]:
            raise PlanError(
                f"OpenVINO has no device {device!r} here",
                help=f"it has: {', '.join(core.available_devices)}",
                code="E122",
            )
        try:
            path = str(next(self.spec.files[name] for name in _FORMS if name in self.spec.files))
            models = _reshaped(core.read_model(path), sizes) if sizes else [path]
            return [core.compile_model(each, device, config) for each in models]
        except PlanError:
            raise
        except Exception as error:
            raise StoreError(
                f"OpenVINO cannot load {self.spec.model!r}: {str(error).strip().splitlines()[-1]}",
                help=f"{how_to_check(self.spec.model)}; or use the onnx backend",
                code="E325",
            ) from error

    @property
    def _device(self) -> str:
        return str(self.spec.options.get("device", "CPU"))

    def _batch_limit(self) -> int:
        """0: no batch axis is added; else what the file or the plan fixes it at, or as many as come."""
        if self.spec.options.get("unbatched", False):
            return 0
        shapes = [port.get_partial_shape() for port in self._compiled.inputs]
        firsts = [shape[0] for shape in shapes if shape.rank.is_static and len(shape)]
        return min((first.get_length() for first in firsts if first.is_static), default=_parts.ANY)

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
        if self._compiled is None:
            raise BackendError(
                "openvino: run() on a backend that is not open", help="call open() first", code="E406"
            )
        return _parts.run(parts, self._execute)

    def run(self, items: Sequence[Any]) -> list[Any]:
        return self.run_prepared(self.prepare(items))

    def _execute(self, inputs: dict[str, Any]) -> dict[str, Any]:
        _parts.check_names(inputs, self._known)
        request = self._request
        if self._requests:
            request = self._requests.get(_rows.places(inputs), request)
        # Inputs are read where they lie; outputs are copied, because the next run reuses their memory.
        results = request.infer(inputs, share_inputs=True, share_outputs=False)
        return {name: results[index] for index, name in enumerate(self._outputs)}

    def properties(self) -> Mapping[str, str]:
        if self._compiled is None:
            return {"precision": "", "threads": "", "device": "closed"}
        ask = self._compiled.get_property
        return {
            "precision": _type_name(ask("INFERENCE_PRECISION_HINT")),
            "threads": str(ask("INFERENCE_NUM_THREADS")),
            "device": ", ".join(ask("EXECUTION_DEVICES")),
            "performance": str(self.spec.options.get("performance", "latency")),
            "streams": str(ask("NUM_STREAMS")),
            "batch": _parts.batch_text(self._most, self.sizes),
            **({"signature": self.signature().text()} if self._rows else {}),
        }

    def close(self) -> None:
        self._request = self._compiled = None
        self._requests = {}


def _reshaped(model: Any, sizes: list[int]) -> Iterator[Any]:
    """The model with its batch axis at each of some sizes."""
    for size in sizes:
        shapes = {port.get_any_name(): port.get_partial_shape() for port in model.inputs}
        for name, shape in shapes.items():
            if not shape.rank.is_static or not len(shape) or shape[0].is_static:
                raise PlanError(
                    f"openvino option sizes: input {name!r} has the shape {shape}, no free first axis",
                    help="leave `sizes` out",
                    code="E122",
                )
            shape[0] = size
        copy = model.clone()
        copy.reshape(shapes)
        yield copy


def _type_name(kind: Any) -> str:
    """``bf16`` from OpenVINO's Type, whose own spelling changes between releases."""
    name = kind.to_string() if hasattr(kind, "to_string") else str(kind)
    return {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(name, name)


def _info(port: Any) -> TensorInfo:
    """One input or output of a compiled model; a free first axis is called ``rows``."""
    dtype = _DTYPES.get(port.get_element_type().to_string(), "")
    shape = port.get_partial_shape()
    sizes = [axis.get_length() if axis.is_static else "" for axis in shape] if shape.rank.is_static else []
    if sizes and sizes[0] == "":
        sizes[0] = "rows"
    return TensorInfo(port.get_any_name(), dtype, axes(sizes))
