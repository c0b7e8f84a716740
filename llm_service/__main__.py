"""The command `llm-service`, also `python -m llm_service`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from llm_service.config import LlmConfig
from serving.main import run_service
from serving.server import Service

PREPARE = "prepare-model"


def build(config: LlmConfig) -> Service:
    """The service of a configuration; nothing heavy is imported before it starts."""
    from llm_service.service import LlmServiceProcess

    return LlmServiceProcess(config.laid_out())


def _event_loop() -> asyncio.AbstractEventLoop:
    """The loop of uvloop, which vLLM requires and uses itself: less CPU time for each message that is sent."""
    try:
        import uvloop
    except ImportError:  # no vLLM either; the start will tell
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the service, or the subcommand that makes the development model; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [PREPARE]:
        from llm_service.prepare_model import main as prepare

        return prepare(arguments[1:], prog=f"llm-service {PREPARE}")
    return run_service(
        name="llm-service",
        section="llm",
        description="Serves one language model (vLLM) over gRPC, maifs.llm.v1. "
        f"`llm-service {PREPARE} --help` tells how to make the small development model.",
        config_type=LlmConfig,
        build=build,
        argv=arguments,
        loop_factory=_event_loop,
    )


if __name__ == "__main__":
    sys.exit(main())
