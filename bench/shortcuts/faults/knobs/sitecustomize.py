"""Read by a served process at its start: its wall clock is off by what the bench writes into a file of one number."""
# SPDX-License-Identifier: Apache-2.0

import mmap
import os
import struct
import time

_place = os.environ.get("TAUTEN_BENCH_CLOCK")
if _place:
    with open(_place, "r+b") as _file:
        _off = mmap.mmap(_file.fileno(), 8)
    _real, _real_ns = time.time, time.time_ns

    def _shifted() -> float:
        return _real() + struct.unpack_from("d", _off)[0]

    def _shifted_ns() -> int:
        return _real_ns() + int(struct.unpack_from("d", _off)[0] * 1e9)

    time.time, time.time_ns = _shifted, _shifted_ns
