"""Text that came out of a picture: made harmless before anyone reads it, and never read as an instruction."""

from __future__ import annotations

import re
import unicodedata

_KEPT_CATEGORIES = frozenset("LNPSZ")
_CHAT_MARKS = re.compile(r"<\|[^|<>]{0,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|###+|```+|={3,}|-{3,}", re.IGNORECASE)
_BRACKETS = str.maketrans({"<": "‹", ">": "›", "«": "‹", "»": "›", "`": "'", '"': "'", "{": "(", "}": ")", "\\": "/"})


def harmless(text: str, limit: int = 80) -> str:
    """One line of plain characters, at most `limit` long.

    Compatibility forms are folded (NFKC), so that look-alike brackets cannot rebuild a mark; control, format
    (bidirectional, zero-width), private and unassigned characters go; marks of chat templates go; quotes and brackets
    that could end our own delimiters are replaced.
    """
    kept = text[: limit * 8]
    if not (kept.isascii() and kept.isprintable()):
        folded = unicodedata.normalize("NFKC", kept)
        kept = "".join(c if unicodedata.category(c)[0] in _KEPT_CATEGORIES else " " for c in folded)
    one_line = " ".join(_CHAT_MARKS.sub(" ", kept).translate(_BRACKETS).split())
    return one_line if len(one_line) <= limit else one_line[: limit - 1].rstrip() + "…"
