"""Command `coordinator-service`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from coordinator.config import CoordinatorConfig
from serving.main import run_service
from serving.memory import keep_large_buffers
from serving.server import Service


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the service; returns its exit code."""
    return run_service(
        name="coordinator-service",
        section="coordinator",
        description="Takes pictures, asks the tools and the language model, and merges one explained report for each, "
        "over gRPC (maifs.coordinator.v1).",
        config_type=CoordinatorConfig,
        build=_build,
        argv=argv,
    )


def _build(config: CoordinatorConfig) -> Service:
    from coordinator.service import CoordinatorService  # keeps --help quick

    keep_large_buffers()
    return CoordinatorService(config)


if __name__ == "__main__":
    sys.exit(main())
