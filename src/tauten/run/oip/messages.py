"""The messages of the protocol's gRPC service, made at run time from a description: no compiler, no generated code.

A line names a message and its fields, numbered from one: ``name:type``. ``*type`` repeats, ``{Type}`` maps from
strings, ``?`` puts a field into the message's one choice, ``=7`` gives a number. The messages live in a pool of
their own, beside any other package's of the same names.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from tauten.run.oip.tensors import wrong

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"

_MESSAGES = """
ServerLiveRequest
ServerLiveResponse live:bool
ServerReadyRequest
ServerReadyResponse ready:bool
ModelReadyRequest name:string version:string
ModelReadyResponse ready:bool
ServerMetadataRequest
ServerMetadataResponse name:string version:string extensions:*string
ModelMetadataRequest name:string version:string
ModelMetadataResponse name:string versions:*string platform:string
  + inputs:*ModelMetadataResponse.TensorMetadata outputs:*ModelMetadataResponse.TensorMetadata
ModelMetadataResponse.TensorMetadata name:string datatype:string shape:*int64
InferParameter ?bool_param:bool ?int64_param:int64 ?string_param:string ?double_param:double ?uint64_param:uint64
InferTensorContents bool_contents:*bool int_contents:*int32 int64_contents:*int64 uint_contents:*uint32
  + uint64_contents:*uint64 fp32_contents:*float fp64_contents:*double bytes_contents:*bytes
ModelInferRequest model_name:string model_version:string id:string parameters:{InferParameter}
  + inputs:*ModelInferRequest.InferInputTensor outputs:*ModelInferRequest.InferRequestedOutputTensor
  + raw_input_contents:*bytes
ModelInferRequest.InferInputTensor name:string datatype:string shape:*int64 parameters:{InferParameter}
  + contents:InferTensorContents
ModelInferRequest.InferRequestedOutputTensor name:string parameters:{InferParameter}
ModelInferResponse model_name:string model_version:string id:string parameters:{InferParameter}
  + outputs:*ModelInferResponse.InferOutputTensor raw_output_contents:*bytes
ModelInferResponse.InferOutputTensor name:string datatype:string shape:*int64 parameters:{InferParameter}
  + contents:InferTensorContents
ModelStreamInferResponse error_message:string infer_response:ModelInferResponse
ModelConfigRequest name:string version:string
ModelConfigResponse config:ModelConfig
ModelInput name:string data_type:int32 dims=4:*int64 optional=8:bool
ModelOutput name:string data_type:int32 dims:*int64
ModelTransactionPolicy decoupled:bool
ModelConfig name:string platform:string backend=17:string max_batch_size=4:int32 input=5:*ModelInput
  + output=6:*ModelOutput model_transaction_policy=19:ModelTransactionPolicy
ModelStatisticsRequest name:string version:string
StatisticDuration count:uint64 ns:uint64
InferStatistics success:StatisticDuration fail:StatisticDuration queue:StatisticDuration
  + compute_input:StatisticDuration compute_infer:StatisticDuration compute_output:StatisticDuration
  + cache_hit:StatisticDuration cache_miss:StatisticDuration
InferResponseStatistics compute_infer:StatisticDuration compute_output:StatisticDuration
  + success:StatisticDuration fail:StatisticDuration empty_response:StatisticDuration cancel:StatisticDuration
InferBatchStatistics batch_size:uint64 compute_input:StatisticDuration compute_infer:StatisticDuration
  + compute_output:StatisticDuration
ModelStatistics name:string version:string last_inference:uint64 inference_count:uint64 execution_count:uint64
  + inference_stats:InferStatistics batch_stats:*InferBatchStatistics
  + response_stats=9:{InferResponseStatistics}
ModelStatisticsResponse model_stats:*ModelStatistics
ModelRepositoryParameter ?bool_param:bool ?int64_param:int64 ?string_param:string ?bytes_param:bytes
RepositoryIndexRequest repository_name:string ready:bool
RepositoryIndexResponse models:*RepositoryIndexResponse.ModelIndex
RepositoryIndexResponse.ModelIndex name:string version:string state:string reason:string
RepositoryModelLoadRequest repository_name:string model_name:string parameters:{ModelRepositoryParameter}
RepositoryModelLoadResponse
RepositoryModelUnloadRequest repository_name:string model_name:string parameters:{ModelRepositoryParameter}
RepositoryModelUnloadResponse
SystemSharedMemoryStatusRequest name:string
SystemSharedMemoryStatusResponse regions:{SystemSharedMemoryStatusResponse.RegionStatus}
SystemSharedMemoryStatusResponse.RegionStatus name:string key:string offset:uint64 byte_size:uint64
SystemSharedMemoryRegisterRequest name:string key:string offset:uint64 byte_size:uint64
SystemSharedMemoryRegisterResponse
SystemSharedMemoryUnregisterRequest name:string
SystemSharedMemoryUnregisterResponse
CudaSharedMemoryStatusRequest name:string
CudaSharedMemoryStatusResponse regions:{CudaSharedMemoryStatusResponse.RegionStatus}
CudaSharedMemoryStatusResponse.RegionStatus name:string device_id:uint64 byte_size:uint64
CudaSharedMemoryRegisterRequest name:string raw_handle:bytes device_id:int64 byte_size:uint64
CudaSharedMemoryRegisterResponse
CudaSharedMemoryUnregisterRequest name:string
CudaSharedMemoryUnregisterResponse
TraceSettingRequest settings:{TraceSettingRequest.SettingValue} model_name:string
TraceSettingRequest.SettingValue value:*string
TraceSettingResponse settings:{TraceSettingResponse.SettingValue}
TraceSettingResponse.SettingValue value:*string
LogSettingsRequest settings:{LogSettingsRequest.SettingValue}
LogSettingsRequest.SettingValue ?bool_param:bool ?uint32_param:uint32 ?string_param:string
LogSettingsResponse settings:{LogSettingsResponse.SettingValue}
LogSettingsResponse.SettingValue ?bool_param:bool ?uint32_param:uint32 ?string_param:string
"""

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    word: getattr(_Field, f"TYPE_{word.upper()}")
    for word in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}
DATA_TYPES = (  # numbers of Triton's enumeration, which this description carries as plain numbers
    *("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "STRING", "BF16"),
)


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    found: dict[str, descriptor_pb2.DescriptorProto] = {}
    for line in _MESSAGES.strip().replace("\n  +", "").splitlines():
        path, *fields = line.split()
        parent, _, name = path.rpartition(".")
        message = found[parent].nested_type.add() if parent else file.message_type.add()
        message.name, found[path] = name, message
        for field in fields:
            _add_field(message, f".{PACKAGE}.{path}", field)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, path: str, text: str) -> None:
    label, _, kind = text.partition(":")
    name, _, number = label.removeprefix("?").partition("=")
    field = message.field.add(name=name, number=int(number or len(message.field) + 1))
    field.label = _Field.LABEL_REPEATED if kind[0] in "*{" else _Field.LABEL_OPTIONAL
    if kind.startswith("{"):
        kind = _map_entry(message, path, name, kind[1:-1])
    if label.startswith("?"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0
    _set_type(field, kind.removeprefix("*"))


def _map_entry(message: descriptor_pb2.DescriptorProto, path: str, name: str, kind: str) -> str:
    entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    for number, (each, its_kind) in enumerate((("key", "string"), ("value", kind)), 1):
        field = entry.field.add(name=each, number=number, label=_Field.LABEL_OPTIONAL)
        _set_type(field, its_kind)
    return f"{path}.{entry.name}"


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
        return
    field.type = _Field.TYPE_MESSAGE
    field.type_name = kind if kind.startswith(".") else f".{PACKAGE}.{kind}"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def message(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def parse(kind: Any, data: bytes) -> Any:
    """A message from its bytes; raises InputError E295."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise wrong(
            f"{len(data)} bytes that are no {kind.DESCRIPTOR.name}", "see the protocol's definition"
        ) from None
