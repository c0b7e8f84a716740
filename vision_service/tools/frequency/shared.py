"""Intermediates that several tests need, computed once per picture and dropped with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

T = TypeVar("T")


def once_per_picture(compute: Callable[[Substrate], T]) -> Callable[[Substrate], T]:
    """Remembers a pure function's result as long as its substrate lives.

    Two threads that ask at the same moment may both compute it; both get the same answer.
    """
    results: WeakKeyDictionary[Substrate, T] = WeakKeyDictionary()

    @wraps(compute)
    def remembered(substrate: Substrate) -> T:
        if substrate not in results:
            results[substrate] = compute(substrate)
        return results[substrate]

    return remembered


@once_per_picture
def clipped_blocks(substrate: Substrate) -> npt.NDArray[np.bool_]:
    """Whole 8 x 8 blocks with a pixel of which some channel is 0 or 255, shape (H // 8, W // 8).

    Clipping after a decompression moves coefficients off the multiples of the quantisation step, so that such a block
    has lost the trace of its first compression without any edit.
    """
    rows, columns = substrate.height_px // 8, substrate.width_px // 8
    clipped = np.empty((rows, columns), dtype=bool)
    for row in range(rows):
        strip = substrate.rgb[row * 8 : row * 8 + 8, : columns * 8]
        extreme = (strip + np.uint8(1) <= 1).any(axis=0)  # 255 wraps to 0
        clipped[row] = extreme.reshape(columns, 24).any(axis=1)
    return clipped
