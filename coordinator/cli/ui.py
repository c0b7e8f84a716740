"""`coordinator-cli ui`: a local web page."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from coordinator.cli.journal import STATE_FOLDER
from coordinator.cli.terminal import Style, Terminal
from coordinator.client import Options
from coordinator.ui.serve import UiSettings, serve


async def run(
    address: str | None, port: int, lang: str, out: Path | None, *, use_llm: bool, open_browser: bool
) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        MaifsError: see coordinator.ui.serve.serve.
    """
    terminal = Terminal(Style.TEXT, lang, quiet=False)
    display = terminal.display()

    def on_url(url: str) -> None:
        display.close()
        # The only line on standard output, so that a script can read it.
        print(url, flush=True)
        terminal.note("Open this address in a browser; it works once. Ctrl-C ends the page.")
        if open_browser and _has_screen():
            webbrowser.open(url)

    folder = out / STATE_FOLDER if out else None
    settings = UiSettings(address, port, lang, Options(use_llm=use_llm, language=lang), folder)
    try:
        await serve(settings, on_url, display.service)
    finally:
        display.close()


def _has_screen() -> bool:
    """Whether a browser would have a window; one that runs in this terminal would take it over."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
