"""Builds the fake driver library and runs commands on the host that it pretends to be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def build(folder: Path) -> Path:
    """Compiles the library; skips where there is no compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler for the fake NVML")
    library = folder / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-Wall", "-Werror", "-Wl,-soname,libnvidia-ml.so.1", "-o", str(library)]
    subprocess.run([compiler, *flags, str(Path(__file__).with_suffix(".c"))], check=True)
    return folder


def run(folder: Path, *arguments: str, **properties: object) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` where the fake driver is the driver; properties become FAKE_NVML_*.

    Programs in the folder come before those of this host.
    """
    environ = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)}
    environ["PATH"] = f"{folder}:{environ['PATH']}"
    environ |= {f"FAKE_NVML_{name.upper()}": str(value) for name, value in properties.items()}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
