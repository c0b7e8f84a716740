"""`coordinator-cli token`: a fresh token for a client of a service."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coordinator.cli.common import EPILOG
from serving.access.clients import digest_of, is_name, new_token
from serving.errors import ExitCode

__all__ = ["EPILOG", "token"]


def token(
    client: Annotated[
        str, typer.Argument(metavar="CLIENT", help="Name of the client: 1 to 64 characters of A-Z a-z 0-9 . _ -")
    ],
) -> None:
    """Make a token: on standard output for the client, on standard error its entry for a service's clients_file.

    `coordinator-cli token alice > alice.token` keeps it from the screen. It is stored nowhere else; the entry holds a
    digest from which it cannot be found.
    """
    if not is_name(client):
        print(f"{client!r} is no name: use 1 to 64 characters of A-Z a-z 0-9 . _ -", file=sys.stderr)
        raise typer.Exit(ExitCode.USAGE)
    made = new_token()
    quoted = f'"{client}"' if "." in client else client
    print(f'[clients.{quoted}]\ntoken_sha256 = ["{digest_of(made)}"]', file=sys.stderr)
    print(made)
