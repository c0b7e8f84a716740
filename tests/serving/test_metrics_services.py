"""Counts of real services against what was sent to them."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from coordinator.client import Client, Options
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from maifs.vision.v1 import vision_pb2, vision_pb2_grpc
from serving.errors import MaifsError
from tests.scraping import Scrape, wait_value
from tests.serving.observed import Observed, observed, picture

PICTURES = 3


@pytest.fixture(name="scrapes", scope="module")
def _scrapes() -> Iterator[tuple[Scrape, Scrape]]:
    """Three pictures, one of them twice, and one file that is none; two of the pictures with a language model."""
    with observed() as where:
        _send(where)
        wait_value(where.metrics("coordinator"), 1, "maifs_coordinator_items_failed_total")
        wait_value(where.metrics("vision"), 1, "maifs_vision_items_failed_total")
        wait_value(where.metrics("vision"), 0, "maifs_vision_workers_busy")
        yield where.scrape("coordinator"), where.scrape("vision")


def _send(where: Observed) -> None:
    with Client(where.coordinator.address) as client:
        for seed in range(PICTURES):
            client.analyze(picture(seed), name="a-name-that-is-no-label.jpg", options=Options(use_llm=seed != 0))
        client.analyze(picture(1), name="again.jpg", options=Options())
        with pytest.raises(MaifsError):
            client.analyze(b"This is no picture.", name="notes.txt")
    with grpc.insecure_channel(where.coordinator.address) as channel:
        coordinator_pb2_grpc.CoordinatorServiceStub(channel).GetStatus(coordinator_pb2.GetStatusRequest())
    with grpc.insecure_channel(where.vision.address) as channel, pytest.raises(grpc.RpcError):
        vision_pb2_grpc.VisionServiceStub(channel).Analyze(vision_pb2.AnalyzeRequest())


def test_the_coordinator_counts_items_reports_and_failures(scrapes: tuple[Scrape, Scrape]) -> None:
    shown, _ = scrapes
    assert shown.value("maifs_coordinator_items_accepted_total") == PICTURES + 2
    assert shown.value("maifs_coordinator_reports_total") == PICTURES + 1
    assert shown.value("maifs_coordinator_reports_total", cached="true") == 1
    failed = shown.samples("maifs_coordinator_items_failed_total")
    assert failed == [({"reason": "NOT_AN_IMAGE"}, 1)]
    assert shown.value("maifs_requests_total", method="GetStatus", code="OK") >= 1
    assert shown.value("maifs_coordinator_cache_lookups_total", result="hit") == 1
    assert shown.value("maifs_coordinator_cache_lookups_total", result="miss") == PICTURES + 1


def test_the_coordinator_times_the_phases_of_what_it_made(scrapes: tuple[Scrape, Scrape]) -> None:
    shown, _ = scrapes
    name = "maifs_coordinator_phase_duration_seconds"
    for phase in ("queue", "decode", "frequency", "noise", "watermark", "spatial", "fusion", "explanation", "total"):
        assert shown.value(f"{name}_count", phase=phase) == PICTURES, phase
    parts = shown.value(f"{name}_sum", phase="decode") + shown.value(f"{name}_sum", phase="fusion")
    assert 0 < parts < shown.value(f"{name}_sum", phase="total")
    assert shown.value("maifs_coordinator_picture_size_bytes_count") == PICTURES + 1
    sizes = sum(len(picture(seed)) for seed in (0, 1, 1, 2))
    assert shown.value("maifs_coordinator_picture_size_bytes_sum") == sizes


def test_explanations_are_counted_by_author(scrapes: tuple[Scrape, Scrape]) -> None:
    shown, _ = scrapes
    assert shown.value("maifs_coordinator_explanations_total", author="rules") == 1
    assert shown.value("maifs_coordinator_explanations_total", author="model") == PICTURES - 1
    assert shown.value("maifs_coordinator_explanation_failures_total") == 0


def test_the_coordinator_shows_its_state(scrapes: tuple[Scrape, Scrape]) -> None:
    shown, _ = scrapes
    assert {labels["backend"]: value for labels, value in shown.samples("maifs_coordinator_backend_serving")} == {
        "vision": 1, "llm": 1,
    }  # fmt: skip
    assert shown.value("maifs_coordinator_held_bytes") == 0
    assert shown.value("maifs_coordinator_held_limit_bytes") == 512 * 2**20
    assert shown.value("maifs_coordinator_cache_bytes") > 0
    assert shown.value("maifs_coordinator_queue_items") == shown.value("maifs_coordinator_queue_oldest_seconds") == 0
    states = {labels["state"]: value for labels, value in shown.samples("maifs_coordinator_journal_items")}
    assert states == {"queued": 0, "running": 0, "reported": 0, "failed": 0, "cancelled": 0}


def test_the_vision_service_counts_pictures_and_tools(scrapes: tuple[Scrape, Scrape]) -> None:
    _, shown = scrapes
    assert shown.value("maifs_vision_pictures_total") == PICTURES
    assert shown.samples("maifs_vision_items_failed_total") == [({"reason": "NOT_AN_IMAGE"}, 1)]
    assert shown.value("maifs_request_failures_total", method="Analyze", reason="EMPTY_FILE") == 1
    assert shown.value("maifs_requests_total", method="Analyze", code="INVALID_ARGUMENT") == 1
    for tool in ("frequency", "noise", "watermark", "spatial"):
        assert shown.value("maifs_vision_tool_duration_seconds_count", tool=tool) == PICTURES
        assert shown.value("maifs_vision_tool_results_total", tool=tool) == PICTURES
    assert shown.value("maifs_vision_test_failures_total") == 0
    assert shown.value("maifs_vision_picture_pixels_sum") == PICTURES * 128 * 128
    assert shown.value("maifs_vision_phase_duration_seconds_count", phase="decode") == PICTURES


def test_the_vision_service_shows_its_state(scrapes: tuple[Scrape, Scrape]) -> None:
    _, shown = scrapes
    assert shown.value("maifs_vision_workers") == 2
    assert shown.value("maifs_vision_memory_budget_limit_bytes") == 4096 * 2**20
    assert shown.value("maifs_vision_memory_budget_used_bytes") == 0
    assert shown.value("maifs_vision_queue_items") == 0


def test_nothing_that_a_client_sent_becomes_a_label(scrapes: tuple[Scrape, Scrape]) -> None:
    for shown in scrapes:
        for word in ("a-name-that-is-no-label", "again", "notes"):
            assert word not in shown.text
