"""Text to a sentence vector: MiniLM with mean pooling (Reimers & Gurevych 2019, arXiv 1908.10084)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING

from tauten.describe.payload import Tensor, Text
from tauten.describe.stage import Context, Role, stage
from tauten.describe.tokens import token_items
from tauten.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST = 512  # positions that the model was trained with


@stage(pure=True, roles={"model": Role("minilm-l6-v2", ("onnx", "openvino"), variant="fp32")})
async def embed(ctx: Context, text: Text, *, max_tokens: int = 256, pad_to: int = 16) -> Tensor:
    """Embed one text: float32 of shape (384,), of length 1, so that a dot product is the cosine.

    `max_tokens` (including two markers) cuts longer text; 256 is what the model's authors publish. `pad_to`
    rounds the length up to a multiple, masked out, so that texts of similar length may share a batch;
    1 pads nothing. Raises InputError E240 for numbers outside 2..512.
    """
    if not 2 <= max_tokens <= LONGEST or pad_to < 1:
        raise InputError(
            f"max_tokens={max_tokens}, pad_to={pad_to}",
            help=f"max_tokens is 2 to {LONGEST}, pad_to 1 or more",
            code="E240",
        )
    path = ctx.files("model")["tokenizer.json"]
    [item] = await ctx.work(token_items, path, [text.text], pad_to, max_tokens)
    ctx.spend("input_tokens", float(item["attention_mask"].sum()))
    out: dict[str, NDArray[np.float32]] = await ctx.infer("model", item)
    return Tensor(out["embedding"])
