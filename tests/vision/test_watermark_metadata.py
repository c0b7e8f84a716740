"""Metadata: declarations of generators, editors, camera consistency; and no false alarm from words."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.camera import ByteArray, photo, to_jpeg
from vision_service.domain import Observation, Outcome
from vision_service.substrate import Substrate
from vision_service.tools.watermark import TOOL, metadata_consistency, metadata_software, metadata_source
from vision_service.tools.watermark.jpeg_structure import read_structure
from vision_service.tools.watermark.policy import load_policy
from vision_service.tools.watermark.selected_metadata import LIMIT, selected_metadata
from vision_service.tools.watermark.signatures import load_rules, packaged_rules
from vision_service.tools.watermark.xmp import XmpError, parse_xmp

Decoder = Callable[[bytes], Substrate]
PICTURE = photo(240, 320, 2)
TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def png(text: dict[str, str]) -> bytes:
    info = PngInfo()
    for name, value in text.items():
        info.add_itxt(name, value)
    buffer = io.BytesIO()
    Image.fromarray(PICTURE[:32, :32]).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def jpeg(exif: dict[int, Any] | None = None, xmp: str = "", comment: bytes = b"") -> bytes:
    block = Image.Exif()
    for tag, value in (exif or {}).items():
        (block.get_ifd(0x8769) if tag > 0x9000 else block)[tag] = value
    buffer = io.BytesIO()
    options: dict[str, Any] = {"xmp": packet(xmp)} if xmp else {}
    Image.fromarray(PICTURE[:32, :32]).save(buffer, "JPEG", exif=block, comment=comment, **options)
    return buffer.getvalue()


def packet(description: str) -> bytes:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"'
        ' xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"'
        ' xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"'
        ' xmlns:TC260="http://www.tc260.org.cn/ns/AIGC/1.0/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f'{description}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


A1111 = "a lighthouse\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"
LABEL = '{"Label":"1","ContentProducer":"x","ProduceID":"y","ContentPropagator":"","PropagateID":""}'
GENERATED = {
    "a1111 png": png({"parameters": A1111}),
    "a1111 jpeg": jpeg({0x9286: b"UNICODE\0" + ("a very long prompt, " * 60 + A1111).encode("utf-16-be")}),
    "comfyui prompt": png({"prompt": '{"3": {"inputs": {"seed": 1}, "class_type": "KSampler"}}'}),
    "comfyui workflow": png({"workflow": '{"last_node_id": 9, "nodes": []}'}),
    "invokeai": png({"invokeai_metadata": '{"generation_mode": "txt2img"}'}),
    "fooocus": png({"fooocus_scheme": "fooocus"}),
    "novelai": png({"Software": "NovelAI", "Source": "Stable Diffusion XL C1E1DA6F"}),
    "midjourney": png({"Description": "a fox --v 6 Job ID: 0b5f7a6c-1234-4f6e-9abc-0123456789ab"}),
    "flux": jpeg({0x0131: "AI generated;txt2img;flux", 0x010F: "Black Forest Labs"}),
    "dall-e": jpeg({0x0131: "DALL-E 3"}),
    "iptc attribute": jpeg(
        xmp=f"<Iptc4xmpExt:DigitalSourceType>{TYPES}trainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType>"
    ),
    "iptc resource": jpeg(xmp=f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{TYPES}trainedAlgorithmicMedia"/>'),
    "google": jpeg(xmp="<photoshop:Credit>Made with Google AI</photoshop:Credit>"),
    "firefly": jpeg(xmp="<xmp:CreatorTool>Adobe Firefly</xmp:CreatorTool>"),
    "tc260 xmp": jpeg(xmp=f"<TC260:AIGC>{LABEL}</TC260:AIGC>"),
    "tc260 png": png({"AIGC": LABEL}),
    "tc260 comment": jpeg({0x9286: b"ASCII\0\0\0" + ('{"AIGC":' + LABEL + "}").encode()}),
    "ai system": jpeg(xmp="<Iptc4xmpExt:AISystemUsed>Imagen 3</Iptc4xmpExt:AISystemUsed>"),
}
INNOCENT = {
    "camera whose name is a generator's": jpeg({0x010F: "FLUX", 0x0110: "Gemini11H Imagen", 0x0131: "Ver.1.00"}),
    "caption about midjourney": jpeg(
        {0x010E: "Midjourney and Stable Diffusion, a talk in Berlin"}, comment=b"ComfyUI meetup"
    ),
    "title and keywords": jpeg(xmp="<dc:title>DALL-E versus Dali</dc:title><dc:subject>Stable Diffusion</dc:subject>"),
    "artist called Leonardo": jpeg({0x013B: "Leonardo Ai", 0x8298: "Adobe Firefly Estate"}),
    "png comment": png({"Comment": "steps to the lighthouse, sampler of cakes", "Title": "Dream"}),
    "software with a similar word": jpeg({0x0131: "Imagenomic Noiseware"}),
    "label that says suspected": png({"AIGC": LABEL.replace('"1"', '"3"')}),
    "unrelated json": png({"prompt": '{"question": "class_type"}', "AIGC": '{"Label": "1"}'}),
    "photoshop": jpeg({0x0131: "Adobe Photoshop 25.1"}),
    "capture": jpeg(xmp=f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{TYPES}digitalCapture"/>'),
}


@pytest.mark.parametrize("name", GENERATED)
def test_a_generator_that_declares_itself_is_found(name: str, to_substrate: Decoder) -> None:
    observation = metadata_source.run(to_substrate(GENERATED[name]))
    assert observation.explanation_key == "watermark.metadata_source.declared_ai"
    assert observation.detected
    assert observation.score == 2.0
    assert observation.details["field"]


@pytest.mark.parametrize("name", INNOCENT)
def test_words_in_other_fields_are_no_declaration(name: str, to_substrate: Decoder) -> None:
    observation = metadata_source.run(to_substrate(INNOCENT[name]))
    assert not observation.detected
    assert observation.score == 0.0


def test_ai_editing_is_told_from_generation(to_substrate: Decoder) -> None:
    credit = jpeg(xmp="<photoshop:Credit>Edited with Google AI</photoshop:Credit>")
    term = jpeg(xmp=f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{TYPES}compositeWithTrainedAlgorithmicMedia"/>')
    for data in (credit, term):
        observation = metadata_source.run(to_substrate(data))
        assert observation.explanation_key == "watermark.metadata_source.declared_ai_edit"


def test_missing_metadata_are_no_evidence(to_substrate: Decoder) -> None:
    for test in (metadata_source.TEST, metadata_software.TEST, metadata_consistency.TEST):
        assert test.run(to_substrate(to_jpeg(PICTURE))).outcome is Outcome.NOT_APPLICABLE


def test_editing_software_is_named_and_not_an_alarm(to_substrate: Decoder) -> None:
    history = (
        "<xmpMM:History><rdf:Seq>"
        '<rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Photoshop CS5"/>'
        '<rdf:li stEvt:action="saved" stEvt:softwareAgent="Adobe Photoshop CS6"/></rdf:Seq></xmpMM:History>'
        "<crs:Exposure2012>+0.35</crs:Exposure2012>"
    )
    observation = metadata_software.run(to_substrate(jpeg({0x0131: "Snapseed 2.0"}, xmp=history)))
    assert observation.explanation_key == "watermark.metadata_software.editor_named"
    assert not observation.detected
    assert observation.score == 2.0
    assert "Snapseed" in observation.details["software"]
    assert observation.details["history"] == "saved (Adobe Photoshop CS5) > saved (Adobe Photoshop CS6)"


@pytest.mark.parametrize(
    "hostile",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&b;</x:xmpmeta>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>",
        b"<a>" * 200 + b"</a>" * 200,
        b"<r>" + b"<a/>" * 60_000 + b"</r>",
        "<?xml version='1.0' encoding='utf-16'?><x/>".encode("utf-16"),
        b"\xff\xfe\x00garbage",
    ],
)
def test_hostile_xmp_is_refused(hostile: bytes) -> None:
    with pytest.raises(XmpError):
        parse_xmp(hostile)


def test_a_picture_with_hostile_xmp_is_still_judged(to_substrate: Decoder) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "a">]><x/>'
    data = jpeg({0x0131: "DALL-E 3"})
    body = b"http://ns.adobe.com/xap/1.0/\0" + bomb.encode()
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert metadata_source.run(to_substrate(data)).detected
    assert "refused" in selected_metadata(to_substrate(data).container)["XMP"]


# --- camera consistency


def camera_file(picture: ByteArray, thumbnail: ByteArray | None, *, size: tuple[int, int] | None = None) -> bytes:
    """A JPEG with EXIF of a camera, EXIF first, with a thumbnail of its own."""
    height, width = picture.shape[:2]
    small = b""
    if thumbnail is not None:
        rows = 160 * thumbnail.shape[0] // thumbnail.shape[1] // 8 * 8
        small = to_jpeg(cv2.resize(thumbnail, (160, rows)).astype(np.uint8), 80)
    block = exif_block(size or (width, height), small)
    data = to_jpeg(picture, 92)
    assert data[2:4] == b"\xff\xe0"  # Pillow's JFIF header, which cameras do not write
    rest = data[4 + struct.unpack(">H", data[4:6])[0] :]
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + rest


def exif_block(size: tuple[int, int], small: bytes) -> bytes:
    make, model = b"Testmaker\0\0\0", b"Model 1\0"
    times = b"2024:05:01 10:00:00\0"
    ifd0, exif, ifd1 = 8, 8 + 2 + 4 * 12 + 4, 8 + 2 + 4 * 12 + 4 + 2 + 3 * 12 + 4
    heap = ifd1 + 2 + 3 * 12 + 4
    offsets = {"make": heap, "model": heap + 12, "time": heap + 20, "thumbnail": heap + 40}

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        return struct.pack("<HHII", tag, kind, count, value)

    zero = struct.pack("<H", 4) + entry(0x010F, 2, 12, offsets["make"]) + entry(0x0110, 2, 8, offsets["model"])
    zero += entry(0x0132, 2, 20, offsets["time"]) + entry(0x8769, 4, 1, exif) + struct.pack("<I", ifd1)
    main = struct.pack("<H", 3) + entry(0x9003, 2, 20, offsets["time"])
    main += entry(0xA002, 4, 1, size[0]) + entry(0xA003, 4, 1, size[1]) + struct.pack("<I", 0)
    first = struct.pack("<H", 3) + entry(0x0103, 3, 1, 6) + entry(0x0201, 4, 1, offsets["thumbnail"])
    first += entry(0x0202, 4, 1, len(small)) + struct.pack("<I", 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", ifd0) + zero + main + first + make + model + times + small


def consistency(to_substrate: Decoder, data: bytes) -> Observation:
    return metadata_consistency.run(to_substrate(data))


def variant(observation: Observation) -> str:
    return observation.explanation_key.rpartition(".")[2]


SCENES = [photo(480, 640, seed) for seed in range(4)]


def test_an_untouched_camera_file_is_consistent(to_substrate: Decoder) -> None:
    for scene in SCENES:
        assert variant(consistency(to_substrate, camera_file(scene, scene))) == "consistent_with_thumbnail"
        assert variant(consistency(to_substrate, camera_file(scene, None))) == "consistent"


def test_an_object_that_the_thumbnail_does_not_show_is_found_and_located(to_substrate: Decoder) -> None:
    for scene in SCENES:
        edited = scene.copy()
        bright = scene[180:300, 260:380].mean() < 110
        cv2.circle(edited, (320, 240), 50, (235, 230, 220) if bright else (15, 20, 25), -1)
        observation = consistency(to_substrate, camera_file(edited, scene))
        assert variant(observation) == "thumbnail_content_differs"
        assert observation.detected
        region = observation.regions[0]
        assert region.x_px <= 320 <= region.x_px + region.width_px
        assert region.y_px <= 240 <= region.y_px + region.height_px
        assert region.width_px < 200


def test_tone_changes_and_recompression_are_not_content(to_substrate: Decoder) -> None:
    for scene in SCENES:
        brighter = np.clip(255 * (scene / 255.0) ** 0.7, 0, 255).astype(np.uint8)
        observation = consistency(
            to_substrate, camera_file(cv2.GaussianBlur(brighter, (0, 0), 1.0).astype(np.uint8), scene)
        )
        assert variant(observation) == "consistent_with_thumbnail"


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_lossless_rotation_is_not_content(turns: int, to_substrate: Decoder) -> None:
    turned = np.ascontiguousarray(np.rot90(SCENES[0], turns))
    observation = consistency(to_substrate, camera_file(turned, SCENES[0], size=(640, 480)))
    assert variant(observation) == "consistent_with_thumbnail"


def test_mirroring_cropping_and_foreign_metadata_are_told_apart(to_substrate: Decoder) -> None:
    scene = SCENES[1]
    mirrored = np.ascontiguousarray(scene[:, ::-1])
    assert variant(consistency(to_substrate, camera_file(mirrored, scene))) == "thumbnail_mirrored"
    cropped = np.ascontiguousarray(scene[100:380, 200:560])
    assert variant(consistency(to_substrate, camera_file(cropped, scene))) == "thumbnail_shows_more"
    assert variant(consistency(to_substrate, camera_file(SCENES[2], scene))) == "thumbnail_of_other_picture"


def test_a_size_that_exif_does_not_announce_is_told(to_substrate: Decoder) -> None:
    observation = consistency(to_substrate, camera_file(SCENES[0], SCENES[0], size=(1280, 960)))
    assert variant(observation) == "size_differs"
    assert not observation.detected


def test_black_bars_of_a_thumbnail_are_not_content(to_substrate: Decoder) -> None:
    wide = SCENES[0][60:420]
    framed = np.zeros((480, 640, 3), dtype=np.uint8)
    framed[60:420] = wide
    observation = consistency(to_substrate, camera_file(np.ascontiguousarray(wide), framed))
    assert variant(observation) == "consistent_with_thumbnail"


def test_segments_and_trailing_bytes_are_read() -> None:
    structure = read_structure(to_jpeg(PICTURE) + b"secret")
    assert structure is not None
    assert structure.segments[0].identifier == "JFIF"
    assert structure.trailing_bytes == 6
    assert read_structure(b"\x89PNG") is None
    assert read_structure(b"\xff\xd8\xff") is not None


def test_selected_metadata_are_short_and_printable(to_substrate: Decoder) -> None:
    long_name = "x" * 500 + "\n\x07"
    data = jpeg({0x010F: "Canon", 0x0110: long_name}, xmp="<xmp:CreatorTool>Tool\n2</xmp:CreatorTool>")
    selected = selected_metadata(to_substrate(data).container)
    assert selected["Make"] == "Canon"
    assert selected["xmp:CreatorTool"] == "Tool 2"
    assert all(len(value) <= LIMIT and value.isprintable() for value in selected.values())


# --- tables and the tool as a whole


def test_a_faulty_rule_is_refused_by_name(tmp_path: Path) -> None:
    table = tmp_path / "rules.toml"
    for line in ('class = "wizard"\nfields = ["EXIF Software"]', 'class = "editor"\nfields = ["Software"]',
                 'class = "editor"\nfields = ["EXIF Software"]\npattern = "("'):  # fmt: skip
        table.write_text(f'[[rule]]\nname = "Odd"\n{line}\n')
        with pytest.raises(ValueError, match="Odd"):
            load_rules(table)


def test_every_policy_key_belongs_to_a_test_and_negative_weights_stay_rare() -> None:
    ids = {test.id for test in TOOL.tests}
    policy = load_policy()
    assert {key.rpartition(".")[0] for key in policy} <= ids
    assert all(entry["why"] for entry in policy.values())
    strong = {key for key, entry in policy.items() if min(entry["manipulated"], entry["ai_generated"]) <= -1.0}
    assert strong == {"watermark.content_credentials.capture_trusted"}
    for name in metadata_consistency.SCORES:
        assert f"watermark.metadata_consistency.{name}" in policy


def test_all_tests_answer_on_every_kind_of_picture(to_substrate: Decoder) -> None:
    pictures = [np.zeros((1, 1, 3)), np.zeros((1, 8000, 3)), np.full((300, 300, 3), 255), PICTURE]
    for pixels in pictures:
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        for test in TOOL.tests:
            observation = test.run(to_substrate(buffer.getvalue()))
            assert np.isfinite(observation.score)
            assert not observation.detected
            assert observation.explanation_key


def test_closed_schemes_are_never_called_absent(to_substrate: Decoder) -> None:
    observation = TOOL.tests[-1].run(to_substrate(png({})))
    assert observation.explanation_key == "not_applicable.closed_scheme"
    assert "SynthID" in observation.reason


def test_the_packaged_table_is_well_formed() -> None:
    rules = packaged_rules()
    assert {rule.kind for rule in rules} == {"generator", "ai_edit", "editor"}
    assert json.dumps([rule.name for rule in rules])


def test_genuine_photos_are_not_accused_by_their_metadata(shared_data: Path, to_substrate: Decoder) -> None:
    for path in sorted((shared_data / "camera").glob("*.jpg"))[::9]:
        substrate = to_substrate(path.read_bytes())
        for test in (metadata_source.TEST, metadata_consistency.TEST):
            assert not test.run(substrate).detected, path.name
