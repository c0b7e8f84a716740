"""Reads typed values out of a parsed sidecar and collects all of its faults."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_TEXT_LIMIT = 300


class SidecarTable:
    """Takes known values out of a table one by one and remembers every fault; a faulty value becomes a harmless one.

    Args:
        name: dotted name of the table, empty for the root.
        values: the parsed table.
        faults: what is wrong, added to.
    """

    def __init__(self, name: str, values: object, faults: list[str]) -> None:
        self._name, self._faults = name, faults
        self._values: dict[str, Any] = dict(values) if isinstance(values, Mapping) else {}
        if not isinstance(values, Mapping):
            faults.append(f"[{name}] is missing" if name else "is no table")

    def fault(self, key: str, problem: str) -> None:
        """Remembers that a value cannot be used."""
        self._faults.append(f"{self._name}.{key} {problem}".lstrip("."))

    def table(self, key: str, *, optional: bool = False) -> SidecarTable:
        """A table within this one; an optional one may be left out."""
        return SidecarTable(
            f"{self._name}.{key}".lstrip("."), self._values.pop(key, {} if optional else None), self._faults
        )

    def text(self, key: str, pattern: str = r"[^\x00-\x1f\x7f]+", default: str | None = None) -> str:
        """A line of text that matches a pattern; without a default it must be given."""
        value = self._values.pop(key, default)
        if value is None:
            self.fault(key, "is missing")
        elif not isinstance(value, str) or len(value) > _TEXT_LIMIT or (value and not re.fullmatch(pattern, value)):
            wanted = f"one line of at most {_TEXT_LIMIT} characters, {pattern}"
            self.fault(key, f"is {str(value)[:80]!r}; it must be {wanted}")
        elif value or default is not None:
            return value
        else:
            self.fault(key, "is empty")
        return ""

    def choice(self, key: str, known: tuple[str, ...], default: str | None = None) -> str:
        """One of the known words."""
        value = self._values.pop(key, default)
        if value in known:
            return str(value)
        self.fault(key, f"is {value!r}; it must be one of {', '.join(known)}")
        return known[0]

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number from low to high."""
        value = self._values.pop(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.fault(key, f"is {value!r}; it must be a whole number, {low}..{high}")
        return low

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._values.pop(key, default)
        if _is_number(value):
            return float(value)
        self.fault(key, f"is {value!r}; it must be a finite number")
        return 0.0

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        """None, or `count` finite numbers."""
        value = self._values.pop(key, [])
        if isinstance(value, list) and len(value) in (0, count) and all(map(_is_number, value)):
            return tuple(map(float, value))
        self.fault(key, f"is {value!r}; it must hold {count} finite number(s), one for each channel")
        return ()

    def optional_number(self, key: str) -> float | None:
        """A finite number, or None where it is left out."""
        return self.number(key) if key in self._values else None

    def range(self, key: str) -> tuple[float, float]:
        """Two numbers, the smaller first; 0 and 1 where it is left out."""
        value = self._values.pop(key, [0.0, 1.0])
        if isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]:
            return float(value[0]), float(value[1])
        self.fault(key, f"is {value!r}; it must be two numbers, the smaller first")
        return 0.0, 1.0

    def has(self, key: str) -> bool:
        """Whether a value is given and not yet taken."""
        return key in self._values

    def end(self) -> None:
        """Every value that nobody took is a fault."""
        for key in self._values:
            self.fault(key, "is not known")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
