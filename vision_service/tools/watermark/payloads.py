"""Registry of payloads that image generators embed with the open dwtDct and dwtDctSvd schemes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Payload:
    """A bit string that a generator repeats over a picture."""

    generator: str
    bits: npt.NDArray[np.int8]
    """0 or 1, shape (n,)."""


def from_bytes(generator: str, message: bytes) -> Payload:
    """A payload given as bytes, most significant bit first."""
    return Payload(generator, np.unpackbits(np.frombuffer(message, dtype=np.uint8)).astype(np.int8))


def from_bits(generator: str, bits: str) -> Payload:
    """A payload given as a string of 0 and 1."""
    return Payload(generator, np.array([int(bit) for bit in bits], dtype=np.int8))


PAYLOADS: Final = (
    from_bytes("Stable Diffusion 1", b"StableDiffusionV1"),
    from_bytes("Stable Diffusion 2", b"SDV2"),
    from_bits("Stable Diffusion XL", "101100111110110010010000011110111011000110011110"),
    # FLUX writes a 48-bit constant without its two leading zeros, so the mark repeats every 46 bits.
    from_bits("FLUX", "1010101111111010000111100111001111010100101110"),
)
"""Payloads that the decoders look for; each costs a factor in the number of false alarms."""

RIVAGAN_PAYLOADS: Final = (from_bytes("Stable Diffusion 2", b"SDV2"),)
"""32-bit payloads that generators write with the same library, whichever of its schemes they choose."""


def parse_owned(entry: str) -> Payload:
    """A payload of an owner, written as "name=hex", e.g. "Example Press=b40f916e": 32 bits.

    Raises:
        ValueError: there is no name, or not exactly eight hexadecimal digits.
    """
    name, _, digits = entry.rpartition("=")
    if not name.strip() or len(digits.strip()) != 8:
        raise ValueError(f"{entry!r}: must be name=hex with eight hexadecimal digits")
    return from_bytes(name.strip(), bytes.fromhex(digits.strip()))
