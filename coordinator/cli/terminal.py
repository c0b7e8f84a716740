"""Where results and notes go: results to standard output, everything else to standard error."""

from __future__ import annotations

import sys
from enum import Enum

from rich.console import Console
from rich.text import Text

from coordinator.cli.progress import Display, LiveDisplay, NoDisplay
from coordinator.render.document import to_json
from coordinator.render.labels import Labels
from coordinator.render.phrases import printable
from coordinator.render.schema import Document
from coordinator.render.text import report_line, report_text

PIPE_WIDTH = 110
"""Columns of the readable report where standard output is no terminal."""


class Style(Enum):
    """How a result is shown."""

    TEXT = "text"
    LINE = "line"
    JSON = "json"


class Terminal:
    """Standard output and standard error of the command."""

    def __init__(self, style: Style, lang: str, *, quiet: bool) -> None:
        self._style, self._labels, self._quiet = style, Labels(lang), quiet
        self._err = Console(stderr=True, highlight=False)
        out_is_terminal = sys.stdout.isatty()
        # One console for progress and reports, where both go to the terminal, so that they do not overwrite another.
        self._out = Console(
            highlight=False, soft_wrap=False, width=None if out_is_terminal else PIPE_WIDTH, file=sys.stdout
        )

    def display(self) -> Display:
        """Live progress where a person can see it."""
        if self._quiet:
            return NoDisplay()
        if self._out.is_terminal:
            return LiveDisplay(self._out)
        return LiveDisplay(self._err) if self._err.is_terminal else NoDisplay()

    def show(self, document: Document) -> None:
        """A result."""
        if self._style is Style.TEXT:
            self._out.print(report_text(document, self._labels))
        else:
            self._line(to_json(document) if self._style is Style.JSON else report_line(document, self._labels))
        self._out.file.flush()

    def show_known(self, document: Document) -> None:
        """A result of an earlier run: scripts get all that they asked for, people only what is new."""
        if self._style is not Style.TEXT:
            self.show(document)

    def _line(self, text: str) -> None:
        if self._out.is_terminal:
            self._out.out(text, highlight=False)
        else:
            self._out.file.write(text + "\n")  # rich would turn tabs into spaces

    def note(self, text: str) -> None:
        """Something that the user should know."""
        if not self._quiet:
            self._err.print(Text("\n".join(printable(line) for line in text.splitlines()), style="dim"), soft_wrap=True)

    def error(self, text: str) -> None:
        """Why the command failed."""
        lines = "\n".join(printable(line) for line in text.splitlines())
        self._err.print(Text("Error: ", style="bold red") + Text(lines), soft_wrap=True)
