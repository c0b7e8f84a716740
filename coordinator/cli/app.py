"""The command line: options in, exit code out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from coordinator.cli import gpu, install
from serving import __version__
from serving.errors import ExitCode, MaifsError

T = TypeVar("T")

EPILOG = (
    "Exit codes: 0 all analysed, 1 some pictures failed, 2 usage, 3 a service cannot be reached, 4 a fault of the "
    "program, 130 interrupted."
)

app = typer.Typer(
    name="coordinator-cli",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="Image forensics: is it a camera photo left as it was, an edited photo or an AI-made image, and how do you "
    "know?",
)
app.add_typer(gpu.app, name="gpu")
app.command(epilog=install.EPILOG)(install.install)
app.command(epilog=install.EPILOG)(install.uninstall)

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDR",
        help="Coordinator: unix:/path/to.sock or host:port. Default: $MAIFS_ADDRESS, else "
        "unix:/run/maifs/coordinator.sock when something serves there.",
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"coordinator-cli {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


@app.command(epilog=EPILOG)
def analyze(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...", help="Image files, folders (searched recursively) or patterns such as '*.jpg'."
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per picture and line on standard output.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Write per picture a JSON report, heat maps and an HTML page; plus index.html."
        ),
    ] = None,
    no_llm: Annotated[
        bool, typer.Option("--no-llm", help="Leave the language model out; rules write the explanation.")
    ] = False,
    llm_wait: Annotated[
        float | None,
        typer.Option(
            "--llm-wait",
            metavar="SECONDS",
            min=0,
            help="Most seconds that an explanation waits for a language model that is still loading; findings do not "
            "wait. Default: 300 with services of our own, 0 with running ones.",
        ),
    ] = None,
    address: Address = None,
    lang: Annotated[
        Literal["en", "ko"],
        typer.Option("--lang", help="Language of labels and of the explanation."),
    ] = "en",
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", metavar="N", min=1, help="Most pictures under way at a time. Default: 8."),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no notes; one line per picture.")
    ] = False,
) -> None:
    """Analyse pictures and say for each: authentic, manipulated, AI-generated or uncertain, how probable, and why.

    With no coordinator given or running, the services are started for this run on private sockets and stopped
    afterwards. Files inside folders count when they end in an image extension; a file named itself is always sent.
    Results go to standard output, progress and notes to standard error.
    """
    from coordinator.cli.analyze import Analysis, AnalyzeSettings
    from coordinator.cli.sources import collect
    from coordinator.cli.terminal import Style, Terminal

    style = Style.JSON if as_json else Style.LINE if quiet else Style.TEXT
    terminal = Terminal(style, lang, quiet=quiet)
    try:
        found = collect(paths)
    except MaifsError as error:
        terminal.error(str(error))
        raise typer.Exit(error.reason.exit_code) from None
    if found.skipped_count:
        terminal.note(f"Skipped {found.skipped_count} file(s) in folders: no image extension, or hidden.")
    display = terminal.display()
    settings = AnalyzeSettings(
        address=address, use_llm=not no_llm, llm_wait_s=llm_wait, concurrency=concurrency, lang=lang, out=out
    )
    run = Analysis(settings, terminal, display)
    try:
        code = _run(run.run(found))
    except KeyboardInterrupt:
        display.close()
        terminal.error(f"Interrupted: {run.done_count} of {len(found.sources)} pictures are done.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except MaifsError as error:
        display.close()
        terminal.error(str(error))
        raise typer.Exit(error.reason.exit_code) from None
    finally:
        display.close()
    for line in run.clock.summary():
        terminal.note(line)
    if run.clock.failed_count:
        terminal.note(f"{run.clock.failed_count} of {len(found.sources)} pictures failed.")
    raise typer.Exit(code)


@app.command(epilog=EPILOG)
def status(
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show the coordinator's backends, devices, queue and limits."""
    from rich.console import Console

    from coordinator.cli import status as view
    from coordinator.cli.terminal import Style, Terminal
    from coordinator.render.document import to_json

    where = view.address_of(address)
    try:
        answer = _run(view.fetch(where))
    except MaifsError as error:
        Terminal(Style.TEXT, "en", quiet=False).error(str(error))
        raise typer.Exit(error.reason.exit_code) from None
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    if as_json:
        typer.echo(to_json(view.to_document(where, answer)))
    else:
        view.show(where, answer, Console(highlight=False))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run, in which SIGTERM and Ctrl-C both end as KeyboardInterrupt."""
    try:
        return asyncio.run(work)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
