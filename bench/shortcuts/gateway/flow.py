"""What our server serves as a gateway: a conversation goes to the provider that the plan names, and its words come back."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import tauten as tt


@tt.workflow
def words(messages: list[dict[str, Any]], max_tokens: int | None = None) -> tt.Stream[tt.Text]:
    return tt.chat(messages, max_tokens)
