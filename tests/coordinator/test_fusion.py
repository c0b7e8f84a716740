"""Fusion: traces add up, weak evidence never accuses, silence never clears alone."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import fit_fusion
from coordinator.fusion import DEFAULT_FILE, Evidence, FusionModel, Opinion, Posterior, fuse
from serving.errors import MaifsError, Reason

DOCUMENT: dict[str, Any] = {
    "version": "9.1",
    "prior": {"authentic": 0.7, "manipulated": 0.15, "ai_generated": 0.15},
    "costs": {"accuse_authentic": 20.0, "wrong_kind": 3.0, "clear_forged": 4.0},
    "authentic": {"min_traces": 3, "max_log10_lr_manipulated": -0.1, "max_log10_lr_ai_generated": 0.0},
    "other_weight": 0.5,
    "rules": {"watermark.c2pa.ai": "provenance.ai_declared", "watermark.c2pa.capture": "provenance.capture_intact"},
    "groups": {
        "jpeg": {"tests": ["f.a", "f.b"], "weight_manipulated": 1.0, "weight_ai_generated": 1.0},
        "copy": {"tests": ["s.a"], "weight_manipulated": 0.5, "weight_ai_generated": 1.0},
        "sensor": {"tests": ["n.a"], "weight_manipulated": 1.0, "weight_ai_generated": 1.0},
        "spectrum": {"tests": ["f.c"], "weight_manipulated": 1.0, "weight_ai_generated": 1.0},
    },
}
MODEL = FusionModel.from_document(DOCUMENT)


def item(
    name: str,
    manipulated: float = 0.0,
    ai: float = 0.0,
    *,
    detected: bool = False,
    outcome: Any = "tested",
    key: str = "",
    cap: float = 5.0,
) -> Evidence:
    return Evidence(name, name.partition(".")[0], outcome, detected, manipulated, ai, cap, cap, key)


def test_no_evidence_leaves_the_prior_and_says_uncertain() -> None:
    result = fuse([], MODEL)
    assert result.verdict == "uncertain"
    assert result.posterior.authentic == pytest.approx(0.7)
    assert result.probability == pytest.approx(0.7)
    assert result.contributions == ()


def test_bayes_rule_with_the_stated_prior() -> None:
    result = fuse([item("f.a", 2.0, 1.0, detected=True)], MODEL)
    total = 0.7 + 15 + 1.5
    assert result.posterior.manipulated == pytest.approx(15 / total)
    assert result.posterior.ai_generated == pytest.approx(1.5 / total)
    assert result.prior == MODEL.prior


def test_a_strong_detected_trace_accuses_and_names_the_trace() -> None:
    result = fuse([item("f.a", 3.0, detected=True)], MODEL)
    assert (result.verdict, result.rule) == ("manipulated", "trace.jpeg")
    assert result.probability == result.posterior.manipulated


def test_a_strong_score_that_no_test_detected_does_not_accuse() -> None:
    result = fuse([item("f.a", 3.0), item("s.a", -0.1, detected=True)], MODEL)
    assert (result.verdict, result.rule) == ("uncertain", "evidence.undetected")


def test_one_ordinary_detection_does_not_accuse() -> None:
    result = fuse([item("f.a", 1.0, detected=True)], MODEL)
    assert (result.verdict, result.rule) == ("uncertain", "evidence.too_weak")


def test_an_uncalibrated_detection_counts_for_nothing() -> None:
    result = fuse([item("f.a", 9.0, 9.0, detected=True, cap=0.0)], MODEL)
    assert result.log10_lr_manipulated == 0.0
    assert result.verdict == "uncertain"


@pytest.mark.parametrize("outcome", ["not_applicable", "failed"])
def test_a_test_that_did_not_run_counts_for_nothing(outcome: str) -> None:
    assert fuse([item("f.a", 4.0, detected=True, outcome=outcome)], MODEL).contributions == ()


def test_weights_beyond_their_cap_are_limited() -> None:
    assert fuse([item("f.a", 9.0, detected=True, cap=1.5)], MODEL).log10_lr_manipulated == pytest.approx(1.5)


def test_one_trace_counts_once_and_different_traces_add_up_with_their_weights() -> None:
    result = fuse([item("f.a", 1.0, detected=True), item("f.b", 0.8), item("s.a", 1.0)], MODEL)
    assert result.log10_lr_manipulated == pytest.approx(1.0 + 0.5 * 1.0)
    assert [c.finding_id for c in result.contributions] == ["f.a", "s.a"]
    assert math.fsum(c.log10_lr_manipulated for c in result.contributions) == pytest.approx(result.log10_lr_manipulated)


def test_a_finding_that_the_fit_did_not_know_is_discounted() -> None:
    assert fuse([item("x.new", 2.0, detected=True)], MODEL).log10_lr_manipulated == pytest.approx(1.0)


def test_authentic_needs_enough_traces_and_favourable_ratios() -> None:
    few = [item("f.a", -0.3, -0.3), item("n.a", -0.3, -0.3)]
    assert fuse(few, MODEL).rule == "tests.too_few"
    enough = [*few, item("s.a", -0.2, -0.1)]
    result = fuse(enough, MODEL)
    assert (result.verdict, result.rule) == ("authentic", "trace.none_found")
    traced = [*enough, item("f.c", 0.7, 0.0)]
    assert fuse(traced, MODEL).verdict == "uncertain"


def test_a_trusted_capture_credential_clears_without_other_tests() -> None:
    result = fuse([item("watermark.c", -4.0, -4.0, key="watermark.c2pa.capture_trusted")], MODEL)
    assert (result.verdict, result.rule) == ("authentic", "provenance.capture_intact")


def test_a_declared_ai_image_is_named_by_its_rule() -> None:
    evidence = [item("watermark.c", 0.0, 8.0, detected=True, key="watermark.c2pa.ai_trusted", cap=8.0)]
    result = fuse([*evidence, item("f.a", 1.5, detected=True)], MODEL)
    assert (result.verdict, result.rule) == ("ai_generated", "provenance.ai_declared")


def test_two_equal_accusations_of_different_kind_stay_uncertain() -> None:
    result = fuse([item("f.a", 3.0, 3.0, detected=True)], MODEL)
    assert result.verdict == "uncertain"


def test_the_prior_can_be_replaced_and_changes_the_verdict() -> None:
    evidence = [item("f.a", 1.0, detected=True)]
    sceptical = FusionModel.load(prior=Posterior(0.2, 0.75, 0.05))
    assert sceptical.prior.manipulated == 0.75
    assert (
        fuse(evidence, FusionModel.from_document(DOCUMENT | {"prior": vars(sceptical.prior)})).verdict == "manipulated"
    )
    assert fuse(evidence, MODEL).verdict == "uncertain"


evidence_lists = st.lists(
    st.builds(
        Evidence,
        st.sampled_from(["f.a", "f.b", "s.a", "n.a", "x.y"]),
        st.just("t"),
        st.sampled_from(["tested", "not_applicable", "failed"]),
        st.booleans(),
        st.floats(allow_nan=True, allow_infinity=True),
        st.floats(allow_nan=True, allow_infinity=True),
        st.floats(0, 9),
        st.floats(allow_nan=True, allow_infinity=True),
        st.just(""),
    ),
    max_size=6,
    unique_by=lambda e: e.finding_id,
)


@given(evidence_lists, st.integers())
def test_any_input_gives_probabilities_and_the_order_does_not_matter(evidence: list[Evidence], seed: int) -> None:
    result = fuse(evidence, MODEL)
    parts = (result.posterior.authentic, result.posterior.manipulated, result.posterior.ai_generated)
    assert all(0 <= part <= 1 for part in parts)
    assert math.fsum(parts) == pytest.approx(1)
    random.Random(seed).shuffle(evidence)
    assert fuse(evidence, MODEL) == result


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("prior", "authentic"), 0.9, "adds up"),
        (("prior", "manipulated"), 0.0, "prior.manipulated"),
        (("costs", "accuse_authentic"), -1.0, "costs.accuse_authentic"),
        (("groups", "jpeg", "weight_manipulated"), 2.0, "groups.jpeg.weight_manipulated"),
        (("other_weight",), "much", "other_weight"),
    ],
)
def test_a_bad_file_is_refused_with_the_place_of_the_fault(
    tmp_path: Path, path: tuple[str, ...], value: object, named: str
) -> None:
    document = copy.deepcopy(DOCUMENT)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "fusion.json"
    file.write_text(json.dumps(document))
    with pytest.raises(MaifsError) as error:
        FusionModel.load(file)
    assert error.value.reason is Reason.INVALID_CONFIG
    assert named in str(error.value)


def test_a_bad_prior_is_refused() -> None:
    with pytest.raises(MaifsError) as error:
        FusionModel.load(prior=Posterior(0.9, 0.9, 0.9))
    assert error.value.reason is Reason.INVALID_CONFIG


def test_the_packaged_file_makes_a_false_accusation_dearer_than_uncertainty() -> None:
    model = FusionModel.load()
    assert model.costs.accuse_authentic >= 5
    assert model.id == FusionModel.from_document(json.loads(DEFAULT_FILE.read_text())).id


def rows(repeat: bool) -> list[dict[str, Any]]:
    """Pictures where "b" repeats "a" exactly, or is silent."""
    result = []
    for number in range(80):
        forged = number % 2 == 0
        found = 1.0 if forged and number % 4 == 0 else (1.0 if number % 20 == 1 else -0.3)
        evidence = [vars(item("f.a", found)), vars(item("s.a", found if repeat else 0.0))]
        label = "manipulated" if forged else "authentic"
        result.append({"image": str(number), "label": label, "weight": 1.0, "evidence": evidence})
    return result


def test_a_trace_that_repeats_another_is_discounted() -> None:
    groups = {"f.a": "jpeg", "s.a": "copy"}
    alone = fit_fusion.fit_document(groups, rows(repeat=False))["groups"]
    repeated = fit_fusion.fit_document(groups, rows(repeat=True))["groups"]
    total_alone = alone["jpeg"]["weight_manipulated"]
    total = repeated["jpeg"]["weight_manipulated"] + repeated["copy"]["weight_manipulated"]
    assert total < 1.5
    assert 0 <= total_alone <= 1


def test_the_fit_command_writes_a_file_that_loads(tmp_path: Path) -> None:
    evidence, out = tmp_path / "evidence.json", tmp_path / "fusion.json"
    evidence.write_text(json.dumps({"groups": {"f.a": "jpeg", "s.a": "copy"}, "rows": rows(repeat=True)}))
    assert fit_fusion.main(["--evidence", str(evidence), "--out", str(out)]) == 0
    assert set(FusionModel.load(out).groups) == {"f.a", "s.a"}
    assert fit_fusion.main(["--evidence", str(tmp_path / "none.json"), "--out", str(out)]) != 0


class TestOpinions:
    WEIGHED = FusionModel.from_document(
        DOCUMENT | {"opinions": {"second_look": {"weight": 0.5, "cap": 0.8, "provenance": "a test"}}}
    )
    EVIDENCE = (item("f.a", 1.0, detected=True), item("n.a", -0.2), item("s.a", -0.1))

    @pytest.mark.parametrize("verdict", ["authentic", "manipulated", "ai_generated", "uncertain"])
    def test_without_a_measured_weight_they_change_nothing(self, verdict: Any) -> None:
        opinions = [Opinion("second_look", verdict, 0.99), Opinion("picture_reading", verdict, 0.99)]
        assert fuse(self.EVIDENCE, MODEL, opinions) == fuse(self.EVIDENCE, MODEL)

    def test_the_packaged_weights_are_zero_and_say_that_they_were_not_measured(self) -> None:
        model = FusionModel.load()
        for source in ("second_look", "picture_reading"):
            known = model.opinion(source)
            assert (known.weight, known.provenance) == (0.0, "not measured")

    def test_a_weight_moves_the_ratio_up_to_the_cap(self) -> None:
        before = fuse(self.EVIDENCE, self.WEIGHED)
        after = fuse(self.EVIDENCE, self.WEIGHED, [Opinion("second_look", "manipulated", 0.8)])
        assert after.log10_lr_manipulated - before.log10_lr_manipulated == pytest.approx(0.5 * math.log10(4))
        sure = fuse(self.EVIDENCE, self.WEIGHED, [Opinion("second_look", "manipulated", 1.0)])
        assert sure.log10_lr_manipulated - before.log10_lr_manipulated == pytest.approx(0.5 * 0.8)
        assert {c.finding_id for c in sure.contributions} >= {"opinion.second_look"}
        clears = fuse(self.EVIDENCE, self.WEIGHED, [Opinion("second_look", "authentic", 0.8)])
        assert clears.log10_lr_manipulated < before.log10_lr_manipulated

    def test_they_never_accuse_alone(self) -> None:
        document = DOCUMENT | {
            "prior": {"authentic": 0.02, "manipulated": 0.96, "ai_generated": 0.02},
            "opinions": {"second_look": {"weight": 1.0, "cap": 2.0, "provenance": "a test"}},
        }
        model = FusionModel.from_document(document)
        result = fuse([item("n.a", -0.1)], model, [Opinion("second_look", "manipulated", 1.0)])
        assert (result.verdict, result.rule) == ("uncertain", "evidence.undetected")
