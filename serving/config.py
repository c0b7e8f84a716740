"""Configuration: frozen dataclasses read once from TOML and MAIFS_* environment variables, all faults at once.

A service's settings live in its own table of one file (`[vision]`, `[vision.server]`); an environment variable
overrides the file: `MAIFS_VISION_SERVER_ADDRESS` is `address` in `[vision.server]`.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from serving.errors import MaifsError, Reason

T = TypeVar("T")

SECRET = "secret"  # noqa: S105 - the name of a metadata key
"""Key in a field's metadata that keeps its value out of `--print-config`."""


def load_config(
    cls: type[T],
    section: str,
    *,
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> T:
    """Reads a configuration.

    Args:
        cls: frozen dataclass; fields are str, int, float, bool, Path, tuple[str, ...], any of them or None, or
            nested dataclasses. An optional method `faults() -> list[str]` checks values.
        section: top-level TOML table and middle part of the environment names, e.g. "vision".
        path: TOML file; `MAIFS_CONFIG` when not given; none when that is unset too.
        environ: environment; the process's when not given.
        overrides: dotted field paths from the command line, strongest of all, e.g. {"server.address": "unix:/tmp/a"}.

    Raises:
        MaifsError: INVALID_CONFIG naming every fault.
    """
    environ = os.environ if environ is None else environ
    if path is None and environ.get("MAIFS_CONFIG"):
        path = Path(environ["MAIFS_CONFIG"])
    faults: list[str] = []
    table = _read_toml(path, section, faults)
    prefix = f"MAIFS_{section.upper()}_"
    known = _leaves(cls)
    values: dict[str, Any] = {}
    _flatten(table, "", known, values, f"{path} [{section}]", faults)
    by_env = {prefix + name.replace(".", "_").upper(): name for name in known}
    for variable, text in environ.items():
        if variable.startswith(prefix):
            if variable in by_env:
                values[by_env[variable]] = text
            else:
                faults.append(f"environment variable {variable} is not a setting of this service")
    values.update(overrides or {})
    config = _build(cls, "", values, faults, None)
    if config is None or faults:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise MaifsError(
            Reason.INVALID_CONFIG,
            f"The configuration of {section} has {len(faults)} fault(s):\n{listed}",
            "\n--print-config shows every setting with its value.",
        )
    return config


def _read_toml(path: Path | None, section: str, faults: list[str]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        table = tomllib.loads(path.read_text("utf-8")).get(section, {})
    except OSError as error:
        faults.append(f"{path} cannot be read: {error.strerror}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(f"{path} is not valid TOML: {error}")
        return {}
    if not isinstance(table, dict):
        faults.append(f"{path}: [{section}] must be a table")
        return {}
    return table


def _leaves(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of all settings with their types."""
    hints = typing.get_type_hints(cls)
    found: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            found.update(_leaves(kind, f"{prefix}{item.name}."))
        else:
            found[prefix + item.name] = kind
    return found


def _flatten(
    table: Mapping[str, Any],
    prefix: str,
    known: Mapping[str, Any],
    values: dict[str, Any],
    where: str,
    faults: list[str],
) -> None:
    for key, value in table.items():
        name = prefix + key
        if name in known:
            values[name] = value
        elif isinstance(value, dict) and any(k.startswith(name + ".") for k in known):
            _flatten(value, name + ".", known, values, where, faults)
        else:
            faults.append(f"{where}: unknown setting {name!r}")


def _build(cls: type[T], prefix: str, values: Mapping[str, Any], faults: list[str], base: T | None) -> T | None:
    """An instance from dotted values; what is not set comes from `base`, else from the fields' defaults."""
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    before = len(faults)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        kind, name = hints[item.name], prefix + item.name
        default = _default(item) if base is None else getattr(base, item.name)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            nested = None if default is dataclasses.MISSING else default
            arguments[item.name] = _build(kind, name + ".", values, faults, nested)
        elif name in values:
            try:
                arguments[item.name] = _convert(values[name], kind)
            except ValueError as error:
                faults.append(f"{name} = {values[name]!r}: {error}")
        elif default is dataclasses.MISSING:
            faults.append(f"{name} is required and not set")
        else:
            arguments[item.name] = default
    if len(faults) > before:
        return None
    config = cls(**arguments)
    check = getattr(config, "faults", None)
    if check is not None:
        faults.extend(prefix + fault for fault in check())
    return config


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _convert(value: Any, kind: Any) -> Any:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        if value is None or value == "":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        parts = [p.strip() for p in value.split(",") if p.strip()] if isinstance(value, str) else value
        if not isinstance(parts, list):
            raise ValueError("must be a list")
        return tuple(_convert(part, typing.get_args(kind)[0]) for part in parts)
    if kind is bool:
        return _convert_bool(value)
    if kind in (int, float):
        if isinstance(value, bool):
            raise ValueError(f"must be a number of type {kind.__name__}")
        try:
            return kind(value)
        except (TypeError, ValueError):
            raise ValueError(f"must be a number of type {kind.__name__}") from None
    if kind is Path:
        return Path(str(value)).expanduser()
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _convert_bool(value: Any) -> bool:
    text = str(value).lower()
    if text in _TRUE | _FALSE:
        return text in _TRUE
    raise ValueError("must be true or false")


def render_config(config: Any, section: str) -> str:
    """The configuration as TOML, secrets masked, ready to be pasted into a file."""
    lines: list[str] = []
    _render(config, section, lines)
    return "\n".join(lines).strip() + "\n"


def _render(config: Any, table: str, lines: list[str]) -> None:
    lines.append(f"[{table}]")
    nested: list[tuple[str, Any]] = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            nested.append((f"{table}.{item.name}", value))
        elif value is None:
            lines.append(f"# {item.name} = (not set)")
        else:
            lines.append(f"{item.name} = {_toml(value, secret=bool(item.metadata.get(SECRET)))}")
    for name, value in nested:
        lines.append("")
        _render(value, name, lines)


def _toml(value: Any, *, secret: bool) -> str:
    if secret and value:
        return '"***"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v, secret=False) for v in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
