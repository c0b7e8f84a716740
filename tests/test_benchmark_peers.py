"""The comparison with other tools: choice of pictures, ranks of maps, either sign, ratios, and a peer that fails."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.camera import photo, to_jpeg
from benchmarks.peer_figures import Cell, Figures, Localisation, false_alarm_table, pair_table
from benchmarks.peer_methods import DECIDING, PEERS, SINGLE_TESTS, WHOLE, Peer, best_map, to_heat_map
from benchmarks.peers import Picture, available, chosen, measure, our_cell, peer_cell
from vision_service.domain import HeatMap
from vision_service.labelled import read_manifest
from vision_service.tools import TOOLS

TESTS = {test.id: test for tool in TOOLS for test in tool.tests}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two masked forgeries of two sizes, one without a mask, one PNG, one authentic picture."""
    mask = np.zeros((96, 128), np.uint8)
    mask[24:72, 32:96] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    data = to_jpeg(photo(96, 128, seed=1), 90)
    for name in ("small.jpg", "unmasked.jpg", "authentic.jpg"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "large.jpg").write_bytes(to_jpeg(photo(192, 256, seed=2), 90))
    Image.fromarray(photo(96, 128, seed=1)).save(tmp_path / "lossless.png")
    rows = [("large.jpg", "manipulated", "mask.png"), ("small.jpg", "manipulated", "mask.png")]
    rows += [("unmasked.jpg", "manipulated", ""), ("lossless.png", "manipulated", "mask.png")]
    rows += [("authentic.jpg", "authentic", "")]
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "mask"), *rows])
    return tmp_path


def _pictures(folder: Path, up_to_mp: float, label: str = "manipulated") -> list[Picture]:
    return chosen(read_manifest(folder), up_to_mp, label=label)


def test_pictures_are_chosen_by_format_mask_and_size_alone(folder: Path) -> None:
    assert [p.item.path.name for p in _pictures(folder, 1.0)] == ["small.jpg", "large.jpg"]
    assert [p.item.path.name for p in _pictures(folder, 0.02)] == ["small.jpg"]
    assert [p.item.path.name for p in _pictures(folder, 1.0, "authentic")] == ["authentic.jpg"]
    assert _pictures(folder, 0) == []


def test_the_named_tests_exist() -> None:
    named = {*SINGLE_TESTS, *DECIDING, *(test_id for peer in PEERS for test_id in peer.ours)}
    assert {test_id for test_id in named if not test_id.startswith("baseline.")} <= set(TESTS)


def test_a_map_of_any_scale_becomes_ranks_and_loses_no_threshold() -> None:
    values = np.ones((12, 16))
    values[3:9, 4:12] = 1e-9  # edited, dark, and invisible on a linear scale beside the next line
    values[0, 0] = 1e12
    values[0, 1] = np.nan
    mask = np.zeros((96, 128), bool)
    mask[24:72, 32:96] = True
    blocks = to_heat_map(values, Peer("b", "B", "b", ()), 96, 128)
    whole = to_heat_map(values, Peer("w", "W", "w", (), cell_px=WHOLE), 96, 128)
    assert (blocks.cell_px, whole.cell_px, whole.values.shape) == (8, 1, (96, 128))
    for heat_map in (blocks, whole):
        found = Localisation.of(heat_map, mask)
        assert (found.auc, found.auc_either, found.f1_either) == (0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="shape"):
        to_heat_map(np.float64(3.0), Peer("s", "S", "s", ()), 96, 128)


def test_of_several_maps_the_one_that_suits_the_mask_in_either_sign_counts() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    flat = HeatMap(np.zeros((8, 8), np.uint8), 1, "")
    dark = HeatMap(np.where(mask, 0, 200).astype(np.uint8), 1, "")
    assert best_map([flat, dark, flat], mask) is dark
    assert best_map([], mask) is None


def test_ratios_are_over_the_pictures_of_both_and_figures_over_the_maps_of_both() -> None:
    good, poor = Localisation(0.9, 0.9, 0.8), Localisation(0.5, 0.5, 0.2)
    figures: Figures = {
        "ours": {"a": Cell(1.0, 0.1, good), "b": Cell(1.0, 0.3, None, "none"), "c": Cell(1.0, 9.0, poor)},
        "pyIFD P": {"a": Cell(1.0, 1.0, poor), "b": Cell(1.0, 1.0, good)},
    }
    peers = [Peer("P", "P", "p", ("ours",)), Peer("Q", "Q", "q", ("ours",))]
    lines = pair_table(figures, peers).splitlines()
    assert lines[2:] == ["| P | ours | 2 | 1000 | 200 | 5.0 | 1 | 0.500 | 0.900 | 0.200 | 0.800 |"]


def test_false_alarms_are_of_the_pictures_on_which_a_test_ran() -> None:
    text = false_alarm_table({"t": (40, 1)}, {"t": (12, 5)})
    assert "| t | 1/40 = 2.5 %" in text
    assert "| 5/12 |" in text


def test_our_tests_are_measured_without_any_peer(folder: Path) -> None:
    pictures = _pictures(folder, 0.02)
    cell = our_cell(TESTS["frequency.ela"], pictures[0])
    assert cell.localisation is not None
    assert cell.seconds > 0
    figures = measure(pictures, slow_mp=1.0, peers=(), budget_s=600)
    assert set(SINGLE_TESTS) <= set(figures)
    assert all(set(cells) == {"small.jpg"} for cells in figures.values())


def test_a_peer_that_fails_or_is_absent_says_why(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert available(None)[0] == ()
    peers, why_not = available(tmp_path)
    if not peers:
        assert "cannot be imported" in why_not
    cell = peer_cell(Peer("none", "no_such_module", "f", ()), _pictures(folder, 0.02)[0])
    assert cell.localisation is None
    assert "Error" in cell.reason
