"""The forensic benchmark: its figures of merit against known values, and one run on a small folder of made pictures."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import forensics
from benchmarks.camera import photo, to_jpeg
from benchmarks.forensics_baselines import SUITE
from benchmarks.forensics_metrics import (
    Rate,
    auc,
    cllr,
    cllr_min,
    clopper_pearson_upper,
    ece,
    isotonic,
    macro_f1,
    tpr_at_fpr,
)
from serving.errors import MaifsError
from vision_service.domain import HeatMap
from vision_service.labelled import pixel_figures, read_manifest
from vision_service.laundering import FORGERIES, RUNGS, decode_rgb
from vision_service.observing import observe_all


def test_rates_against_published_values() -> None:
    low, high = Rate(0, 10).interval
    np.testing.assert_allclose([low, high], [0.0, 0.2775], atol=1e-3)
    np.testing.assert_allclose(Rate(5, 10).interval, [0.2366, 0.7634], atol=1e-3)
    assert clopper_pearson_upper(0, 100) == pytest.approx(0.0295, abs=1e-4)  # 1 - 0.05 ** (1 / 100)


def test_auc_and_tpr() -> None:
    targets, others = np.array([1.0, 2.0, 2.0, 5.0]), np.array([0.0, 2.0, 3.0])
    pairs = [(t > o) + (t == o) / 2 for t in targets for o in others]
    assert auc(targets, others) == pytest.approx(np.mean(pairs))
    assert tpr_at_fpr(targets, others, 0.0) == pytest.approx(0.25)
    assert tpr_at_fpr(targets, others, 0.34) == pytest.approx(0.25)
    assert tpr_at_fpr(np.zeros(5), np.zeros(5), 0.05) == 0.0


def test_cllr_of_silence_is_one_and_its_minimum_is_below_it() -> None:
    rng = np.random.default_rng(0)
    targets, others = rng.normal(1, 1, 300), rng.normal(0, 1, 300)
    assert cllr(np.zeros(3), np.zeros(4)) == pytest.approx(1.0)
    assert cllr_min(targets, others) < cllr(5 * targets, 5 * others)
    assert cllr_min(np.array([1.0, 2.0]), np.array([-1.0, 0.0])) == pytest.approx(0.0, abs=1e-6)


def test_isotonic_pools_violators() -> None:
    np.testing.assert_allclose(isotonic(np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)), [1, 2.5, 2.5, 4])
    np.testing.assert_allclose(isotonic(np.array([4.0, 1.0]), np.array([1.0, 3.0])), [1.75, 1.75])


def test_ece_and_macro_f1() -> None:
    assert ece(np.array([0.9, 0.9]), np.array([True, False])) == pytest.approx(0.4)
    labels = ["authentic", "authentic", "manipulated", "ai_generated"]
    said = ["authentic", "uncertain", "manipulated", "authentic"]
    classes = ("authentic", "manipulated", "ai_generated")
    assert macro_f1(labels, said, classes) == pytest.approx((2 / 4 + 1 + 0) / 3)


def test_pixel_figures_of_a_perfect_and_a_blank_map() -> None:
    mask = np.zeros((32, 40), bool)
    mask[8:24, 8:24] = True
    values = np.zeros((4, 5), np.uint8)
    values[1:3, 1:3] = 255
    perfect = pixel_figures(HeatMap(values, 8, ""), mask)
    assert (perfect.auc, perfect.f1_fixed, perfect.f1_best) == (1.0, 1.0, 1.0)
    blank = pixel_figures(HeatMap(np.zeros((4, 5), np.uint8), 8, ""), mask)
    assert (blank.auc, blank.f1_fixed) == (0.5, 0.0)
    assert blank.f1_best == pytest.approx(2 * mask.mean() / (1 + mask.mean()))


@pytest.fixture(scope="module")
def made_photo() -> bytes:
    return to_jpeg(photo(192, 256, 5), 92)


def test_rungs_are_deterministic_and_keep_the_picture(made_photo: bytes) -> None:
    for name, change in RUNGS.items():
        assert change(made_photo) == change(made_photo), name
        if name not in {"screenshot"}:
            difference = decode_rgb(change(made_photo)).astype(float) - decode_rgb(made_photo)
            assert np.abs(difference).mean() < 8, name
    assert RUNGS["native"](made_photo) == made_photo


def test_laundering_limits_the_size_and_drops_metadata() -> None:
    large = Image.new("RGB", (2000, 600), (90, 60, 30))
    exif = large.getexif()
    exif[271] = "Maker"
    buffer = io.BytesIO()
    large.save(buffer, "JPEG", exif=exif)
    copy = Image.open(io.BytesIO(RUNGS["laundered"](buffer.getvalue())))
    assert copy.size == (1024, 307)
    assert not dict(copy.getexif())


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_a_forgery_changes_a_part_and_leaves_the_rest(made_photo: bytes, name: str) -> None:
    forged = FORGERIES[name](made_photo)
    assert forged == FORGERIES[name](made_photo)
    changed = np.abs(decode_rgb(forged).astype(float) - decode_rgb(made_photo)).max(2) > 40
    assert 0.002 < changed.mean() < 0.4


def test_a_run_on_a_small_folder_writes_table_json_and_uses_its_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "source", "mask"])
        for number, label in enumerate(["authentic", "authentic", "manipulated", "ai_generated"]):
            data = to_jpeg(photo(96, 128, number), 90)
            (folder / f"{number}.jpg").write_bytes(data)
            writer.writerow([f"{number}.jpg", label, f"s{number % 2}", ""])
    assert len(read_manifest(folder)) == 4
    cache = tmp_path / "cache"
    arguments = ["--data", str(folder), "--out", str(tmp_path / "out"), "--cache", str(cache), "--no-plots"]
    assert forensics.main([*arguments, "--processes", "1"]) == 0
    document = json.loads((tmp_path / "out" / "forensics.json").read_text())
    fused = document["rungs"]["laundered"]["fused"]
    assert fused["decided"][1] == 4
    assert "baseline.ela" in document["rungs"]["native"]["tests"]
    assert (tmp_path / "out" / "forensics.md").read_text().startswith("## Fused system")
    capsys.readouterr()
    records = observe_all(read_manifest(folder), ["native"], cache, suites=[SUITE], processes=1)
    assert len(records) == 4
    assert "observed" not in capsys.readouterr().err


def test_unknown_rungs_and_missing_folders_are_refused(tmp_path: Path) -> None:
    assert forensics.main(["--data", str(tmp_path), "--rungs", "nonsense"]) != 0
    assert forensics.main(["--data", str(tmp_path / "absent")]) != 0


@pytest.mark.parametrize("line", ["x.jpg,genuine", ",authentic"])
def test_a_manifest_with_a_fault_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "manifest.csv").write_text(f"file,label\n{line}\n")
    with pytest.raises(MaifsError, match="line 2"):
        read_manifest(tmp_path)
