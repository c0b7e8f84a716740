"""Checks that .venv is what requirements/cpu.txt promises: a CPU build of torch, nothing of CUDA, imports that work."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys

FORBIDDEN = ("torchvision", "torchaudio", "torchcodec", "triton")
NEEDED = ("torch", "transformers", "vllm", "cv2", "c2pa", "jpeglib", "grpc")


def main() -> int:
    """Prints every fault; returns 0 when there is none."""
    faults = []
    installed = {(d.metadata["Name"] or "").lower() for d in importlib.metadata.distributions()}
    faults += [f"{name} is installed; its CUDA build breaks the CPU engine" for name in FORBIDDEN if name in installed]
    cuda = [name for name in installed if name.startswith("nvidia-cu")]
    faults += [f"{name} is installed; this environment is for CPUs" for name in cuda]
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken binary wheel raises anything
            faults.append(f"import {name} failed: {error}")
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        faults.append(
            f"torch {torch.__version__} is a CUDA build. Install the CPU build of the same version into .venv "
            "(PyTorch's own package index has it), then run this again."
        )
    for fault in faults:
        print(f"environment: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
