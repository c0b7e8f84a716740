"""What decoding may take. Imports nothing heavy: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass

_FIXED_BYTES = 256 * 1024 * 1024
_BYTES_PER_PIXEL = 32
_FILE_COPIES = 3
"""Address space of the hungriest codec per pixel and per byte of the file (docs/reliability.md), with room to spare."""


@dataclass(frozen=True)
class DecodeLimits:
    """What is refused before any pixel is decoded, and what the worker that decodes may take."""

    max_image_bytes: int = 128 * 1024 * 1024
    """Largest file in bytes."""
    max_pixels: int = 128_000_000
    """Largest width x height."""
    max_side_px: int = 32_768
    """Largest width or height."""
    max_decode_s: float = 60.0
    """Most seconds of one step of decoding (header, pixels, coefficients, credentials) before its worker is killed."""
    max_decode_mib: int = 6144
    """Most memory (address space) of a worker that decodes; pictures of ordinary size are held to much less, by their
    number of pixels and their file's size."""

    def decode_memory_bytes(self, pixels: int, file_bytes: int) -> int:
        """What a worker may take for one picture.

        Args:
            pixels: width x height; 0 while they are not known, which suffices to read a header.
            file_bytes: size of the file.
        """
        wanted = _FIXED_BYTES + _BYTES_PER_PIXEL * pixels + _FILE_COPIES * file_bytes
        return min(wanted, self.max_decode_mib * 2**20)

    def faults(self) -> list[str]:
        """See serving.config."""
        names = ("max_image_bytes", "max_pixels", "max_side_px")
        found = [f"{name} = {getattr(self, name)}: must be at least 1" for name in names if getattr(self, name) < 1]
        if self.max_decode_s <= 0:
            found.append(f"max_decode_s = {self.max_decode_s}: must be above 0")
        if self.max_decode_mib < 512:
            found.append(f"max_decode_mib = {self.max_decode_mib}: must be at least 512")
        return found
