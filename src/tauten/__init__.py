"""EXPLAIN ANALYZE for AI workflows, and the optimiser behind it.

    import tauten as tt

The public names are listed in `__all__`; each is imported when it is first used.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tauten.describe.stage import set_outside
from tauten.version import __version__

if TYPE_CHECKING:
    from tauten.describe.flow import choose, default, equals, fallback, map, option, when
    from tauten.describe.passages import Answer, Found, Passage
    from tauten.describe.payload import Audio, Image, Json, Payload, Pdf, Tensor, Text, Video
    from tauten.describe.ports import Session, Stream
    from tauten.describe.said import Said, Spoken, ToolCall
    from tauten.describe.slo import Slo, parse_slo
    from tauten.describe.stage import Context, stage
    from tauten.describe.stages.classify import Labels, classify
    from tauten.describe.stages.detect_speech import detect_speech
    from tauten.describe.stages.embed import embed
    from tauten.describe.stages.frames import frames
    from tauten.describe.stages.generate import chat, generate
    from tauten.describe.stages.ocr import Page, ocr
    from tauten.describe.stages.pages import pages
    from tauten.describe.stages.quote import quote
    from tauten.describe.stages.retrieve import retrieve
    from tauten.describe.stages.sound import sound
    from tauten.describe.stages.speak import speak
    from tauten.describe.stages.transcribe import transcribe
    from tauten.describe.view import View
    from tauten.describe.workflow import Workflow, workflow
    from tauten.errors import TautenError
    from tauten.improve.analyze import analyze
    from tauten.improve.quality import metric
    from tauten.plan.plan import Plan, load_plan
    from tauten.run.decode.fetch import fetch
    from tauten.run.engine import Engine
    from tauten.run.here import cancelled, deadline_left, gather
    from tauten.run.retrieval.index import index
    from tauten.run.wrap import wrap

_WHERE = {
    "describe.flow": "choose default equals fallback map option when",
    "describe.passages": "Answer Found Passage",
    "describe.payload": "Audio Image Json Payload Pdf Tensor Text Video",
    "describe.ports": "Session Stream",
    "describe.said": "Said Spoken ToolCall",
    "describe.slo": "Slo parse_slo",
    "describe.stage": "Context stage",
    "describe.stages.classify": "Labels classify",
    "describe.stages.detect_speech": "detect_speech",
    "describe.stages.embed": "embed",
    "describe.stages.frames": "frames",
    "describe.stages.sound": "sound",
    "describe.stages.generate": "chat generate",
    "describe.stages.ocr": "Page ocr",
    "describe.stages.pages": "pages",
    "describe.stages.quote": "quote",
    "describe.stages.retrieve": "retrieve",
    "describe.stages.speak": "speak",
    "describe.stages.transcribe": "transcribe",
    "describe.view": "View",
    "describe.workflow": "Workflow workflow",
    "errors": "TautenError",
    "improve.analyze": "analyze",
    "improve.quality": "metric",
    "plan.plan": "Plan load_plan",
    "run.engine": "Engine",
    "run.decode.fetch": "fetch",
    "run.here": "cancelled deadline_left gather",
    "run.retrieval.index": "index",
    "run.wrap": "wrap",
}
_HOME = {name: module for module, names in _WHERE.items() for name in names.split()}

__all__ = [
    "Answer",
    "Audio",
    "Context",
    "Engine",
    "Found",
    "Image",
    "Json",
    "Labels",
    "Page",
    "Passage",
    "Payload",
    "Pdf",
    "Plan",
    "Said",
    "Session",
    "Slo",
    "Spoken",
    "Stream",
    "TautenError",
    "Tensor",
    "Text",
    "ToolCall",
    "Video",
    "View",
    "Workflow",
    "__version__",
    "analyze",
    "cancelled",
    "chat",
    "choose",
    "classify",
    "deadline_left",
    "default",
    "detect_speech",
    "embed",
    "equals",
    "fallback",
    "fetch",
    "frames",
    "gather",
    "generate",
    "index",
    "load_plan",
    "map",
    "metric",
    "ocr",
    "option",
    "pages",
    "parse_slo",
    "quote",
    "retrieve",
    "sound",
    "speak",
    "stage",
    "transcribe",
    "when",
    "workflow",
    "wrap",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'tauten' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tauten.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def _runner() -> Any:
    return importlib.import_module("tauten.run.ambient").shared()


set_outside(_runner)  # who runs a stage that is called outside any workflow: imported when one is
