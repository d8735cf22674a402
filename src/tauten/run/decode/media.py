"""What every codec checks: its parameters, the limits of a header, and damage met while decoding."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from tauten.errors import MachineError, MediaError, PlanError, TautenError, suggest
from tauten.extras import missing

MAX_SIDE_PX = 30_000  # above any camera or scanner; below 2**15, where some decoders' sums overflow
MAX_MEGAPIXELS = 100.0  # 300 MB of RGB: the largest sensors in wide use give 100, a bomb gives 2,500


def checked_params(
    codec: str, params: Mapping[str, Any], keys: Mapping[str, type], low: Mapping[str, float]
) -> dict[str, Any]:
    """Return the parameters as their declared types; raises PlanError for what the codec does not know."""
    checked: dict[str, Any] = {}
    for key, value in params.items():
        if key not in keys:
            raise PlanError(f"codec `{codec}` has no parameter `{key}`", help=suggest(key, keys), code="E128")
        wanted = keys[key]
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise PlanError(
                f"codec `{codec}`: {key}={value!r} is not of type {wanted.__name__}",
                help=f"write {key} as {wanted.__name__}",
                code="E128",
            )
        if (
            key in low and isinstance(value, int | float) and not value >= low[key]
        ):  # `not >=` also refuses NaN
            raise PlanError(
                f"codec `{codec}`: {key}={value!r}, expected at least {low[key]:g}",
                help=f"raise {key}, or leave it out",
                code="E128",
            )
        checked[key] = value
    return checked


def check_pixels(width: int, height: int, what: str) -> None:
    """Refuse a picture or clip whose header announces more pixels than are ever decoded."""
    if width < 1 or height < 1:
        raise MediaError(
            f"{what} of {width}x{height} pixels", help="give a picture that holds something", code="E213"
        )
    megapixels = width * height / 1e6
    if max(width, height) > MAX_SIDE_PX or megapixels > MAX_MEGAPIXELS:
        raise MediaError(
            f"{what} announces {width}x{height} pixels ({megapixels:.1f} megapixels); at most "
            f"{MAX_MEGAPIXELS:g} megapixels and {MAX_SIDE_PX} a side are decoded",
            help="send it reduced, or in tiles",
            code="E215",
        )


def check_seconds(seconds: float, limit_s: float, what: str) -> None:
    """Refuse sound or a clip that lasts longer than the plan allows."""
    if seconds > limit_s:
        raise MediaError(
            f"{what} lasts {seconds:.1f} s; at most {limit_s:g} s are decoded",
            help="cut it into parts, or raise `max_seconds` in the plan",
            code="E215",
        )


def damaged(what: str, reason: object) -> MediaError:
    """The error of media that cannot be decoded whole."""
    return MediaError(
        f"{what} is damaged or cut short: {reason}",
        help="send the whole file again; Tauten never decodes a part of one in silence",
        code="E216",
    )


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn whatever a decoder raises on hostile bytes into one MediaError (E216); MachineError E315 where there is none."""
    try:
        yield
    except TautenError:
        raise
    except MemoryError as error:
        raise MachineError(
            f"no memory left to decode {what}", help="decode smaller media, or fewer at once", code="E331"
        ) from error
    except Exception as error:
        raise missing(error) or damaged(what, str(error) or error.__class__.__name__) from error


def shrink(width: int, height: int, max_side: int, min_side: int) -> tuple[int, int]:
    """The size to reduce to: long side at most `max_side`, but short side not below `min_side`; never larger.

    >>> shrink(1920, 1080, 960, 0), shrink(1920, 1080, 0, 270), shrink(64, 48, 960, 0)
    ((960, 540), (480, 270), (64, 48))
    """
    wishes = [max_side / max(width, height)] if max_side else []
    wishes += [min_side / min(width, height)] if min_side else []
    scale = min(1.0, max(wishes, default=1.0))
    return max(1, round(width * scale)), max(1, round(height * scale))
