"""INT8 weights and activations with ranges from calibration items: ONNX Runtime's QDQ form, U8 by S8.

For convolutional networks. Ranges are the smallest and largest values that the items give, which is what was
measured here; on the classifier one scale a channel keeps 86 % of the answers, one scale a tensor half of them.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tauten.improve.compress.onnx_file import HEAVY, MODEL, prepared, quiet, read, require_weights
from tauten.improve.compress.recipe import Feed, Recipe, Setting, Settings, Tell


def make(
    files: Mapping[str, Path], folder: Path, settings: Settings, items: Sequence[Feed], tell: Tell
) -> dict[str, Path]:
    """Write model.onnx with quantised weights and activations."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    require_weights(read(files[MODEL]), "ort_static")
    made = folder / MODEL
    with prepared(files[MODEL], folder, tell) as source, quiet():
        tell(f"calibrate on {len(items)} items")
        quantize_static(
            str(source),
            str(made),
            _reader(items),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_operators(settings),
            per_channel=settings["scales"] == "channel",
            reduce_range=bool(settings["reduce_range"]),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    return {MODEL: made}


def _operators(settings: Settings) -> list[str] | None:
    """None: all that the engine has in int8."""
    return None if settings["operators"] == "all" else list(HEAVY)


def _reader(items: Sequence[Feed]) -> Any:
    """The items as the tool wants them: one after another, then None."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(items)

        def get_next(self) -> Any:
            return next(self.rest, None)

    return Reader()


RECIPE = Recipe(
    name="ort_static",
    summary="int8 weights and activations (QDQ, U8 by S8), ranges from calibration items",
    reads="onnx",
    writes="onnx",
    replaces=(MODEL,),
    tools=("onnx", "onnxruntime"),
    make=make,
    settings={
        "scales": Setting(
            "channel", "one scale a tensor halved the classifier's agreement", ("channel", "tensor")
        ),
        "reduce_range": Setting(False, "7 bits are for processors without VNNI, whose int16 sums overflow"),
        "operators": Setting(
            "all",
            "sums and activations between convolutions stay int8; heavy is for encoders",
            ("all", "heavy"),
        ),
    },
    needs_calibration=True,
)
