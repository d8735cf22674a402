"""The methods of the protocol's gRPC service that have one answer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tauten.run.oip.messages import DATA_TYPES, message
from tauten.serve.door import Call
from tauten.serve.oip import calls
from tauten.serve.oip import grpc_tensors as tensors
from tauten.serve.oip.models import Models
from tauten.serve.oip.parameters import honour, of_message
from tauten.serve.oip.rest import no_shared_memory

if TYPE_CHECKING:
    from tauten.serve.app import Site

Method = Callable[[Call, Any], Awaitable[Any]]


class Methods:
    """What the service answers."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.models = Models(site)
        self.statistics = calls.statistics_of(site)

    def table(self) -> dict[str, Method]:
        """Every method by the name of its call."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ServerMetadata": self.server_metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "ModelInfer": self.model_infer,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
            "SystemSharedMemoryStatus": self.system_memory,
            "SystemSharedMemoryRegister": self.no_memory,
            "SystemSharedMemoryUnregister": self.no_system_memory,
            "CudaSharedMemoryStatus": self.cuda_memory,
            "CudaSharedMemoryRegister": self.no_memory,
            "CudaSharedMemoryUnregister": self.no_cuda_memory,
            "TraceSetting": self.tracing,
            "LogSettings": self.logging,
        }

    # -- the server ---------------------------------------------------------------------------------------

    async def server_live(self, call: Call, request: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def server_ready(self, call: Call, request: Any) -> Any:
        return message("ServerReadyResponse")(ready=calls.server_ready(self.site))

    async def server_metadata(self, call: Call, request: Any) -> Any:
        return message("ServerMetadataResponse")(**calls.server_metadata())

    async def repository_index(self, call: Call, request: Any) -> Any:
        found = calls.index(self.models, ready_only=request.ready)
        return message("RepositoryIndexResponse")(models=found)

    async def load(self, call: Call, request: Any) -> Any:
        await calls.load(call, self.models, request.model_name, parameters=bool(request.parameters))
        return message("RepositoryModelLoadResponse")()

    async def unload(self, call: Call, request: Any) -> Any:
        await calls.unload(call, self.models, request.model_name)
        return message("RepositoryModelUnloadResponse")()

    # -- a model ------------------------------------------------------------------------------------------

    async def model_ready(self, call: Call, request: Any) -> Any:
        service = self.models.find(request.name, request.version).service
        return message("ModelReadyResponse")(ready=calls.model_ready(self.site, service))

    async def model_metadata(self, call: Call, request: Any) -> Any:
        found = calls.metadata(self.models.find(request.name, request.version))
        return message("ModelMetadataResponse")(**found)

    async def model_config(self, call: Call, request: Any) -> Any:
        found = calls.config(self.models.find(request.name, request.version))
        for each in (*found["input"], *found["output"]):
            each["data_type"] = DATA_TYPES.index(each["data_type"].removeprefix("TYPE_"))
        return message("ModelConfigResponse")(config=found)

    async def model_statistics(self, call: Call, request: Any) -> Any:
        services = list(self.site.services)
        if request.name:
            services = [self.models.find(request.name, request.version).service]
        shown = [self.statistics.shown(service) for service in services]
        for each in shown:
            ours = each.pop("tauten")
            del each["memory_usage"]
            each["response_stats"] = {"tauten": {"cancel": ours["cancel"]}}
        return message("ModelStatisticsResponse")(model_stats=shown)

    async def model_infer(self, call: Call, request: Any) -> Any:
        """Tensors in, tensors out."""
        model = self.models.find(request.model_name, request.model_version)
        began = time.monotonic()
        given = tensors.read(request)
        taken = time.monotonic()
        asked = of_message(request.parameters)
        honour(call, asked)
        results = model.tensors((await calls.infer(call, model, given, asked)).value)
        answered = time.monotonic()
        answer = tensors.written(request, model, results)
        calls.coded(call, taken - began, time.monotonic() - answered)
        return answer

    # -- what others have ---------------------------------------------------------------------------------

    async def system_memory(self, call: Call, request: Any) -> Any:
        if request.name:
            raise no_shared_memory()
        return message("SystemSharedMemoryStatusResponse")()

    async def cuda_memory(self, call: Call, request: Any) -> Any:
        if request.name:
            raise no_shared_memory()
        return message("CudaSharedMemoryStatusResponse")()

    async def no_memory(self, call: Call, request: Any) -> Any:
        raise no_shared_memory()

    async def no_system_memory(self, call: Call, request: Any) -> Any:
        return message("SystemSharedMemoryUnregisterResponse")()  # there is none: it is gone, as was asked

    async def no_cuda_memory(self, call: Call, request: Any) -> Any:
        return message("CudaSharedMemoryUnregisterResponse")()

    async def tracing(self, call: Call, request: Any) -> Any:
        if request.settings:
            raise calls.no_settings("tracing")
        if request.model_name:
            self.models.find(request.model_name)
        settings = {
            name: {"value": value if isinstance(value, list) else [value]}
            for name, value in calls.SETTINGS.items()
        }
        return message("TraceSettingResponse")(settings=settings)

    async def logging(self, call: Call, request: Any) -> Any:
        if request.settings:
            raise calls.no_settings("logging")
        return message("LogSettingsResponse")(
            settings={name: {_setting(value): value} for name, value in calls.LOGGING.items()}
        )


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "bool_param"
    return "uint32_param" if isinstance(value, int) else "string_param"
