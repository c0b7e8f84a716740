"""Reports pinned packages that are outdated or known to be vulnerable: `make dependencies`.

The index is asked through pip, as it is configured. Advisories are read from a folder of OSV records (`--advisories`),
such as a checkout of the Python Packaging Advisory Database. What could not be asked is said, never taken for "none".
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

REQUIREMENTS = Path(__file__).parent.parent / "requirements"
_AT_A_TIME = 4
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Findings:
    """One line each, and what nobody could say."""

    lines: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    asked: str = ""
    """What was asked."""


def pins(folder: Path = REQUIREMENTS) -> dict[str, set[str]]:
    """The pinned versions by normalised name, over all files."""
    found: dict[str, set[str]] = {}
    for file in sorted(folder.glob("*.txt")):
        for line in file.read_text("utf-8").splitlines():
            pin = line.partition("#")[0].strip()
            if pin:
                name, _, version = pin.partition("==")
                found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def outdated(wanted: Mapping[str, set[str]]) -> Findings:
    """Pins that are not the newest version of the index."""
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        newest = dict(zip(wanted, threads.map(newest_version, wanted), strict=True))
    findings = Findings(asked=f"{len(wanted)} packages at the index")
    for name, versions in wanted.items():
        latest = newest[name]
        if isinstance(latest, str):
            findings.unknown.append(f"{name}: {latest}")
        else:
            old = sorted(version for version in versions if Version(version) < latest)
            findings.lines.extend(f"{name} {version}: {latest} is there" for version in old)
    return findings


def newest_version(name: str) -> Version | str:
    """The newest version that fits this interpreter, or why the index could not say."""
    command = [sys.executable, "-m", "pip", "index", "versions", name]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"no answer within {_TIMEOUT_S} s"
    if answer.returncode:
        return (answer.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
    # in words, since older versions of pip have no other form: "Available versions: 2.1, 2.0"
    found = re.search(r"^Available versions: ([^,\s]+)", answer.stdout, re.MULTILINE)
    return Version(found[1]) if found else "pip named no version"


def vulnerable(wanted: Mapping[str, set[str]], advisories: Path) -> Findings:
    """Pins that a record of the folder names as affected."""
    lines: list[str] = []
    unknown: list[str] = []
    count = 0
    for path in sorted([*advisories.rglob("*.json"), *advisories.rglob("*.yaml")]):
        try:
            record = read_record(path)
            if record is None or record.get("withdrawn"):
                continue
            count += 1
            lines.extend(_affected_pins(record, wanted))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            unknown.append(f"{path.name} cannot be read: {error}")
    if not count:
        unknown.append(f"{advisories} holds no OSV record")
    return Findings(lines, unknown, f"{len(wanted)} packages in {count} advisories")


def read_record(path: Path) -> dict[str, Any] | None:
    """An OSV record; None for a file of another kind.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        record = json.loads(text)
    else:
        import yaml

        try:
            record = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    return record if isinstance(record, dict) and "id" in record and "affected" in record else None


def _affected_pins(record: Mapping[str, Any], wanted: Mapping[str, set[str]]) -> Iterator[str]:
    for part in record["affected"]:
        package = part.get("package", {})
        name = canonicalize_name(package.get("name", ""))
        if package.get("ecosystem") == "PyPI" and name in wanted:
            for version in sorted(wanted[name]):
                if is_affected(Version(version), part):
                    names = [record["id"], *record.get("aliases", ())]
                    yield f"{name} {version}: {', '.join(map(str, names))}"


def is_affected(version: Version, part: Mapping[str, Any]) -> bool:
    """Whether one entry under `affected` holds a version: it is listed, or lies in a range (OSV schema, evaluation)."""
    if any(_version(str(listed)) == version for listed in part.get("versions", ())):
        return True
    return any(
        _within(version, span.get("events", ())) for span in part.get("ranges", ()) if span.get("type") == "ECOSYSTEM"
    )


def _within(version: Version, events: Iterable[Mapping[str, Any]]) -> bool:
    inside = False
    for kind, at in sorted(_steps(events), key=lambda step: step[1]):
        if kind == "introduced" and version >= at:
            inside = True
        elif (kind == "fixed" and version >= at) or (kind == "last_affected" and version > at):
            inside = False
    return inside


def _steps(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Version]]:
    for event in events:
        for kind, at in event.items():
            version = Version("0.dev0") if str(at) == "0" else _version(str(at))
            if version is None:
                raise ValueError(f"event {kind} = {at!r} is no version")
            yield kind, version


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


def report(title: str, findings: Findings | None, advice: str = "") -> bool:
    """Prints a section; returns whether all could be asked and nothing was found."""
    if findings is None:
        print(f"{title}: COULD NOT BE ASKED. {advice}")
        return False
    print(f"{title}: {len(findings.lines)} found, {len(findings.unknown)} could not be asked ({findings.asked})")
    for line in findings.lines:
        print(f"  {line}")
    for line in findings.unknown:
        print(f"  could not be asked: {line}")
    return not findings.lines and not findings.unknown


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when all was asked and nothing found, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="packages to look at; all pinned ones without")
    parser.add_argument("--advisories", type=Path, help="folder with OSV records, JSON or YAML")
    options = parser.parse_args(arguments)
    wanted = pins()
    if options.names:
        names = {canonicalize_name(name) for name in options.names}
        if names - wanted.keys():
            parser.error(f"not pinned: {', '.join(sorted(names - wanted.keys()))}")
        wanted = {name: wanted[name] for name in sorted(names)}
    print(f"{len(wanted)} pinned packages")
    current = report("Outdated", outdated(wanted))
    found = vulnerable(wanted, options.advisories) if options.advisories else None
    sound = report("Vulnerable", found, "Give --advisories FOLDER (docs/dependencies.md).")
    return 0 if current and sound else 1


if __name__ == "__main__":
    sys.exit(main())
