"""Loads a GGUF language model into OpenVINO GenAI; converts it the first time, so that later loads are fast.

Measured on two cores (135 M parameters, Q4_1): from GGUF 8 to 10 s, of it 3.6 s to parse it a second
time for the tokenizer; from the saved form 3.5 to 4.4 s, nearly all of it compiling. A compile cache
(CACHE_DIR) gained nothing and takes 129 MB, so there is none.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from tauten.run.backends._gguf import context_length
from tauten.run.backends._llm_config import WorkerConfig

_ABANDONED_S = 3600.0  # no conversion of a model that fits a processor takes an hour
ASSUMED_CONTEXT = 2048  # assumed when the file does not say: what small models have at least


class Loaded(NamedTuple):
    """A pipeline that is ready, and what was found out about it."""

    pipeline: Any
    tokenizer: Any
    source: str
    context: int  # tokens of prompt and answer together


def load(config: WorkerConfig) -> Loaded:
    """Open the converted model, or the GGUF file while saving its converted form."""
    context = context_length(Path(config.gguf)) or ASSUMED_CONTEXT
    converted = Path(config.converted)
    if (converted / "openvino_model.xml").is_file():
        pipeline, tokenizer = _open(config, converted, saving=False)
        return Loaded(pipeline, tokenizer, "converted form", context)
    try:
        converted.parent.mkdir(parents=True, exist_ok=True)
        _sweep(converted.parent)
        folder = Path(tempfile.mkdtemp(prefix=f".{converted.name}.", dir=converted.parent))
    except OSError:  # a store that cannot be written: the next open is as slow as this one, nothing else
        pipeline, tokenizer = _open(config, Path(config.gguf), saving=False)
        return Loaded(pipeline, tokenizer, "gguf", context)
    try:
        pipeline, tokenizer = _open(config, _linked(folder, Path(config.gguf)), saving=True)
        _publish(folder, converted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Loaded(pipeline, tokenizer, "gguf, converted for the next time", context)


def _sweep(parent: Path) -> None:
    """Remove what conversions that were killed left behind."""
    for folder in parent.glob(".*"):
        if time.time() - folder.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(folder, ignore_errors=True)


def _linked(folder: Path, gguf: Path) -> Path:
    """A link to the file in `folder`: the engine saves the converted form beside what it reads."""
    link = folder / "model.gguf"
    link.symlink_to(gguf.absolute())
    return link


def _publish(folder: Path, converted: Path) -> None:
    (folder / "model.gguf").unlink()
    try:
        os.rename(folder, converted)
    except OSError:
        if not converted.is_dir():  # otherwise another process was first, and its copy is as good
            raise


def _open(config: WorkerConfig, source: Path, *, saving: bool) -> tuple[Any, Any]:
    import openvino_genai

    saved = {"enable_save_ov_model": True} if saving else {}
    tokenizer = openvino_genai.Tokenizer(str(source), **saved)
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(source), tokenizer, _scheduler(openvino_genai, config), "CPU", **_properties(config), **saved
    )
    return pipeline, tokenizer


def _scheduler(openvino_genai: Any, config: WorkerConfig) -> Any:
    scheduler = openvino_genai.SchedulerConfig()
    if config.cache_size_gb >= 1:
        scheduler.cache_size = round(config.cache_size_gb)
    else:
        scheduler.num_kv_blocks = max(int(config.cache_size_gb * 2400), 1)  # about 2400 blocks a GB at u8
    scheduler.enable_prefix_caching = config.prefix_cache
    scheduler.max_num_batched_tokens = config.max_batched_tokens
    return scheduler


def _properties(config: WorkerConfig) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    if config.threads:
        properties["INFERENCE_NUM_THREADS"] = config.threads
    if config.precision:
        properties["INFERENCE_PRECISION_HINT"] = config.precision
    if config.kv_precision:
        properties["KV_CACHE_PRECISION"] = config.kv_precision
    if config.prompt_lookup:
        properties["prompt_lookup"] = True
    return properties


def properties_in_force(config: WorkerConfig) -> dict[str, str]:
    """Precision and threads as the engine takes them: it is asked by way of a one-node model."""
    import numpy as np
    import openvino
    from openvino import opset13 as ops

    wanted = {key: value for key, value in _properties(config).items() if key.isupper()}
    given = ops.parameter([1, 4], np.float32)
    probe = openvino.Model(
        [ops.matmul(given, ops.constant(np.eye(4, dtype=np.float32)), False, False)], [given]
    )
    compiled = openvino.Core().compile_model(probe, "CPU", wanted)
    kind = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    kv_kind = compiled.get_property("KV_CACHE_PRECISION").to_string()
    return {
        "precision": {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(kind, kind),
        "kv_precision": {"uint8_t": "u8"}.get(kv_kind, kv_kind),
        "threads": str(compiled.get_property("INFERENCE_NUM_THREADS")),
        "device": "CPU",
    }
