"""Command `vision-service`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from serving.main import run_service
from serving.server import Service
from vision_service.config import VisionConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the service; returns its exit code."""
    return run_service(
        name="vision-service",
        section="vision",
        description="Four forensic tools on the original bytes of a picture, over gRPC (maifs.vision.v1).",
        config_type=VisionConfig,
        build=_build,
        argv=argv,
    )


def _build(config: VisionConfig) -> Service:
    from vision_service.service import VisionService  # torch takes seconds; --help must not

    return VisionService(config)


if __name__ == "__main__":
    sys.exit(main())
