"""Opens the tokenizer of a language model alone, as its backend would: for previews and counts, in no request's way."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tauten.run.contracts import PromptReader, find
from tauten.run.deploy.deployments import Models


def prompt_reader(store: Models, backend: str, model: str, variant: str = "") -> PromptReader | None:
    """The model's own tokenizer; None where its backend has none to open. Raises what the store and the file raise."""
    made: Callable[[Mapping[str, Path]], PromptReader] | None = getattr(
        find("backends", backend), "reader", None
    )
    return made(store.files(model, variant or None)) if made is not None else None


def asked(messages: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What a template's messages are as an item of a model: one of the role ``prompt`` is a raw completion."""
    if messages and messages[0]["role"] == "prompt":
        return {"prompt": messages[0]["content"]}
    return {"messages": [dict(each) for each in messages]}
