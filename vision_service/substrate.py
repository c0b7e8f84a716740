"""What all tests share about one picture: bytes, container facts, pixels, JPEG coefficients; computed once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from vision_service.container import Container
from vision_service.decoding.codecs import Codecs, OwnProcess
from vision_service.jpeg import JpegData


@dataclass(frozen=True, eq=False)
class Substrate:
    """One picture, ready for the tests. Tests must not change any array of it.

    Lazily computed members are cached; all pixel coordinates are those of the stored picture (no EXIF rotation).
    """

    data: bytes
    """The file exactly as received."""
    container: Container
    """Format, size, mode, frames, metadata."""
    rgb: npt.NDArray[np.uint8]
    """Decoded first frame, shape (H, W, 3), 8 bit sRGB as stored (ICC profile not applied). Grey is repeated, alpha
    dropped, CMYK converted, 16 bit scaled by 1/257."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    reader: Codecs | None = None
    """Who runs the codecs over `data`; this process when not given."""

    @property
    def height_px(self) -> int:
        """Stored height."""
        return int(self.rgb.shape[0])

    @property
    def width_px(self) -> int:
        """Stored width."""
        return int(self.rgb.shape[1])

    @cached_property
    def sha256(self) -> bytes:
        """Digest of the file, 32 bytes."""
        return hashlib.sha256(self.data).digest()

    @cached_property
    def luma(self) -> torch.Tensor:
        """Luminance rint(0.299 R + 0.587 G + 0.114 B), float32, shape (H, W), 0..255, on `device` (BT.601)."""
        rgb = torch.from_numpy(self.rgb).to(self.device)
        weights = torch.tensor([0.299, 0.587, 0.114], device=self.device)
        luma = torch.empty(rgb.shape[:2], dtype=torch.float32, device=self.device)
        for top in range(0, rgb.shape[0], 512):  # strips: a float copy of 100 MP RGB would be 1.2 GB
            luma[top : top + 512] = (rgb[top : top + 512].to(torch.float32) @ weights).round_()
        return luma

    @cached_property
    def jpeg(self) -> JpegData | None:
        """Quantised DCT coefficients and tables; None when the file is no JPEG or they cannot be read."""
        return self.codecs.coefficients() if self.container.format == "JPEG" else None

    @property
    def codecs(self) -> Codecs:
        """The codecs over `data`."""
        return self.reader or OwnProcess(self.data)

    @cached_property
    def stratum(self) -> str:
        """Quality class for calibration: "small" (below 0.2 MP), "lossless" (not JPEG and not lossy WebP/AVIF/HEIF),
        "jpeg-high" (quality >= 90), "jpeg-mid" (75..89), "jpeg-low" (below 75), "lossy-other".
        """
        if self.width_px * self.height_px < 200_000:
            return "small"
        if self.jpeg is not None:
            quality = self.jpeg.quality
            return "jpeg-high" if quality >= 90 else "jpeg-mid" if quality >= 75 else "jpeg-low"
        return "lossy-other" if self.container.format in {"WEBP", "AVIF", "HEIF", "JPEG"} else "lossless"
