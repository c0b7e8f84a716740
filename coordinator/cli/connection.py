"""Options before the command: how the coordinator is known, and who calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.common import run_or_exit
from coordinator.client.connection import given_security
from serving.channel_security import ChannelSecurity
from serving.errors import MaifsError, Reason

_PANEL = "Connection to a coordinator on TCP, or with a token"


def _file(flag: str, variable: str, meaning: str) -> object:
    return typer.Option(flag, metavar="FILE", envvar=variable, help=meaning, rich_help_panel=_PANEL)


CaFile = Annotated[Path | None, _file("--ca-file", "MAIFS_CA_FILE", "Authorities (PEM) that vouch for the service.")]
CertificateFile = Annotated[
    Path | None, _file("--certificate-file", "MAIFS_CERTIFICATE_FILE", "Your own certificate (PEM), for mTLS.")
]
KeyFile = Annotated[Path | None, _file("--key-file", "MAIFS_KEY_FILE", "Its private key (PEM).")]
TokenFile = Annotated[Path | None, _file("--token-file", "MAIFS_TOKEN_FILE", "Your token.")]
ServerName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        envvar="MAIFS_SERVER_NAME",
        help="Name in the service's certificate, where it is not that of the address.",
        rich_help_panel=_PANEL,
    ),
]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", envvar="MAIFS_INSECURE", help="Call loopback TCP without TLS.", rich_help_panel=_PANEL),
]


def note(security: ChannelSecurity) -> None:
    """Has these options count for the command; faults end it."""
    run_or_exit(_check(security))
    given_security.set(security)


async def _check(security: ChannelSecurity) -> None:
    if faults := security.faults():
        raise MaifsError(Reason.INVALID_CONFIG, f"Connection: {'; '.join(faults)}.")
