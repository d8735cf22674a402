"""What REST and gRPC of the Open Inference Protocol do alike: budgets, running, metadata, what is not offered."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from tauten.run.oip.tensors import Array
from tauten.run.opened import Answer
from tauten.serve import probes
from tauten.serve.door import Call
from tauten.serve.oip.models import VERSION, Model, Models
from tauten.serve.oip.parameters import NotOffered, Parameters, session_of
from tauten.serve.oip.statistics import CODING_IN, CODING_OUT, Statistics
from tauten.version import __version__

if TYPE_CHECKING:
    from tauten.serve.app import Site
    from tauten.serve.service import Service

EXTENSIONS = [
    *("binary_tensor_data", "generate", "logging", "model_configuration"),
    *("model_repository", "parameters", "schedule_policy", "sequence", "statistics", "trace"),
]
SETTINGS = {
    "trace_file": "",
    "trace_level": ["OFF"],
    "trace_rate": "0",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "opentelemetry",
}
LOGGING = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}


def statistics_of(site: Site) -> Statistics:
    """The site's statistics, which REST and gRPC share; made and made an observer when first asked."""
    for observer in site.observers:
        if isinstance(observer, Statistics):
            return observer
    made = Statistics()
    site.observers.append(made)
    return made


def infer(
    call: Call, model: Model, tensors: Mapping[str, Array], asked: Parameters | None = None
) -> Coroutine[Any, Any, Answer]:
    """Run one request to its end; `model.tensors` of its value are the results."""
    service = model.service
    service.check()
    inputs = model.bind(tensors)
    session = call.session(service) if asked is None else session_of(call, service, asked)
    return call.answer(service, inputs, session)


def values(
    call: Call, model: Model, tensors: Mapping[str, Array], asked: Parameters
) -> AsyncGenerator[Any, None]:
    """The answers of a workflow as they come; `model.tensors` makes each an answer of the protocol."""
    service = model.service
    service.check()
    inputs = model.bind(tensors)
    return call.stream(service, inputs, session_of(call, service, asked))


def coded(call: Call, input_s: float, output_s: float) -> None:
    """Book what the coding of a request's tensors took."""
    if call.request is not None:
        call.request.trace.spent += [("", CODING_IN, input_s), ("", CODING_OUT, output_s)]


# -- probes --------------------------------------------------------------------------------------------------


def server_ready(site: Site) -> bool:
    """Whether the server takes requests: what `/health/ready` says."""
    return not probes.unready(site)


def model_ready(site: Site, service: Service) -> bool:
    """Whether one of its models does."""
    return not site.draining and not probes.unready_service(service)


# -- metadata ------------------------------------------------------------------------------------------------


def server_metadata() -> dict[str, Any]:
    return {"name": "tauten", "version": __version__, "extensions": EXTENSIONS}


def metadata(model: Model) -> dict[str, Any]:
    return {
        "name": model.service.name,
        "versions": [VERSION],
        "platform": model.platform,
        "inputs": [_tensor(each.name, each.datatype, each.shape) for each in model.inputs],
        "outputs": [_tensor(each.name, each.datatype, each.shape) for each in model.outputs],
    }


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def config(model: Model) -> dict[str, Any]:
    """The parts of Triton's configuration that clients read; a batch axis is not among its dims."""
    skip = 1 if model.max_batch else 0
    return {
        "name": model.service.name,
        "platform": model.platform,
        "backend": "onnxruntime" if model.platform.startswith("onnx") else "tauten",
        "max_batch_size": model.max_batch,
        "input": [
            {
                "name": each.name,
                "data_type": _config_type(each.datatype),
                "dims": each.shape[skip:],
                "optional": each.optional,
            }
            for each in model.inputs
        ],
        "output": [
            {"name": each.name, "data_type": _config_type(each.datatype), "dims": each.shape[skip:]}
            for each in model.outputs
        ],
        "model_transaction_policy": {"decoupled": model.decoupled},
    }


def _config_type(datatype: str) -> str:
    return f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}"


def index(models: Models, *, ready_only: bool) -> list[dict[str, str]]:
    """The repository's index."""
    found = []
    for model in models.all():
        ready = model.service.ready
        if ready or not ready_only:
            reason = "" if ready else "it was unloaded" if model.service.away else "it loads"
            state = "READY" if ready else "UNAVAILABLE"
            found.append({"name": model.service.name, "version": VERSION, "state": state, "reason": reason})
    return found


# -- what is not offered to everybody ------------------------------------------------------------------------


def no_settings(what: str) -> NotOffered:
    return NotOffered(
        f"{what} cannot be changed by a request", help="set it by the flags of `tauten serve`, and start anew"
    )


async def load(call: Call, models: Models, name: str, *, parameters: bool) -> None:
    """Open a service that was unloaded; raises NotOffered where the caller may not."""
    _check_admin(call, "load")
    if parameters:
        raise NotOffered("a load with parameters", help="this server loads what it was started with")
    service = models.find(name).service
    if not service.ready:
        await service.open()
    service.away = False


async def unload(call: Call, models: Models, name: str) -> None:
    """Take a service away and free its models; its running requests end first."""
    _check_admin(call, "unload")
    service = models.find(name).service
    service.ready, service.away = False, True
    for plan in list(service.engine.plans):
        await service.engine.retire(plan)


def _check_admin(call: Call, what: str) -> None:
    if not call.caller.admin:
        raise NotOffered(
            f"this server does not {what} models for you",
            help="start it with the models you want, or come with a key that may administer it",
        )
