"""`coordinator-cli batch`: what the journal has, how far it is, and an end to it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.cli.common import EPILOG, Address, run_or_exit
from coordinator.cli.journal import (
    ReportsFolder,
    all_batches,
    all_items,
    coordinators_journal,
    find_batch,
    open_journal,
)
from coordinator.render.document import to_json, verdict_name
from coordinator.render.phrases import printable
from maifs.coordinator.v1 import batch_pb2
from serving.requests import outgoing_metadata
from serving.status import from_status

app = typer.Typer(
    no_args_is_help=True,
    help="Batches of pictures that the coordinator keeps until each has its report: list them, look into one, follow "
    "it, end it. `analyze --out` makes them.",
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")]
BatchName = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id, or the beginning of it.")]

_PIPE_WIDTH = 5000


def batch_document(batch: batch_pb2.Batch) -> dict[str, object]:
    """JSON form; docs/cli.md lists the fields."""
    return {
        "batch_id": batch.batch_id,
        "title": batch.title,
        "state": state_word(batch),
        "items_count": batch.items_count,
        "reported_count": batch.reported_count,
        "failed_count": batch.failed_count,
        "cancelled_count": batch.cancelled_count,
        "create_time": batch.create_time.ToJsonString(),
        "end_time": batch.end_time.ToJsonString() if batch.HasField("end_time") else None,
        "problem": batch.problem,
    }


def item_document(item: batch_pb2.BatchItem) -> dict[str, object]:
    """JSON form; docs/cli.md lists the fields."""
    reported = item.state == batch_pb2.BATCH_ITEM_STATE_REPORTED
    error = from_status(item.error) if item.HasField("error") else None
    return {
        "position": item.position,
        "path": item.name,
        "sha256": item.sha256.hex(),
        "size_bytes": item.size_bytes,
        "state": item_state_word(item),
        "verdict": verdict_name(item.verdict) if reported else None,
        "probability": item.probability if reported else None,
        "error": {"reason": error.reason.name, "message": error.message, "advice": error.advice} if error else None,
    }


def state_word(batch: batch_pb2.Batch) -> str:
    """Lower-case name of its state."""
    return batch_pb2.BatchState.Name(batch.state).removeprefix("BATCH_STATE_").lower()


def item_state_word(item: batch_pb2.BatchItem) -> str:
    """Lower-case name of its state."""
    return batch_pb2.BatchItemState.Name(item.state).removeprefix("BATCH_ITEM_STATE_").lower()


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, padding=(0, 2, 0, 0))


def _console() -> Console:
    """Of the terminal's width; into a file or a pipe, lines are not cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)


def _counts(batch: batch_pb2.Batch) -> str:
    parts = [f"{batch.reported_count} of {batch.items_count}"]
    parts += [f"{batch.failed_count} failed"] if batch.failed_count else []
    parts += [f"{batch.cancelled_count} cancelled"] if batch.cancelled_count else []
    return ", ".join(parts)


@app.command("list", epilog=EPILOG)
def list_batches(address: Address = None, folder: ReportsFolder = None, as_json: AsJson = False) -> None:
    """List the batches, the newest first."""

    async def fetch() -> list[batch_pb2.Batch]:
        async with open_journal(address, folder) as journal:
            return [batch async for batch in all_batches(journal)]

    found = run_or_exit(fetch())
    if as_json:
        for batch in found:
            typer.echo(to_json(batch_document(batch)))
        return
    table = _table("Batch", "State", "Reports", "Begun", "What")
    for batch in found:
        begun = batch.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
        what = printable(batch.title + (f" ({batch.problem})" if batch.problem else ""))
        table.add_row(batch.batch_id, state_word(batch), _counts(batch), begun, Text(what))
    _console().print(table if found else "No batches.")


@app.command(epilog=EPILOG)
def show(name: BatchName, address: Address = None, folder: ReportsFolder = None, as_json: AsJson = False) -> None:
    """Show a batch and its pictures."""

    async def fetch() -> tuple[batch_pb2.Batch, list[batch_pb2.BatchItem]]:
        async with open_journal(address, folder) as journal:
            batch = await find_batch(journal, name)
            return batch, [item async for item in all_items(journal, batch.batch_id)]

    batch, items = run_or_exit(fetch())
    if as_json:
        for item in items:
            typer.echo(to_json(item_document(item)))
        return
    console = _console()
    console.print(Text(f"{batch.batch_id}: {state_word(batch)}, {_counts(batch)} reported. {printable(batch.title)}"))
    if batch.problem:
        console.print(Text(printable(batch.problem), style="yellow"))
    table = _table("Item", "State", "Result", "Picture")
    for item in items:
        table.add_row(str(item.position), item_state_word(item), Text(_result(item)), Text(printable(item.name)))
    console.print(table)


def _result(item: batch_pb2.BatchItem) -> str:
    if item.state == batch_pb2.BATCH_ITEM_STATE_REPORTED:
        return f"{verdict_name(item.verdict)} {item.probability:.2f}"
    return from_status(item.error).reason.name if item.HasField("error") else ""


@app.command(epilog=EPILOG)
def cancel(name: BatchName, address: Address = None) -> None:
    """End the pictures of a batch that have not ended; reports that exist are kept."""

    async def work() -> batch_pb2.Batch:
        async with coordinators_journal(address) as journal:
            return await journal.cancel((await find_batch(journal, name)).batch_id)

    batch = run_or_exit(work())
    typer.echo(f"{batch.batch_id} is cancelled: {_counts(batch)}. The same `analyze` goes on with it.")


@app.command(epilog=EPILOG)
def watch(name: BatchName, address: Address = None, as_json: AsJson = False) -> None:
    """Follow a batch: a line for each picture that has ended, from the first on, until all have."""

    async def follow() -> None:
        async with coordinators_journal(address) as journal:
            batch = await find_batch(journal, name)
            request = batch_pb2.WatchBatchRequest(batch_id=batch.batch_id, skip_reports=True)
            async for response in journal.stub.WatchBatch(request, metadata=outgoing_metadata()):
                _print_event(response, as_json)

    run_or_exit(follow())


def _print_event(response: batch_pb2.WatchBatchResponse, as_json: bool) -> None:
    if response.HasField("ended"):
        item: Any = response.ended.item
        line = f"{item.sequence}\t{item_state_word(item)}\t{_result(item)}\t{printable(item.name)}"
        typer.echo(to_json(item_document(item)) if as_json else line)
    elif response.HasField("batch") and not as_json:
        batch = response.batch
        note = f"{batch.batch_id}: {state_word(batch)}, {_counts(batch)} reported. {printable(batch.problem)}"
        typer.echo(note.rstrip(), err=True)
