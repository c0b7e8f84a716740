"""`coordinator-cli install` and `uninstall`: the services of a host under systemd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from serving.errors import ExitCode, MaifsError, Reason

EPILOG = "Exit codes: 0 done (or nothing to do), 2 usage, 3 a command failed."
TARGET, SLICE = "maifs.target", "maifs.slice"

Root = Annotated[
    Path,
    typer.Option("--root", metavar="DIR", help="Write below this folder and run nothing: for packages and images."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]


def install(
    venv: Annotated[
        str, typer.Option("--venv", metavar="DIR", help="Virtual environment of the services; made when missing.")
    ] = "/opt/maifs/venv",
    root: Root = Path("/"),
    gpu: Annotated[
        bool | None,
        typer.Option("--gpu/--cpu", help="For a host with NVIDIA GPUs or without. Default: as this host is."),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Put the environment, the units, users and settings of the services in place; again after every upgrade.

    Settings in /etc/maifs and drop-ins of yours are never changed. Nothing is started: `systemctl start maifs.target`
    does that, after `gpu apply` on a host with GPUs. Needs root, unless --root is given.
    """
    from serving.install import apply, environment
    from serving.install.files import Host, collect

    def work() -> None:
        has_gpu = Path("/proc/driver/nvidia").is_dir() if gpu is None else gpu
        place = PurePosixPath(venv)
        if not place.is_absolute():
            raise MaifsError(Reason.INVALID_REQUEST, f"--venv {venv}: must be an absolute path.")
        here = root == Path("/")
        _check_root(here=here and not dry_run)
        making = environment.steps(place, has_gpu=has_gpu) if here else []
        _run_all(making, dry_run=dry_run)
        files = collect(Host(place, has_gpu, _systemd_version() if here else 0))
        changes = apply.install(files, root, venv=place if making else None, dry_run=dry_run)
        _tell(changes)
        if here:
            _run_all(_after_install(), dry_run=dry_run)
            typer.echo(
                "Next: " + ("coordinator-cli gpu apply --write; " if has_gpu else "") + f"systemctl start {TARGET}"
            )

    _guard(work)


def uninstall(
    root: Root = Path("/"),
    purge: Annotated[bool, typer.Option("--purge", help="Remove settings, models and batches too.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Stop the services and remove what `install` and `gpu apply` put in place.

    Settings in /etc/maifs, models in /var/lib/maifs and the users stay; --purge removes the folders. Needs root, unless
    --root is given.
    """
    from serving.install import apply

    def work() -> None:
        here = root == Path("/")
        _check_root(here=here and not dry_run)
        if here and _has_systemd():
            loaded = _output("systemctl", "show", "--value", "--property=LoadState", TARGET) == "loaded"
            stop = [("systemctl", "disable", "--now", TARGET), ("systemctl", "stop", SLICE)]
            _run_all(stop if loaded else [], dry_run=dry_run)
        changes = apply.uninstall(root, purge=purge, dry_run=dry_run)
        _tell(changes)
        if here and _has_systemd() and changes:
            _run_all([("systemctl", "daemon-reload")], dry_run=dry_run)

    _guard(work)


def _check_root(*, here: bool) -> None:
    """Refuses at once what would fail half-way."""
    if here and os.geteuid() != 0:
        raise MaifsError(
            Reason.OUTPUT_UNWRITABLE, "Only root may change this host.", "Use sudo, --dry-run or --root DIR."
        )


def _after_install() -> list[Sequence[str]]:
    users = [("systemd-sysusers",), ("systemd-tmpfiles", "--create", "maifs.conf")]
    if not _has_systemd():
        return [step for step in users if shutil.which(step[0])]
    return [*users, ("systemctl", "daemon-reload"), ("systemctl", "--quiet", "enable", TARGET)]


def _has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _systemd_version() -> int:
    """0 when it is not there."""
    match = re.search(r"systemd (\d+)", _output("systemctl", "--version"))
    return int(match[1]) if match else 0


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _run_all(commands: Sequence[Sequence[str]], *, dry_run: bool) -> None:
    for command in commands:
        typer.echo("run     " + " ".join(command))
        if dry_run:
            continue
        try:
            code = subprocess.run(command, check=False).returncode  # noqa: S603
        except OSError as error:
            raise MaifsError(Reason.BACKEND_UNAVAILABLE, f"{command[0]} cannot be run: {error.strerror}.") from error
        if code:
            raise MaifsError(
                Reason.BACKEND_UNAVAILABLE, f"{' '.join(command)} failed with {code}.", "Its own message stands above."
            )


def _tell(changes: Sequence[object]) -> None:
    for change in changes:
        typer.echo(str(change))
    if not changes:
        typer.echo("Files are as they should be.")


def _guard(work: Callable[[], None]) -> None:
    from coordinator.cli.terminal import Style, Terminal

    try:
        work()
    except MaifsError as error:
        Terminal(Style.TEXT, "en", quiet=False).error(str(error))
        raise typer.Exit(ExitCode(error.reason.exit_code)) from None
