"""Which files an installation puts where. All paths are as the host sees them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import serving
from serving.errors import MaifsError, Reason

VENV = PurePosixPath("/opt/maifs/venv")
"""Where the units expect the environment unless they are told otherwise."""
UNITS = PurePosixPath("/etc/systemd/system")
CONFIG = PurePosixPath("/etc/maifs/maifs.toml")
DOCS = PurePosixPath("/usr/share/doc/maifs")
COMMAND = PurePosixPath("/usr/local/bin/coordinator-cli")
_OWN_FOLDERS = {
    "sysusers.d": "/etc/sysusers.d",
    "tmpfiles.d": "/etc/tmpfiles.d",
    "modules-load.d": "/etc/modules-load.d",
}
_SERVICES = ("maifs-vision", "maifs-vision@", "maifs-llm", "maifs-coordinator")
_BACKOFF_SYSTEMD = 254


@dataclass(frozen=True)
class Host:
    """What decides which files a host gets."""

    venv: PurePosixPath = VENV
    has_gpu: bool = False
    """Whether nvidia-uvm is to be loaded before the services start."""
    systemd_version: int = 0


@dataclass(frozen=True)
class Files:
    """Contents by path."""

    owned: Mapping[PurePosixPath, str]
    """Written anew by each installation and removed by uninstalling."""
    links: Mapping[PurePosixPath, PurePosixPath]
    """Symbolic links and their targets; owned too."""
    settings: Mapping[PurePosixPath, str]
    """Written once; from then on they are the operator's."""


def sources() -> tuple[Path, Path]:
    """The folders systemd/ and docs/: beside the packages in a checkout, else where the wheel put them.

    Raises:
        MaifsError: INVALID_CONFIG when they are in neither place.
    """
    for root in (Path(serving.__file__).resolve().parents[1], Path(sys.prefix, "share", "maifs")):
        if (root / "systemd" / "units" / "maifs.target").is_file():
            return root / "systemd", root / "docs"
    raise MaifsError(
        Reason.INVALID_CONFIG,
        "The units are not part of this installation of the packages.",
        "Install from a checkout or from a wheel that was built from one.",
    )


def collect(host: Host) -> Files:
    """The files for a host.

    Raises:
        MaifsError: see `sources`.
    """
    systemd, docs = sources()
    owned = {UNITS / path.name: _for_venv(path.read_text("utf-8"), host.venv) for path in _files(systemd / "units")}
    for folder, target in _OWN_FOLDERS.items():
        if folder != "modules-load.d" or host.has_gpu:
            owned |= {PurePosixPath(target, path.name): path.read_text("utf-8") for path in _files(systemd / folder)}
    if host.systemd_version >= _BACKOFF_SYSTEMD:
        text = (systemd / "optional" / "restart-backoff.conf").read_text("utf-8")
        owned |= {UNITS / f"{name}.service.d" / "20-restart-backoff.conf": text for name in _SERVICES}
    settings = (systemd / "maifs.toml").read_text("utf-8")
    owned |= {DOCS / path.name: path.read_text("utf-8") for path in _files(docs) if path.suffix == ".md"}
    owned[DOCS / CONFIG.name] = settings
    return Files(owned, {COMMAND: host.venv / "bin" / COMMAND.name}, {CONFIG: settings})


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _for_venv(text: str, venv: PurePosixPath) -> str:
    return text.replace(str(VENV), str(venv))
