"""How many threads an engine is told to make where it would count processors that it may not use."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os


def bound() -> int:
    """To how many processors this thread is bound; 0 where it may use all of the machine's.

    Engines count the processors of the whole machine, and ONNX Runtime and OpenVINO then bind their threads to
    them, whatever the thread that opens them may use.
    """
    if not hasattr(os, "sched_getaffinity"):
        return 0
    count = len(os.sched_getaffinity(0))
    return count if count < (os.cpu_count() or 0) else 0
