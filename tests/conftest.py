"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vision_service.decode import decode
from vision_service.limits import DecodeLimits
from vision_service.substrate import Substrate

torch.set_num_threads(1)  # as in the services; nested thread pools fight over two cores

# A shell starts what it puts into the background with SIGINT ignored, and the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of labelled images, where there is one; tests that need it are skipped elsewhere."""
    folder = Path(os.environ.get("MAIFS_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "photos" / "manifest.csv").exists():
        pytest.skip(f"no labelled images in {folder} (set MAIFS_DATA)")
    return folder


@pytest.fixture(scope="session")
def to_substrate() -> Callable[[bytes], Substrate]:
    """Decodes a file with the default limits."""
    return lambda data: decode(data, DecodeLimits())
