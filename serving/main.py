"""The command line that all services share."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from serving import __version__
from serving.access.access import Access
from serving.config import load_config, render_config
from serving.errors import ExitCode, MaifsError
from serving.gpu.session import GpuConfig, open_session
from serving.logs import configure_logs
from serving.server import ServerConfig, Service, serve
from serving.tracing import close_tracing, configure_tracing


class HasServer(Protocol):
    """A service's configuration."""

    @property
    def server(self) -> ServerConfig:
        """How it listens."""


C = TypeVar("C", bound=HasServer)


def run_service(
    *,
    name: str,
    section: str,
    description: str,
    config_type: type[C],
    build: Callable[[C], Service],
    argv: Sequence[str] | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Parses arguments, reads the configuration, runs the service and returns its exit code.

    Args:
        name: command name, e.g. "vision-service".
        section: TOML table, e.g. "vision".
        description: one sentence for --help.
        config_type: frozen dataclass with a `server` field; an optional field `gpu` of type GpuConfig pins its GPUs.
        build: makes the service from its configuration; heavy imports belong here.
        argv: arguments; the process's when not given.
        loop_factory: makes the event loop; asyncio's own when not given.
    """
    arguments = _parser(name, section, description).parse_args(argv)
    overrides = dict(_pair(text) for text in arguments.set)
    if arguments.address:
        overrides["server.address"] = arguments.address
    if arguments.insecure:
        overrides["server.insecure"] = "true"
    try:
        config = load_config(config_type, section, path=arguments.config, overrides=overrides)
        if arguments.print_config:
            sys.stdout.write(render_config(config, section))
            return ExitCode.OK
        configure_logs(name, config.server.log_level, config.server.log_style)
        configure_tracing(name, config.server.tracing)
        gpus = open_session(getattr(config, "gpu", GpuConfig()))
        access = Access(config.server.tls, config.server.access, name)
        service = build(config)
    except MaifsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.reason.exit_code
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        code = runner.run(serve(service, config.server, gpus, access))
    close_tracing()
    return code


def _parser(name: str, section: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=f"Settings come from the [{section}] table of the TOML file, then from MAIFS_{section.upper()}_* "
        "environment variables, then from the options above; --print-config shows the result. "
        "Exit codes: 0 stopped by a signal, 2 configuration or address, 3 a part it needs is gone, 4 internal.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default: $MAIFS_CONFIG, else none)")
    parser.add_argument("--address", help="listen on unix:/absolute/path, or on HOST:PORT with server.tls set")
    parser.add_argument("--insecure", action="store_true", help="listen on loopback TCP without TLS")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override a setting, e.g. server.log_level=debug",
    )
    parser.add_argument("--print-config", action="store_true", help="print the settings in force as TOML and exit")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip(), value
