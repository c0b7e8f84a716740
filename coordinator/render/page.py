"""The template engine of all pages: escaping, filters, and the content security policy of self-contained ones."""

from __future__ import annotations

import base64
import functools
import hashlib
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from coordinator.render import phrases
from coordinator.render.labels import Labels
from coordinator.render.schema import Tool

SYMBOLS = {"authentic": "✓", "manipulated": "✎", "ai_generated": "✦", "uncertain": "?", "failed": "!"}
"""A sign per verdict, so that colour is not the only difference."""

TEMPLATES = Path(__file__).with_name("templates")


def render_page(name: str, t: Labels, **values: object) -> str:
    """A self-contained page: its style and script are inside, and named by digest in its policy."""
    style, script = _asset("style.css.j2"), _asset(name.replace(".html.j2", ".js.j2"))
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {_digest(style)}",
            f"script-src {_digest(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    template = environment().get_template(name)
    # The project's own files; Markup keeps them as they are, which their digests require.
    own = {"style": Markup(style), "script": Markup(script)}  # noqa: S704
    return template.render(t=t, policy=policy, **own, **values)


@functools.cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def environment(more_templates: Sequence[Path] = ()) -> jinja2.Environment:
    """Jinja with escaping on and our filters.

    Args:
        more_templates: folders beside that of the reports; a tuple.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([TEMPLATES, *more_templates]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": phrases.percent,
        "number": phrases.number,
        "seconds": phrases.seconds,
        "file_size": phrases.file_size,
        "full_stop": lambda text: text if text.rstrip().endswith((".", "!", "?")) else f"{text.rstrip()}.",
        "moment": phrases.moment,
        "title_of_test": phrases.title_of_test,
        "limit_of_test": phrases.limit_of_test,
        "text_language": phrases.text_language,
        "result_key": phrases.result_key,
        "tool_verdict_key": phrases.tool_verdict_key,
        "tool_class": _tool_class,
        "base64": lambda data: base64.b64encode(data).decode(),
        "link": lambda name: urllib.parse.quote(name),
    }
    environment.tests["moves"] = phrases.moves
    environment.globals |= {
        "probability_sentence": phrases.probability_sentence,
        "finding_phrases": phrases.finding_phrases,
        "authorship": phrases.authorship,
        "contribution_phrases": phrases.contribution_phrases,
        "opinion_lines": phrases.opinion_lines,
        "symbols": SYMBOLS,
    }
    return environment


def _tool_class(tool: Tool) -> str:
    if tool["outcome"] == "tested" and tool["verdict"] != "uncertain":
        return tool["verdict"]
    return "failed" if tool["outcome"] == "failed" else "no_verdict"


def _finalize(value: object) -> object:
    """Every text that a template puts out loses what could steer the page's layout, such as direction overrides."""
    return phrases.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
