"""Intermediates that several tests need, computed once per picture and dropped with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

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
