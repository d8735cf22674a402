"""Tensors of the protocol's gRPC messages as arrays, both ways."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tauten.run.oip.messages import message
from tauten.run.oip.tensors import Array, count_of, datatype_of, from_raw, from_values, to_raw, wrong
from tauten.serve.oip.models import VERSION, Model
from tauten.serve.oip.parameters import no_classes
from tauten.serve.oip.rest import check_output, no_shared_memory

ModelInferResponse = message("ModelInferResponse")

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read(request: Any) -> dict[str, Array]:
    """The inputs of a ModelInferRequest; raises InputError E295 where they do not hold together."""
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise wrong(
            f"{len(raws)} raw contents for {len(request.inputs)} inputs", "send all inputs raw, or none"
        )
    tensors: dict[str, Array] = {}
    for index, given in enumerate(request.inputs):
        name, shape = given.name, list(given.shape)
        if name in tensors:
            raise wrong(f"input {name[:80]!r} is given twice", "give it once")
        if "shared_memory_region" in given.parameters:
            raise no_shared_memory()
        if raws:
            tensors[name] = from_raw(name, given.datatype, shape, raws[index], 0, len(raws[index]))
        else:
            tensors[name] = _from_contents(name, given, shape)
    return tensors


def _from_contents(name: str, given: Any, shape: list[int]) -> Array:
    count_of(name, given.datatype, shape)
    field = _CONTENTS.get(given.datatype)
    if field is None:
        raise wrong(f"input {name[:80]!r}: {given.datatype} has no typed contents", "send it as raw contents")
    return from_values(name, given.datatype, shape, getattr(given.contents, field))


def written(request: Any, model: Model, results: Mapping[str, Array]) -> Any:
    """A ModelInferResponse: the wanted outputs in the wanted order, all raw."""
    answer = ModelInferResponse(model_name=model.service.name, model_version=VERSION, id=request.id)
    names = [each.name for each in request.outputs] or list(results)
    for each in request.outputs:
        check_output(each.name, results)
        if "shared_memory_region" in each.parameters:
            raise no_shared_memory()
        if "classification" in each.parameters and each.parameters["classification"].int64_param:
            raise no_classes(each.name)
    for name in names:
        array = results[name]
        answer.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        raw = to_raw(array)
        answer.raw_output_contents.append(raw if isinstance(raw, bytes) else raw.tobytes())  # type: ignore[union-attr]
    return answer
