"""The command `coordinator-cli`, also `python -m coordinator.cli`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from typer._completion_classes import completion_init

from coordinator.cli.app import app
from serving.errors import ExitCode


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    # gRPC's C library writes to standard error by itself, over the progress and into a script's log.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    completion_init()  # answers what the scripts of `completion` ask
    try:
        app(args=None if argv is None else list(argv), prog_name="coordinator-cli")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    except Exception:  # noqa: BLE001 - whatever it is, scripts get the exit code for it and people the trace
        traceback.print_exc()
        print("coordinator-cli: this is a fault of the program; please report the lines above.", file=sys.stderr)
        return ExitCode.INTERNAL
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
