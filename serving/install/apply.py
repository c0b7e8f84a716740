"""Writes an installation's files below a root and remembers them, so that an upgrade and uninstalling find them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from serving import __version__
from serving.errors import MaifsError, Reason
from serving.gpu.dropins import WRITTEN_BY
from serving.install.files import UNITS, Files

MANIFEST = PurePosixPath("/var/lib/maifs/installed.json")
_SETTINGS_FOLDER, _STATE_FOLDER = PurePosixPath("/etc/maifs"), PurePosixPath("/var/lib/maifs")
_SHARED_FOLDERS = frozenset(
    PurePosixPath(path)
    for path in (
        *("/etc/systemd/system", "/etc/sysusers.d", "/etc/tmpfiles.d", "/etc/modules-load.d"),
        *("/usr/share/doc", "/usr/local/bin", "/var/lib", "/etc", "/"),
    )
)


@dataclass(frozen=True)
class Change:
    """One thing that is done to a file or folder."""

    verb: str
    """"write", "link", "keep" or "remove"."""
    path: PurePosixPath

    def __str__(self) -> str:
        return f"{self.verb:7} {self.path}"


@dataclass(frozen=True)
class Manifest:
    """What the last installation left."""

    paths: tuple[PurePosixPath, ...] = ()
    venv: PurePosixPath | None = None
    """The environment, if the installation made it."""


def install(files: Files, root: Path, *, venv: PurePosixPath | None, dry_run: bool = False) -> list[Change]:
    """Writes what is missing or different; what an earlier version left and this one does not have is removed.

    Args:
        files: what belongs on the host.
        root: the host's root folder.
        venv: the environment that this installation made, if it made one.
        dry_run: only say what would be done.

    Returns:
        The changes; settings that are kept are told, unchanged files are not.

    Raises:
        MaifsError: OUTPUT_UNWRITABLE.
    """
    before = read_manifest(root)
    changes = [Change("write", path) for path, text in files.owned.items() if _text(_at(root, path)) != text]
    changes += [Change("link", path) for path, to in files.links.items() if _target(_at(root, path)) != str(to)]
    for path, text in files.settings.items():
        present = _text(_at(root, path))
        changes += [Change("write", path)] if present is None else [Change("keep", path)] if present != text else []
    now = {*files.owned, *files.links}
    stale = [path for path in before.paths if path not in now]
    changes += [Change("remove", path) for path in stale]
    if dry_run:
        return changes
    texts = {**files.owned, **files.settings}
    try:
        for change in changes:
            target = _at(root, change.path)
            if change.verb == "write":
                _write(target, texts[change.path])
            elif change.verb == "link":
                _link(target, files.links[change.path])
            elif change.verb == "remove":
                _remove(root, change.path)
        _write(_at(root, MANIFEST), _manifest_text(now, venv or before.venv))
    except OSError as error:
        raise _unwritable(error) from error
    return changes


def uninstall(root: Path, *, purge: bool, dry_run: bool = False) -> list[Change]:
    """Removes what was installed, and the drop-ins that `gpu apply` wrote.

    Args:
        root: the host's root folder.
        purge: whether settings, models and state go too.
        dry_run: only say what would be done.

    Raises:
        MaifsError: OUTPUT_UNWRITABLE.
    """
    before = read_manifest(root)
    paths = [*before.paths, *_generated(root), MANIFEST]
    paths += [before.venv] if before.venv else []
    paths += [_SETTINGS_FOLDER, _STATE_FOLDER] if purge else []
    changes = [Change("remove", path) for path in paths if _exists(_at(root, path))]
    if not dry_run:
        try:
            for change in changes:
                _remove(root, change.path)
        except OSError as error:
            raise _unwritable(error) from error
    return changes


def read_manifest(root: Path) -> Manifest:
    """What is installed below a root; nothing where there is no manifest."""
    text = _text(_at(root, MANIFEST))
    if text is None:
        return Manifest()
    try:
        table: dict[str, Any] = json.loads(text)
        venv = table["venv"]
        return Manifest(tuple(map(PurePosixPath, table["paths"])), PurePosixPath(venv) if venv else None)
    except (ValueError, KeyError, TypeError) as error:
        raise MaifsError(
            Reason.FILE_UNREADABLE, f"{_at(root, MANIFEST)} is damaged: {error}.", "Remove it and install again."
        ) from error


def _manifest_text(paths: Iterable[PurePosixPath], venv: PurePosixPath | None) -> str:
    table = {"version": __version__, "venv": str(venv) if venv else None, "paths": sorted(map(str, paths))}
    return json.dumps(table, indent=1) + "\n"


def _generated(root: Path) -> list[PurePosixPath]:
    """Drop-ins that `gpu apply` wrote, by their first line; the operator's own stay."""
    found = sorted(_at(root, UNITS).glob("maifs*.d/*.conf"))
    return [UNITS / path.relative_to(_at(root, UNITS)) for path in found if (_text(path) or "").startswith(WRITTEN_BY)]


def _at(root: Path, path: PurePosixPath) -> Path:
    return root / path.relative_to("/")


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _target(path: Path) -> str | None:
    return str(path.readlink()) if path.is_symlink() else None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, "utf-8")
    draft.chmod(0o644)
    draft.replace(path)


def _link(path: Path, target: PurePosixPath) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(path)


def _remove(root: Path, path: PurePosixPath) -> None:
    """Removes a file, a link or a whole folder, and folders of ours that are empty then."""
    target = _at(root, path)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    for parent in path.parents:
        folder = _at(root, parent)
        if parent in _SHARED_FOLDERS or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def _unwritable(error: OSError) -> MaifsError:
    return MaifsError(
        Reason.OUTPUT_UNWRITABLE,
        f"{error.filename} cannot be changed: {error.strerror}.",
        "Run this as root, or with --root DIR.",
    )
