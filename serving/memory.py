"""How the C library treats memory that was given back."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_MIB = 1024 * 1024


def keep_large_buffers(limit_mib: int = 64) -> bool:
    """Has large buffers reused instead of mapped anew each time, with a page fault for every 4 KiB.

    A process that moves pictures in chunks takes and frees such buffers all the time.

    Args:
        limit_mib: most free memory at the end of the heap that is kept.

    Returns:
        Whether the C library took it; false where it is not glibc.
    """
    if sys.platform != "linux" or not hasattr(library := ctypes.CDLL(None), "mallopt"):
        return False
    mapped = library.mallopt(_MMAP_THRESHOLD, 32 * _MIB)  # glibc takes no more
    return bool(mapped and library.mallopt(_TRIM_THRESHOLD, limit_mib * _MIB))
