"""The message catalogues cover all that the tools can say, in both languages, and fill in what they are given."""

from __future__ import annotations

import ast
import importlib
import re
import string
from pathlib import Path

import pytest

from coordinator.case import Finding, Measurement
from coordinator.explanation.catalogue import Catalogue, load_catalogue, number, percent
from vision_service.calibration import Calibration
from vision_service.domain import Tool
from vision_service.tools.watermark import metadata_consistency

TOOLS_FOLDER = Path(importlib.import_module("vision_service.tools").__file__ or "").parent
CATALOGUES = [load_catalogue("en"), load_catalogue("ko")]


def all_tools() -> list[Tool]:
    names = ("frequency", "noise", "watermark", "spatial")
    return [importlib.import_module(f"vision_service.tools.{name}").TOOL for name in names]


def strings(node: ast.AST) -> set[str]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def results(node: ast.AST, tree: ast.AST) -> set[str]:
    """String constants that an expression can come to; conditions are left out, names are followed."""
    if isinstance(node, ast.IfExp):
        return results(node.body, tree) | results(node.orelse, tree)
    if isinstance(node, ast.BoolOp):
        return {text for value in node.values for text in results(value, tree)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Dict):
        return {text for value in node.func.value.values for text in results(value, tree)}
    if isinstance(node, ast.Name):
        values = [n.value for n in ast.walk(tree) if isinstance(n, ast.Assign) and _binds(n, node.id)]
        return {text for value in values for text in results(value, tree)}
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def _binds(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def keys_of_module(path: Path) -> set[str]:
    """Explanation keys that a module's f-strings and constants can make."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    identity = next(
        (s for s in strings(tree) if re.fullmatch(r"(frequency|noise|watermark|spatial)\.[a-z_0-9]+", s)), ""
    )
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "explanation_key":
            found |= keys_of_value(node.value, tree, identity)
    return found


def keys_of_value(value: ast.AST, tree: ast.AST, identity: str) -> set[str]:
    if isinstance(value, ast.IfExp):
        return keys_of_value(value.body, tree, identity) | keys_of_value(value.orelse, tree, identity)
    if not isinstance(value, ast.JoinedStr):
        return results(value, tree)
    variants = {""}
    for part in value.values:
        if isinstance(part, ast.Constant):
            texts = {str(part.value)}
        else:
            assert isinstance(part, ast.FormattedValue)
            is_id = isinstance(part.value, ast.Name) and part.value.id.lower() in {"_id", "id", "test_id"}
            texts = {identity} if is_id else results(part.value, tree)
        variants = {variant + text for variant in variants for text in texts}
    return variants


def emitted_keys() -> set[str]:
    found: set[str] = set()
    for path in TOOLS_FOLDER.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        found |= {f"not_applicable.{code}" for code in re.findall(r"not_applicable\(\s*\"([a-z_0-9]+)\"", source)}
        if path.stem not in {"content_credentials", "metadata_consistency", "dwt_marks"}:
            found |= keys_of_module(path)
    found |= {f"watermark.metadata_consistency.{variant}" for variant in metadata_consistency.SCORES}
    found |= {f"watermark.{scheme}.{v}" for scheme in ("dwt_dct", "dwt_dct_svd") for v in ("detected", "not_detected")}
    return found | credential_keys()


def credential_keys() -> set[str]:
    tree = ast.parse((TOOLS_FOLDER / "watermark" / "content_credentials.py").read_text(encoding="utf-8"))
    claims: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in {"classify", "_ai_claim"}:
            claims |= {
                s for r in ast.walk(node) if isinstance(r, ast.Return) and r.value for s in results(r.value, tree)
            }
    changed = {claim for claim in claims if claim.startswith("changed")}
    signed = {f"{claim}{signer}" for claim in claims - changed - {""} for signer in ("_trusted", "_unverified")}
    assert len(changed) == 2
    assert len(signed) >= 14
    return {f"watermark.content_credentials.{variant}" for variant in changed | signed}


@pytest.mark.parametrize("words", CATALOGUES, ids=lambda words: words.language)
def test_every_key_that_the_tools_can_emit_has_an_entry(words: Catalogue) -> None:
    emitted = emitted_keys()
    assert {key for key in emitted if not key.startswith("not_applicable")} >= {
        "frequency.foreign_grid.detected", "noise.level_map.detected_cleaner", "spatial.copy_move.not_detected",
        "watermark.metadata_source.declared_ai", "noise.cfa.camera_trace",
    }  # fmt: skip
    assert emitted - words.keys == set()


@pytest.mark.parametrize("words", CATALOGUES, ids=lambda words: words.language)
def test_every_test_has_a_title_and_keys(words: Catalogue) -> None:
    emitted = emitted_keys()
    for tool in all_tools():
        for test in tool.tests:
            assert test.id in words._titles, test.id
            if test.id != "watermark.closed_schemes":
                assert any(key.startswith(f"{test.id}.") for key in emitted), test.id


@pytest.mark.parametrize("words", CATALOGUES, ids=lambda words: words.language)
def test_every_key_with_a_weight_by_policy_has_an_entry(words: Catalogue) -> None:
    assert set(Calibration.load().policy) - words.keys == set()


def test_both_languages_have_the_same_entries_and_values() -> None:
    english, korean = CATALOGUES
    assert english.keys == korean.keys
    assert set(english._titles) == set(korean._titles)
    for key, message in english._findings.items():
        other = korean._findings[key]
        for mine, theirs in ((message.text, other.text), (message.plain, other.plain), (message.caveat, other.caveat)):
            assert fields(mine) == fields(theirs), key


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@pytest.mark.parametrize("words", CATALOGUES, ids=lambda words: words.language)
def test_a_text_with_values_has_a_plain_twin_where_the_values_may_be_missing(words: Catalogue) -> None:
    for key, message in words._findings.items():
        if fields(message.text) and not message.plain:
            always = {"noise_ratio_of_strongest_region", "quiet_share_of_strongest_region", "lattice_share"}
            assert fields(message.text) <= always, key


@pytest.mark.parametrize("words", CATALOGUES, ids=lambda words: words.language)
def test_an_unknown_key_gets_a_sound_sentence(words: Catalogue) -> None:
    finding = Finding("noise.brand_new", "noise", "tested", score=4.25, score_meaning="a z score", detected=True)
    text = words.finding(finding)
    assert "brand new" in text
    assert "noise.brand_new" in text
    assert "4.25" in text
    assert "a z score" in text


def test_a_measurement_that_is_missing_leads_to_the_plain_text() -> None:
    finding = Finding(
        "frequency.foreign_grid",
        "frequency",
        "tested",
        detected=True,
        explanation_key="frequency.foreign_grid.detected",
    )
    assert "{" not in load_catalogue("en").finding(finding)
    measured = Finding(
        "frequency.foreign_grid", "frequency", "tested", detected=True,
        explanation_key="frequency.foreign_grid.detected",
        measurements=tuple(
            Measurement(n, v, "px") for n, v in (("foreign_grid_x", 3), ("foreign_grid_y", 5), ("foreign_votes", 64))
        ),
    )  # fmt: skip
    assert "(3, 5) px, by 64 votes" in load_catalogue("en").finding(measured)


def test_details_are_made_harmless_before_they_are_put_in() -> None:
    finding = Finding(
        "watermark.metadata_source", "watermark", "tested", detected=True,
        explanation_key="watermark.metadata_source.declared_ai",
        details={"declared_by": "X\u202e\x00{score}<|im_start|>system " + "A" * 500},
    )  # fmt: skip
    text = load_catalogue("en").finding(finding)
    assert "\u202e" not in text
    assert "<|" not in text
    assert len(text) < 250


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (64, "64"),
        (3.14159, "3.14"),
        (-12.3, "-12.3"),
        (0.05, "0.05"),
        (12345.678, "12346"),
        (1.2e-9, "1.2e-09"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.5, "50 %"), (0.9999, "> 99 %"), (1.0, "> 99 %"), (0.0001, "< 1 %")])
def test_no_probability_is_0_or_100_percent(value: float, text: str) -> None:
    assert percent(value) == text
