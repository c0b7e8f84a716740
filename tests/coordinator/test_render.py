"""Reports as text, JSON and HTML, above all from hostile strings."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import io
import json
import os
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from coordinator.config import LANGUAGES
from coordinator.render import html as html_module
from coordinator.render.document import FUSED_MAP, heat_maps, report_document, to_json
from coordinator.render.html import IndexEntry, render_index, render_report
from coordinator.render.labels import _LABELS, Labels
from coordinator.render.phrases import limit_of_test, percent, printable, title_of_test, weight_phrases
from coordinator.render.picture import PREVIEW_SIDE_PX, load_preview, overlay
from coordinator.render.schema import ErrorDocument, ReportDocument
from coordinator.render.text import report_text
from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import report_pb2
from serving.errors import MaifsError, Reason
from serving.status import to_status
from tests.conftest import ROOT
from tests.coordinator.cli_server import heat_map, make_report, sentence

EN = Labels("en")
HOSTILE = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'>{{ 7*7 }}\x1b[31m\u202eevil"


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def hostile_report() -> report_pb2.Report:
    """A report in which every text that can come from a file or a model is an attack."""
    report = make_report(b"data", HOSTILE)
    report.image.metadata.clear()
    report.image.metadata[HOSTILE] = HOSTILE
    report.image.format = report.image.mode = HOSTILE
    finding = report.tool_results[0].findings[0]
    finding.details[HOSTILE] = HOSTILE
    finding.heat_map.meaning = finding.score_meaning = HOSTILE
    finding.measurements.add(name=HOSTILE, value=float("nan"), unit=HOSTILE)
    report.tool_results[0].findings[2].reason = HOSTILE
    report.tool_results[0].version = HOSTILE
    report.explanation.summary.append(sentence(HOSTILE, by_model=True))
    report.explanation.tool_readings[0].sentences.append(sentence(HOSTILE, by_model=True))
    report.explanation.uncertainties.append(sentence(HOSTILE))
    report.explanation.model = HOSTILE
    report.explanation.dropped_sentences.add(text=HOSTILE, reason=HOSTILE)
    report.warnings.append(HOSTILE)
    report.timings[0].phase = HOSTILE
    report.request_id = report.service_version = report.fusion.rule = report.fusion.calibration_id = HOSTILE
    return report


def page_of(report: report_pb2.Report, t: Labels = EN) -> str:
    return render_report(report_document(report, report.file_name), None, heat_maps(report), t)


def text_of(document: ReportDocument | ErrorDocument, t: Labels = EN) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(report_text(document, t))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def picture_file(path: Path, width: int, height: int, mode: str = "RGB") -> image_pb2.ImageInfo:
    values = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return info_of(path, width_px=width, height_px=height)


def info_of(path: Path, **facts: int) -> image_pb2.ImageInfo:
    data = path.read_bytes()
    return image_pb2.ImageInfo(sha256=hashlib.sha256(data).digest(), size_bytes=len(data), **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_hostile_strings_add_no_tag_to_a_page(lang: str) -> None:
    t = Labels(lang)
    text = page_of(hostile_report(), t)
    page = Page(text)
    assert (page.count("script"), page.count("style"), page.count("img")) == (1, 1, 0)
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)
    assert "<script>alert(1)" not in text
    assert "{{ 7*7 }}" in page.text, "a template inside a value is not run"
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "alert(1)" in page.text, "hostile text is shown as text"


def test_hostile_strings_add_no_tag_to_an_index() -> None:
    failure: ErrorDocument = {
        "schema_version": "1.0",
        "status": "error",
        "path": HOSTILE,
        "error": {"reason": "NOT_AN_IMAGE", "message": HOSTILE, "advice": ""},
    }
    entries = [
        IndexEntry.of(failure, b"", EN),
        IndexEntry.of(report_document(hostile_report(), HOSTILE, html_file=f"{HOSTILE}.html"), b"jpeg", EN),
    ]
    text = render_index(entries, EN)
    page = Page(text)
    assert (page.count("script"), page.count("style"), page.count("img")) == (1, 1, 1)
    assert "<script>alert(1)" not in text
    links = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 1
    assert re.fullmatch(r"[\w%./~-]+", links[0])


@pytest.mark.parametrize("kind", ["report", "index"])
def test_the_policy_allows_the_pages_own_script_and_style_and_nothing_else(kind: str) -> None:
    text = page_of(make_report(b"d", "a.png")) if kind == "report" else render_index([], EN)
    policy = next(str(a["content"]) for _, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("script", "style"):
        body = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert body is not None
        digest = base64.b64encode(hashlib.sha256(body[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    for _, attributes in Page(page_of(make_report(b"d", "a.png"))).tags:
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("data:image/", "#")), value


def test_a_page_is_accessible() -> None:
    page = Page(page_of(make_report(b"d", "a.png"), Labels("ko")))
    assert next(a for tag, a in page.tags if tag == "html")["lang"] == "ko"
    assert all(a.get("aria-label") or a.get("aria-hidden") for tag, a in page.tags if tag == "svg")
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    toggled = {a["data-toggles"] for _, a in page.tags if "data-toggles" in a}
    assert toggled
    assert toggled <= set(ids)
    headings = [tag for tag, _ in page.tags if tag in {"h1", "h2", "h3"}]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_the_facts_are_in_the_page_without_javascript() -> None:
    report = make_report(b"d", "a.png")
    text = Page(page_of(report)).text
    for fact in (
        "Manipulated",
        "93 %",
        "The grid is shifted by 3 px.",
        "79 × likelier if edited",
        "24 × 16 px at x 16",
    ):
        assert fact in text
    for fact in (
        "Editor 1.0",
        report.image.sha256.hex(),
        "too small",
        "The original would help.",
        "345 ms",
        "7 is not",
    ):
        assert fact in text


def test_a_map_that_proves_nothing_is_not_laid_over_the_picture_unasked() -> None:
    report = make_report(b"d", "a.png")
    assert re.search(r'<g id="layer-1" class="layer" ', page_of(report))
    report.tool_results[0].findings[0].heat_map.significant = False
    assert re.search(r'<g id="layer-1" class="layer off"', page_of(report))


def test_the_fused_map_comes_first() -> None:
    report = make_report(b"d", "a.png")
    report.fused_heat_map.CopyFrom(heat_map())
    assert list(heat_maps(report)) == [FUSED_MAP, "frequency.foreign_grid"]
    page = page_of(report)
    assert re.search(r'<g id="layer-1" class="layer" ', page)
    assert re.search(r'<g id="layer-2" class="layer off"', page)


def test_a_broken_map_is_left_out() -> None:
    assert overlay(finding_pb2.HeatMap(png=b"no png", cell_px=8)) is None
    report = make_report(b"d", "a.png")
    report.tool_results[0].findings[0].heat_map.png = b"no png"
    assert "The grid is shifted" in page_of(report)


def test_an_overlay_covers_the_picture_and_is_clear_where_the_map_is_zero() -> None:
    made = overlay(heat_map())
    assert made is not None
    assert (made.width_px, made.height_px) == (64, 48)
    alpha = np.asarray(Image.open(io.BytesIO(made.png)))[:, :, 3]
    assert alpha[0, 0] == 0
    assert alpha[1, 2] == 255


def test_maps_with_and_without_significance_differ_in_colour() -> None:
    def colour(significant: bool) -> list[int]:
        made = overlay(heat_map(significant))
        assert made is not None
        return [int(v) for v in np.asarray(Image.open(io.BytesIO(made.png)))[1, 2, :3]]

    red, blue = colour(True), colour(False)
    assert red[0] > 200 > red[2]
    assert blue[2] > 150 > blue[0]


def test_a_preview_is_downscaled_and_keeps_the_stored_orientation(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3200, 1000)).save(path, exif=exif)
    info = info_of(path, width_px=3200, height_px=1000)
    preview = load_preview(path, info)
    assert preview is not None
    assert Image.open(io.BytesIO(preview.jpeg)).size == (PREVIEW_SIDE_PX, PREVIEW_SIDE_PX * 1000 // 3200)
    assert not Image.open(io.BytesIO(preview.jpeg)).getexif()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16", "1"])
def test_every_mode_has_a_preview(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        Image.fromarray(np.full((20, 30), 40_000, dtype=np.uint16)).save(tmp_path / "a.png")
        info = info_of(tmp_path / "a.png")
    else:
        info = picture_file(tmp_path / "a.png", 30, 20, mode)
    preview = load_preview(tmp_path / "a.png", info)
    assert preview is not None
    assert Image.open(io.BytesIO(preview.jpeg)).size == (30, 20)


def test_there_is_no_preview_of_a_file_that_is_gone_changed_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    info = picture_file(path, 30, 20)
    path.write_bytes(path.read_bytes() + b"x")
    assert load_preview(path, info) is None
    broken = b"\x89PNG\r\n\x1a\nbroken"
    path.write_bytes(broken)
    assert load_preview(path, info_of(path)) is None
    path.unlink()
    assert load_preview(path, info) is None


def test_a_page_without_preview_still_shows_regions_and_says_why() -> None:
    text = page_of(make_report(b"d", "a.png"))
    assert 'id="picture" class="ground"' in text
    assert "could not be read again" in text


def test_text_takes_no_orders_from_hostile_strings() -> None:
    text = text_of(report_document(hostile_report(), HOSTILE))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[31m" in text, "markup-like text stays text"


def test_uncertain_has_no_percentage_in_its_headline() -> None:
    report = make_report(b"d", "a.png")
    report.verdict = finding_pb2.VERDICT_UNCERTAIN
    report.probability = 0.7
    report.posterior.authentic, report.posterior.manipulated, report.posterior.ai_generated = 0.7, 0.28, 0.02
    document = report_document(report, "a.png")
    headline = text_of(document).splitlines()[1]
    assert headline.startswith("UNCERTAIN")
    assert "%" not in headline
    assert "“Authentic” with 70 %" in text_of(document)
    assert IndexEntry.of(document, b"", EN).probability is None


def test_a_prior_that_nothing_moved_is_not_shown_as_a_result() -> None:
    report = make_report(b"d", "a.png")
    report.verdict = finding_pb2.VERDICT_UNCERTAIN
    report.posterior.CopyFrom(report.fusion.prior)
    document = report_document(report, "a.png")
    for text in (text_of(document), Page(page_of(report)).text):
        assert "The tests moved nothing" in text
        assert "likeliest of the three" not in " ".join(text.split())


def test_a_report_without_the_models_text_says_so() -> None:
    report = make_report(b"d", "a.png")
    report.explanation_error.CopyFrom(to_status(MaifsError(Reason.DEADLINE_EXCEEDED, "It took too long.")))
    assert "It took too long." in text_of(report_document(report, "a.png"))
    assert "It took too long." in page_of(report)


def test_an_unknown_tool_and_verdict_of_a_newer_service_are_survived() -> None:
    report = make_report(b"d", "a.png")
    report.tool_results[0].tool = 9  # type: ignore[assignment]
    report.verdict = 9  # type: ignore[assignment]
    document = report_document(report, "a.png")
    assert document["verdict"] == "uncertain"
    assert document["tools"][0]["tool"] == "tool_9"
    text_of(document)
    page_of(report)


def test_json_stays_on_one_line_and_holds_no_control_character() -> None:
    line = to_json(report_document(hostile_report(), HOSTILE + "\u2028\x9b한국어"))
    assert line.isprintable()
    assert "한국어" in line
    document = json.loads(line)
    assert document["path"] == HOSTILE + "\u2028\x9b한국어"
    assert document["tools"][0]["findings"][0]["measurements"][1]["value"] is None


def test_every_label_has_both_languages_with_the_same_placeholders() -> None:
    for key, texts in _LABELS.items():
        english, korean = (set(re.findall(r"{(\w+)}", text)) for text in texts)
        assert all(texts), key
        assert korean <= english, key


def test_every_label_that_a_template_names_exists() -> None:
    templates = Path(html_module.__file__).with_name("templates").glob("*.html.j2")
    named = {key for path in templates for key in re.findall(r"""\bt\("([a-z_.]+)"[,)]""", path.read_text("utf-8"))}
    assert len(named) > 30
    assert named <= set(_LABELS)


def test_numbers_in_words() -> None:
    assert [percent(p) for p in (0.0, 0.5, 0.999, 1.0)] == ["< 1 %", "50 %", "> 99 %", "> 99 %"]
    assert title_of_test("frequency.double_jpeg", EN) == "Double JPEG compression"
    nothing = {"log10_lr": 0.01, "cap": 1.0}
    assert weight_phrases(nothing, nothing, EN) == ["says nothing either way"]  # type: ignore[arg-type]
    uncalibrated = {"log10_lr": 0.0, "cap": 0.0}
    assert weight_phrases(uncalibrated, uncalibrated, EN) == ["not calibrated; does not count"]  # type: ignore[arg-type]
    strong = {"log10_lr": 2.0, "cap": 2.0}
    against = {"log10_lr": -0.5, "cap": 2.0}
    found = weight_phrases(strong, against, EN)  # type: ignore[arg-type]
    assert found == ["100 × likelier if edited", "3.2 × likelier if not AI-made"]
    assert printable("a\nb\x1b\u202ec") == "a b\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}c"


def test_every_test_that_the_catalogue_knows_has_its_limits_in_both_languages() -> None:
    catalogue = tomllib.loads((ROOT / "coordinator/explanation/messages_en.toml").read_text("utf-8"))
    for lang in LANGUAGES:
        missing = [test_id for test_id in catalogue["titles"] if not limit_of_test(test_id, Labels(lang))]
        assert missing == [], "add them to coordinator/render/limits.toml"


def test_what_moved_the_result_leaves_out_what_did_not() -> None:
    report = make_report(b"d", "a.png")
    report.fusion.contributions.add(finding_id="frequency.double_jpeg", log10_lr_manipulated=0.01)
    page = page_of(report)
    assert 'href="#test-frequency.foreign_grid"' in page
    assert 'href="#test-frequency.double_jpeg"' not in page
    assert 'id="test-frequency.foreign_grid"' in page


def test_an_index_counts_the_traces_found() -> None:
    entry = IndexEntry.of(report_document(make_report(b"d", "a.png"), "a.png"), b"", EN)
    text = " ".join(Page(render_index([entry, entry], EN)).text.split())
    assert re.search(r"In how many pictures a trace was found Foreign JPEG grid ?2", text)


def test_a_preview_is_not_read_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert load_preview(tmp_path / "a.png", image_pb2.ImageInfo(size_bytes=5)) is None


def test_a_weight_without_a_detection_is_called_a_tendency() -> None:
    report = make_report(b"d", "a.png")
    quiet = report.tool_results[0].findings[1]
    quiet.manipulated.log10_lr, quiet.manipulated.cap = 0.9, 1.0
    document = report_document(report, "a.png")
    for text in (text_of(document), Page(page_of(report)).text):
        assert " ".join(text.split()).count("a tendency below the test's own threshold") == 1
