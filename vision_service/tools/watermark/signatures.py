"""What programs write about themselves: a table of rules over metadata fields, and its matching."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from vision_service.container import Container
from vision_service.tools.watermark.xmp import Xmp

RuleClass = Literal["generator", "ai_edit", "editor"]

TABLE: Final = Path(__file__).with_name("signatures.toml")
_PLACES: Final = ("EXIF", "XMP", "IPTC", "text")
_FIELD_LIMIT: Final = 16_384
"""Characters of a field that are searched: records of generators show themselves at once."""


@dataclass(frozen=True)
class Rule:
    """One line of the table."""

    name: str
    kind: RuleClass
    fields: tuple[str, ...]
    """"<place> <name>", e.g. "XMP xmp:CreatorTool"."""
    pattern: re.Pattern[str] | None
    """None: the field's presence is enough."""


@dataclass(frozen=True)
class Match:
    """A rule that matched, and where."""

    rule: Rule
    field: str
    value: str


def load_rules(path: Path = TABLE) -> tuple[Rule, ...]:
    """Reads a table of rules.

    Raises:
        ValueError: a rule with an unknown class, an unknown place or a broken pattern, naming the rule.
    """
    with path.open("rb") as file:
        document = tomllib.load(file)
    return tuple(_rule(entry) for entry in document["rule"])


def _rule(entry: Mapping[str, object]) -> Rule:
    name, kind, fields, pattern = entry.get("name"), entry.get("class"), entry.get("fields"), entry.get("pattern")
    if kind not in get_args(RuleClass):
        raise ValueError(f"rule {name!r}: class {kind!r} is not one of {', '.join(get_args(RuleClass))}")
    if not isinstance(fields, list) or any(str(f).partition(" ")[0] not in _PLACES for f in fields):
        raise ValueError(f"rule {name!r}: every field must begin with one of {', '.join(_PLACES)}: {fields!r}")
    try:
        compiled = re.compile(str(pattern), re.IGNORECASE | re.DOTALL) if pattern is not None else None
    except re.error as error:
        raise ValueError(f"rule {name!r}: pattern {pattern!r}: {error}") from error
    return Rule(str(name), kind, tuple(str(f) for f in fields), compiled)  # type: ignore[arg-type]


@functools.cache
def packaged_rules() -> tuple[Rule, ...]:
    """The table that ships with the project."""
    return load_rules()


def metadata_fields(container: Container, xmp: Xmp) -> dict[str, str]:
    """All metadata of a file by "<place> <name>"."""
    fields = {f"EXIF {name}": value for name, value in container.exif.items()}
    fields |= {f"XMP {name}": xmp.joined(name) for name in xmp.properties}
    fields |= {f"IPTC {name}": value for name, value in container.iptc.items()}
    fields |= {f"text {name}": value for name, value in container.text.items()}
    return fields


def match_rules(rules: Iterable[Rule], fields: Mapping[str, str]) -> list[Match]:
    """The rules that match, in the table's order; each with the first field that it matched."""
    matches = []
    for rule in rules:
        for name in rule.fields:
            value = fields.get(name, "")[:_FIELD_LIMIT]
            if value.strip() and (rule.pattern is None or rule.pattern.search(value)):
                matches.append(Match(rule, name, value))
                break
    return matches
