"""Reports in a headless Chromium: what is seen, by whom it can be read, and that nothing in them acts."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import example_pictures
from coordinator.render.document import heat_maps, report_document
from coordinator.render.html import IndexEntry, render_index, render_report
from coordinator.render.labels import Labels
from coordinator.render.picture import load_preview
from maifs.coordinator.v1 import report_pb2
from tests.coordinator.cli_server import make_report
from tests.coordinator.pictures import png
from tests.coordinator.test_render import HOSTILE, hostile_report
from tests.system.browser import Tab, chromium
from tests.system.test_browser import SHOTS

CONTRASTS = """(() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *:not(svg *, script, style)")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    if (!element.getClientRects().length) continue;
    const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, `${element.tagName} ${element.className} ${element.textContent.slice(0, 30)}`]);
  }
  return found;
})()"""
"""Contrast ratio of every visible text by WCAG 2.2, with a name."""


@pytest.fixture(name="tab")
async def _tab() -> AsyncIterator[Tab]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    async with chromium() as tab:
        yield tab
        await tab.close()


def page_of(report: report_pb2.Report, data: bytes, folder: Path, name: str = "a.png") -> str:
    """The report as a file; its address."""
    path = folder / "report.html"
    document = report_document(report, name)
    page = render_report(document, load_preview(data, report.image), heat_maps(report), Labels("en"))
    path.write_bytes(page.encode("utf-8", errors="replace"))
    return path.as_uri()


def spliced_report(data: bytes, place: tuple[int, int, int, int]) -> report_pb2.Report:
    """A report that marks a place of the picture, as the services make it."""
    report = make_report(data, "spliced.jpg")
    report.image.width_px, report.image.height_px = example_pictures.WIDTH, example_pictures.HEIGHT
    finding = report.tool_results[0].findings[0]
    x, y, width, height = place
    finding.regions[0].x_px, finding.regions[0].y_px = x, y
    finding.regions[0].width_px, finding.regions[0].height_px = width, height
    cells = np.zeros((example_pictures.HEIGHT // 8, example_pictures.WIDTH // 8), np.uint8)
    cells[y // 8 : (y + height) // 8, x // 8 : (x + width) // 8] = 255
    buffer = io.BytesIO()
    Image.fromarray(cells).save(buffer, "PNG")
    finding.heat_map.png = buffer.getvalue()
    return report


async def picture_on_screen(tab: Tab, selector: str) -> np.ndarray:
    """Pixels of an element as they are shown, RGB."""
    await tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = await tab.evaluate(
        f"(() => {{ const r = document.querySelector('{selector}').getBoundingClientRect();"
        "return [r.x + scrollX, r.y + scrollY, r.width, r.height]; })()"
    )
    await tab.screenshot(SHOTS / "part.png", whole_page=True)
    image = Image.open(SHOTS / "part.png").convert("RGB")
    x, y, width, height = box
    return np.asarray(image.crop((int(x), int(y), int(x + width), int(y + height))), dtype=np.float64)


def colours(shown: np.ndarray, place: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour inside the place's middle, and left of it."""
    scale = shown.shape[1] / example_pictures.WIDTH
    x, y, width, height = (round(v * scale) for v in place)
    inside = shown[y + height // 3 : y + 2 * height // 3, x + width // 3 : x + 2 * width // 3]
    outside = shown[y + height // 3 : y + 2 * height // 3, x - width // 3 : x - width // 6]
    return inside.mean(axis=(0, 1)), outside.mean(axis=(0, 1))


async def test_the_edited_region_is_seen_at_its_place_and_the_original_beside_it(tab: Tab, tmp_path: Path) -> None:
    data, place = example_pictures.spliced()
    await tab.open(page_of(spliced_report(data, place), data, tmp_path))
    await tab.screenshot(SHOTS / "report.png")
    inside, outside = colours(await picture_on_screen(tab, ".stage svg"), place)
    assert inside[0] > inside[1] + 60, "red over the edited region"
    assert abs(outside[0] - outside[1]) < 60, "and not beside it"
    await tab.evaluate("document.querySelector('#opacity').focus()")
    for _ in range(70):
        await tab.press("ArrowLeft", 37)
    faint, _ = colours(await picture_on_screen(tab, ".stage svg"), place)
    assert faint[0] < faint[1] + 30, "the slider takes the overlay away"
    assert await tab.evaluate("getComputedStyle(document.querySelector('#beside')).display") == "none"
    await tab.click("[data-toggles=beside]")
    boxes = await tab.evaluate(
        "[...document.querySelectorAll('.stage svg')].map((e) => e.getBoundingClientRect().width)"
    )
    assert len(boxes) == 2
    assert boxes[0] == pytest.approx(boxes[1])
    assert boxes[1] > 400


async def test_hostile_text_of_file_and_model_does_nothing(tab: Tab, tmp_path: Path) -> None:
    url = page_of(hostile_report(), b"data", tmp_path, HOSTILE)
    await tab.open(url)
    assert "alert(1)" in await tab.text("header"), "it is shown as text"
    assert tab.dialogs == []
    assert tab.requests == [url]
    assert tab.errors == [], "nothing even tried what the policy would refuse"
    entries = [IndexEntry.of(report_document(hostile_report(), HOSTILE, html_file="a.html"), png(), Labels("en"))]
    index = tmp_path / "index.html"
    index.write_bytes(render_index(entries * 2, Labels("en")).encode("utf-8", errors="replace"))
    await tab.open(index.as_uri())
    assert tab.dialogs == []
    assert tab.requests == [url, index.as_uri()]


async def test_a_script_that_got_into_a_page_would_not_run(tab: Tab, tmp_path: Path) -> None:
    url = page_of(make_report(png(), "a.png"), png(), tmp_path)
    path = tmp_path / "report.html"
    injected = "<script>alert(1)</script><img src='http://127.0.0.1:9/x' onerror='alert(2)'><body onload='alert(3)'>"
    path.write_text(path.read_text("utf-8").replace("<main>", injected + "<main>"), "utf-8")
    await tab.open(url)
    assert tab.dialogs == []
    assert any("Content Security Policy" in error for error in tab.errors)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_has_contrast(tab: Tab, tmp_path: Path, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    await tab.call("Emulation.setEmulatedMedia", features=features)
    entries = []
    for verdict in (1, 2, 3, 4):
        report = make_report(png(), "a.png")
        report.verdict = verdict  # type: ignore[assignment]
        url = page_of(report, png(), tmp_path)
        await tab.open(url)
        contrasts = await tab.evaluate(CONTRASTS)
        assert len(contrasts) > 60
        assert [name for ratio, name in contrasts if ratio < 4.5] == []
        entries.append(IndexEntry.of(report_document(report, "a.png"), png(), Labels("en")))
    (tmp_path / "index.html").write_text(render_index(entries, Labels("en")), "utf-8")
    await tab.open((tmp_path / "index.html").as_uri())
    assert [name for ratio, name in await tab.evaluate(CONTRASTS) if ratio < 4.5] == []


async def test_the_facts_are_there_without_javascript(tab: Tab, tmp_path: Path) -> None:
    report = make_report(png(), "a.png")
    await tab.call("Emulation.setScriptExecutionDisabled", value=True)
    await tab.open(page_of(report, png(), tmp_path))
    text = await tab.text()
    for fact in ("Manipulated 93 %", "The grid is shifted by 3 px.", "Limits: Blind after", report.image.sha256.hex()):
        assert fact in text
    assert "Opacity" not in text, "what needs a script is not offered"


async def test_an_index_is_sorted_filtered_and_searched_with_the_keyboard(tab: Tab, tmp_path: Path) -> None:
    entries = []
    for name, verdict in (("b.png", 2), ("a.png", 1), ("c.png", 2)):
        report = make_report(png(), name)
        report.verdict = verdict  # type: ignore[assignment]
        entries.append(IndexEntry.of(report_document(report, name, html_file=f"{name}.html"), png(), Labels("en")))
    (tmp_path / "index.html").write_text(render_index(entries, Labels("en")), "utf-8")
    await tab.open((tmp_path / "index.html").as_uri())
    names = "[...document.querySelectorAll('tbody tr')].filter((r) => !r.hidden && r.matches('.index *'))" + (
        ".map((r) => r.cells[1].innerText)"
    )
    await tab.evaluate("document.querySelector('th[data-sort] button').focus()")
    await tab.press("Enter", 13)
    assert await tab.evaluate(names) == ["a.png", "b.png", "c.png"]
    await tab.press("Enter", 13)
    assert await tab.evaluate(names) == ["c.png", "b.png", "a.png"]
    await tab.click("input[value=manipulated]")
    assert await tab.evaluate(names) == ["c.png", "b.png"]
    await tab.evaluate("document.querySelector('#search').focus()")
    await tab.call("Input.insertText", text="B.P")
    assert await tab.evaluate(names) == ["b.png"]
    assert "1 of 3 shown" in await tab.text("#shown")
