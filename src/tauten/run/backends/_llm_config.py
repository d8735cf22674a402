"""What the worker process of a language model is told when it starts."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec

STEP_TOKENS = 64  # of prompts in one step: it ends within 100 ms on two cores, and only then is a leaver seen


class WorkerConfig(msgspec.Struct, frozen=True):
    """The first frame to the worker; paths are absolute."""

    model: str
    gguf: str
    converted: str  # folder of the converted model; written once
    threads: int = 0
    precision: str = ""
    kv_precision: str = ""
    cache_size_gb: float = 1.0
    max_batched_tokens: int = STEP_TOKENS
    prefix_cache: bool = False
    prompt_lookup: int = 0
