"""Weights of evidence: from files, from fits, within their limits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import MaifsError, Reason
from vision_service import fitting
from vision_service.calibration import (
    DEFAULT_FILE,
    NOTHING_FOUND_FLOOR,
    UNDETECTED_CEILING,
    Calibration,
    Curve,
    combine_correlated,
)
from vision_service.domain import Observation, Outcome, Weight, not_applicable
from vision_service.labelled import Record

DOCUMENT: dict[str, Any] = {
    "version": "9.1",
    "tests": {
        "noise.a": {
            "manipulated": {
                "*": {"slope": 1.0, "intercept": -0.5, "cap": 1.5},
                "jpeg-low": {"slope": 0.1, "intercept": -0.1, "cap": 1.0},
            }
        }
    },
    "policy": {"watermark.x.ai": {"manipulated": -0.5, "ai_generated": 4.0}},
    "groups": {"noise.a": "sensor"},
}


def seen(score: float, key: str = "noise.a.detected") -> Observation:
    return Observation(Outcome.TESTED, score=score, explanation_key=key)


def test_the_packaged_file_loads_and_names_its_content() -> None:
    calibration = Calibration.load()
    assert calibration.id.startswith("0.1+sha256:")
    assert len(calibration.id) == len("0.1+sha256:") + 8
    document = json.loads(DEFAULT_FILE.read_text())
    assert Calibration.from_document(document).id == calibration.id
    document["made_from"] = {"changed": True}
    assert Calibration.from_document(document).id != calibration.id


def test_every_packaged_curve_keeps_silence_weak_and_within_its_cap() -> None:
    for test_id, entry in Calibration.load().tests.items():
        for curve in (*entry.manipulated.values(), *entry.ai_generated.values()):
            assert curve.cap <= math.log10(min(curve.n_target, curve.n_authentic) + 1) + 1e-4, test_id
            assert NOTHING_FOUND_FLOOR <= curve.weight(0.0, detected=False).log10_lr <= 0.35, test_id
            assert curve.weight(1e12, detected=True).log10_lr <= curve.cap, test_id


def test_a_test_that_did_not_run_weighs_nothing() -> None:
    calibration = Calibration.from_document(DOCUMENT)
    failed = Observation(Outcome.FAILED, reason="ValueError", score=9.0, explanation_key="watermark.x.ai")
    for observation in (not_applicable("too_small", "x"), failed):
        assert calibration.weights("noise.a", observation, "small") == (Weight(), Weight())


def test_an_unknown_test_weighs_nothing() -> None:
    assert Calibration.from_document(DOCUMENT).weights("noise.new", seen(99.0), "small") == (Weight(), Weight())


def test_a_stratum_with_a_curve_uses_it_and_others_the_pooled_one() -> None:
    calibration = Calibration.from_document(DOCUMENT)
    pooled = calibration.weights("noise.a", seen(2.0), "lossless")[0].log10_lr
    low = calibration.weights("noise.a", seen(2.0), "jpeg-low")[0].log10_lr
    assert pooled == pytest.approx(1.5 / math.log(10))
    assert low == pytest.approx(0.1 / math.log(10))


def test_policy_goes_before_curves() -> None:
    manipulated, ai_generated = Calibration.from_document(DOCUMENT).weights(
        "noise.a", seen(2.0, "watermark.x.ai"), "small"
    )
    assert (manipulated.log10_lr, ai_generated.log10_lr) == (-0.5, 4.0)


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 1e6), st.floats(-50, 50), st.floats(0, 3))
def test_a_weight_is_finite_and_limited_for_any_score(score: float, slope: float, intercept: float, cap: float) -> None:
    weight = Curve(slope, intercept, cap).weight(score, detected=True)
    assert max(-cap, NOTHING_FOUND_FLOOR) <= weight.log10_lr <= cap or weight == Weight()


@pytest.mark.parametrize("score", [0.99, 3.0, 1e6])
def test_what_a_detecting_test_does_not_detect_stays_weak(score: float) -> None:
    detects = Curve(3.0, -0.7, cap=2.0, detection_log10_lr=1.9)
    never_detects = Curve(3.0, -0.7, cap=2.0)
    assert detects.weight(score, detected=False).log10_lr == UNDETECTED_CEILING
    assert detects.weight(score, detected=True).log10_lr >= 1.9
    assert never_detects.weight(score, detected=False).log10_lr > UNDETECTED_CEILING


@given(st.lists(st.floats(-1, 2), min_size=1, max_size=6), st.integers(0, 5), st.floats(0, 1))
def test_combining_is_monotone_and_never_exceeds_the_strongest(values: list[float], which: int, more: float) -> None:
    before = combine_correlated([Weight(v, 2.0) for v in values]).log10_lr
    raised = [v + more if i == which % len(values) else v for i, v in enumerate(values)]
    assert combine_correlated([Weight(v, 4.0) for v in raised]).log10_lr >= before - 1e-12
    assert before <= max(values) + 1e-12


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"tests": {"noise.a": {"manipulated": {"*": {"slope": -1, "intercept": 0, "cap": 1}}}}},
            "noise.a.manipulated.*.slope",
        ),
        ({"tests": {"noise.a": {"manipulated": {"*": {"slope": 1, "cap": 1}}}}}, "noise.a.manipulated.*.intercept"),
        ({"policy": {"k": {"manipulated": "high", "ai_generated": 0}}}, "policy.k.manipulated"),
        ({"policy": {"k": {"manipulated": math.nan, "ai_generated": 0}}}, "policy.k.manipulated"),
        ({"tests": []}, "items"),
    ],
)
def test_a_bad_file_is_refused_with_the_place_of_the_fault(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(DOCUMENT | change))
    with pytest.raises(MaifsError) as error:
        Calibration.load(file)
    assert error.value.reason is Reason.INVALID_CONFIG
    assert named in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}"])
def test_a_missing_or_broken_file_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "calibration.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(MaifsError) as error:
        Calibration.load(file)
    assert error.value.reason is Reason.INVALID_CONFIG


def make_records(rng: np.random.Generator, shift: float, test: str = "noise.a") -> list[Record]:
    """Six sources of 20 pictures, half of them manipulated with a score higher by `shift`."""
    records = []
    for number in range(120):
        source, forged = number % 6, (number // 6) % 2 == 1
        score = float(rng.normal(shift if forged else 0.0))
        label = "manipulated" if forged else "authentic"
        entry = {"outcome": "tested", "score": score, "detected": False, "reason": "", "explanation_key": f"{test}.x"}
        records.append(Record(f"{number}.jpg", label, f"s{source}", "native", "small", 1.0, {test: entry}))
    return records


def test_the_logistic_recovers_gaussian_likelihood_ratios() -> None:
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(1.5, 1, 4000), rng.normal(0, 1, 4000)])
    n = np.arange(8000)
    samples = fitting.Samples(
        scores=scores,
        detected=scores > 3,
        targets=n < 4000,
        weights=np.ones(8000),
        images=n.astype(str),
        sources=np.full(8000, "s"),
        strata=np.full(8000, "small"),
        records=n,
        wild=np.ones(8000, bool),
    )
    curve = fitting.fit_curve(samples)
    assert curve is not None
    assert curve.slope == pytest.approx(1.5, abs=0.1)  # ln LR = 1.5 x - 1.125 for unit variances
    assert curve.intercept == pytest.approx(-1.125, abs=0.1)
    assert curve.cap == pytest.approx(math.log10(4001), abs=1e-3)


def test_a_detection_weighs_the_ratio_of_its_rates_and_few_images_make_it_small() -> None:
    def curve(n: int) -> Curve:
        number = np.arange(2 * n)
        target = number < n
        detected = (number % 4 == 0) & target
        names = number.astype(str)
        ones, same = np.ones(2 * n), np.full(2 * n, "s")
        samples = fitting.Samples(ones, detected, target, ones, names, same, same, number, np.ones(2 * n, bool))
        fitted = fitting.fit_curve(samples, "detected")
        assert fitted is not None
        return fitted

    large, small = (curve(n).weight(1.0, detected=True).log10_lr for n in (400, 12))
    assert large == pytest.approx(math.log10(100.5 / 0.5), abs=1e-3)
    assert small == pytest.approx(math.log10(3.5 / 0.5), abs=1e-3)
    assert curve(400).weight(1.0, detected=False).log10_lr == pytest.approx(math.log10(0.75 / 1), abs=0.01)


def test_a_useful_test_gets_a_curve_and_out_of_fold_weights() -> None:
    document, fits = fitting.fit_all(make_records(np.random.default_rng(2), 2.5))
    curve = document["tests"]["noise.a"]["manipulated"]["*"]
    assert curve["slope"] > 0
    fit = fits["noise.a"]["manipulated"]
    assert fit.cllr < 0.8
    assert len(fit.log10_lr) == 120


def test_the_silence_of_the_learned_map_weighs_nothing_and_that_of_other_tests_little() -> None:
    for test, least in (("spatial.fingerprint", 0.0), ("noise.a", NOTHING_FOUND_FLOOR)):
        document, _ = fitting.fit_all(make_records(np.random.default_rng(2), 2.5, test))
        curve = Calibration.from_document(document).tests[test].manipulated["*"]
        assert curve.weight(-9.0, detected=False).log10_lr == least
        assert curve.weight(3.0, detected=False).log10_lr > 0


@pytest.mark.parametrize("shift", [0.0, -2.5])
def test_a_useless_or_reversed_test_gets_no_weight(shift: float) -> None:
    document, _ = fitting.fit_all(make_records(np.random.default_rng(3), shift))
    assert document["tests"]["noise.a"] == {}


def test_a_test_of_ai_traces_only_is_fitted_for_ai() -> None:
    assert fitting.hypotheses_of("noise.a") == ("manipulated",)


def test_copies_of_a_picture_share_its_weight_and_large_sources_do_not_rule() -> None:
    def record(name: str, source: str, rung: str) -> Record:
        return Record(name, "authentic", source, rung, "small", 1.0)

    records = [record("a", "one", "native"), record("a", "one", "laundered")]
    records += [record(f"b{i}", "many", "native") for i in range(100)]
    weights = fitting.record_weights(records)
    assert weights[:2].sum() == pytest.approx(1.0)
    assert weights[2:].sum() == pytest.approx(10.0)
