"""What the commands share: options, exit codes, and how their coroutines run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from serving.errors import ExitCode, MaifsError

T = TypeVar("T")

EPILOG = (
    "Exit codes: 0 all analysed, 1 some pictures failed, 2 usage, 3 a service cannot be reached, 4 a fault of the "
    "program, 130 interrupted."
)


def examples(*lines: tuple[str, str]) -> str:
    """An epilog: examples with what they do, then the exit codes."""
    return "\n".join(("**Examples**\n", *(f"- `{line}`: {meaning}" for line, meaning in lines), "", EPILOG))


Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDR",
        help="Coordinator: unix:/path/to.sock or host:port. Default: $MAIFS_ADDRESS, else "
        "unix:/run/maifs/coordinator.sock when something serves there.",
    ),
]


def run(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, in which SIGTERM and Ctrl-C both end as KeyboardInterrupt."""
    try:
        return asyncio.run(_ended_by_sigterm(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _ended_by_sigterm(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def run_or_exit(work: Coroutine[Any, Any, T]) -> T:
    """The same; what goes wrong is printed, and ends the command with its exit code."""
    from coordinator.cli.terminal import Style, Terminal

    try:
        return run(work)
    except MaifsError as error:
        Terminal(Style.TEXT, "en", quiet=False).error(str(error))
        raise typer.Exit(error.reason.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
