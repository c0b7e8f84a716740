"""The command line: options in, exit code out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from coordinator.cli import batch, common, completion, connection, gpu, install, token
from coordinator.cli.common import EPILOG, Address, examples, run_or_exit
from coordinator.cli.journal import ReportsFolder
from serving import __version__
from serving.channel_security import ChannelSecurity
from serving.errors import ExitCode, MaifsError

app = typer.Typer(
    name="coordinator-cli",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    help="Image forensics: is it a camera photo left as it was, an edited photo or an AI-made image, and how do you "
    "know?",
)
app.add_typer(gpu.app, name="gpu")
app.add_typer(batch.app, name="batch")
app.command(epilog=install.EPILOG)(install.install)
app.command(epilog=install.EPILOG)(install.uninstall)
app.command(epilog=token.EPILOG)(token.token)
app.command(epilog=completion.EPILOG)(completion.completion)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"coordinator-cli {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    ca_file: connection.CaFile = None,
    certificate_file: connection.CertificateFile = None,
    key_file: connection.KeyFile = None,
    server_name: connection.ServerName = "",
    token_file: connection.TokenFile = None,
    insecure: connection.Insecure = False,
) -> None:
    """Options before the command."""
    connection.note(ChannelSecurity(ca_file, certificate_file, key_file, server_name, token_file, insecure))


@app.command(
    epilog=examples(
        ("coordinator-cli analyze photo.jpg", "one readable report"),
        (
            "coordinator-cli analyze ~/Pictures --out reports",
            "pages, maps and an index; run again, it goes on where it stopped",
        ),
        ("coordinator-cli analyze ~/Pictures --out reports --fresh", "all of them anew"),
        (
            "coordinator-cli analyze inbox --json --no-llm > reports.jsonl",
            "one JSON object per picture, without the language model",
        ),
    )
)
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
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Analyse again what has a report already, of an earlier run or in the coordinator's cache."
        ),
    ] = False,
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
        address=address,
        use_llm=not no_llm,
        llm_wait_s=llm_wait,
        concurrency=concurrency,
        lang=lang,
        out=out,
        fresh=fresh,
    )
    run = Analysis(settings, terminal, display)
    try:
        code = common.run(run.run(found))
    except KeyboardInterrupt:
        display.close()
        done = f"{run.done_count} of {len(found.sources)} pictures are done."
        terminal.error(f"Interrupted: {done} {run.resume_hint()}".rstrip())
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except MaifsError as error:
        display.close()
        terminal.error(str(error))
        raise typer.Exit(error.reason.exit_code) from None
    finally:
        display.close()
    if run.known_count:
        all_done = run.known_count == len(found.sources)
        told = f"All {run.known_count} pictures were" if all_done else f"{run.known_count} pictures were"
        terminal.note(f"{told} done before this run; their reports are in {out}.")
    for line in run.clock.summary():
        terminal.note(line)
    if run.clock.failed_count:
        terminal.note(f"{run.clock.failed_count} of {len(found.sources)} pictures failed.")
    raise typer.Exit(code)


@app.command(
    epilog=examples(
        ("coordinator-cli status", "the coordinator of this host"),
        ("coordinator-cli status --address 127.0.0.1:7700 --json", "another one, for a program"),
    )
)
def status(
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show the coordinator's backends, devices, queue and limits."""
    from rich.console import Console

    from coordinator.cli import status as view
    from coordinator.render.document import to_json

    where = view.address_of(address)
    answer = run_or_exit(view.fetch(where))
    if as_json:
        typer.echo(to_json(view.to_document(where, answer)))
    else:
        view.show(where, answer, Console(highlight=False))


@app.command(
    epilog=examples(
        ("coordinator-cli watch", "until Ctrl-C"),
        ("coordinator-cli watch --json --interval 10 >> watch.jsonl", "a log of the load"),
        ("coordinator-cli watch --json --count 1", "one look"),
    )
)
def watch(
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per look and line.")] = False,
    interval: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, help="Seconds from look to look.")
    ] = 1.0,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", min=1, help="End after N looks. Default: watch until Ctrl-C.")
    ] = None,
) -> None:
    """Watch services, queue, report cache and this machine's GPUs, renewed every second.

    A coordinator that stops while it is watched is shown as such, and again when it comes back. Without one at the
    beginning the command ends with exit code 3.
    """
    from coordinator.cli import watch as view

    run_or_exit(view.run(address, interval, as_json=as_json, count=count))


@app.command(epilog=EPILOG)
def report(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="A JSON report of `analyze --out`, a picture, the SHA-256 of one, or a batch."
        ),
    ],
    item: Annotated[
        str | None, typer.Argument(metavar="[ITEM]", help="With a batch: number or path of a picture in it.")
    ] = None,
    form: Annotated[Literal["text", "json", "html"], typer.Option("--format", help="Form of the report.")] = "text",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to a file.")] = None,
    lang: Annotated[Literal["en", "ko"], typer.Option("--lang", help="Language of labels.")] = "en",
    address: Address = None,
    folder: ReportsFolder = None,
) -> None:
    """Show a report that exists already, as text, JSON or HTML: from its file, or from a journal."""
    from coordinator.cli import report as stored

    run_or_exit(stored.show(stored.Wanted(what, item, address, folder), form, lang, out))


@app.command(
    epilog=examples(
        ("coordinator-cli ui", "start what is needed and open the page"),
        ("coordinator-cli ui --out reports", "browse the batches of `analyze --out reports` too"),
        ("coordinator-cli ui --no-open --port 8765", "on a host without a screen"),
    )
)
def ui(
    address: Address = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1. Default: any that is free.")
    ] = 0,
    no_llm: Annotated[
        bool, typer.Option("--no-llm", help="Leave the language model out; rules write the explanation.")
    ] = False,
    lang: Annotated[Literal["en", "ko"], typer.Option("--lang", help="Language of page and explanation.")] = "en",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of `analyze --out`, to browse its batches."),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser, where there is a screen.")
    ] = True,
) -> None:
    """Serve a local web page: drop pictures on it, watch findings arrive, open and compare reports, browse batches.

    The page answers on 127.0.0.1 alone. Its address carries a token that works once, in one browser; whoever has no
    token sees nothing. Pictures that are dropped lie in a private folder that is removed when the command ends. As with
    `analyze`, a running coordinator is used, else the services are started for as long as the page is open.

    Over SSH: `coordinator-cli ui --no-open --port 8765` there, `ssh -L 8765:127.0.0.1:8765 HOST` here, then open the
    printed address.
    """
    from coordinator.cli import ui as page

    run_or_exit(page.run(address, port, lang, out, use_llm=not no_llm, open_browser=open_browser))
